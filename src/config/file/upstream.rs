//! `[upstream.NAME]`, as it may be written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Maybe, Written};

/// A component behind the gateway.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct UpstreamFile {
    /// Where it is, e.g. `"https://10.0.0.5:8444"`, in order of preference: the next is used while
    /// the one before cannot be connected to.
    pub endpoints: Written<Vec<Written<String>>>,
    /// PEM file with the CAs its certificate must come from, or with the certificate itself, which
    /// is then trusted for its names. Default: the system's CAs.
    pub ca_file: Maybe<String>,
    /// Instead of a CA: hashes of the public keys it may have, each `"sha256/BASE64"`.
    pub pin: Maybe<Vec<Written<String>>>,
    /// Instead of a CA: `"none"` looks at no certificate at all, and is said loudly.
    pub verify: Maybe<VerifyFile>,
    /// Name looked for in its certificate, and sent as SNI. Default: the endpoint's host.
    pub server_name: Maybe<String>,
    /// From the first SYN to the end of the TLS handshake. Default `"5s"`.
    pub connect_timeout: Maybe<String>,
    /// From the end of the request to the first byte of the answer, or `"unlimited"`. Default
    /// `"60s"`.
    pub first_byte_timeout: Maybe<String>,
    /// Longest silence inside an answer's body, or `"unlimited"`. Default `"5min"`.
    pub idle_timeout: Maybe<String>,
    /// How long an unused connection is kept. Default `"30s"`.
    pub keep_alive: Maybe<String>,
    /// Idle connections kept per worker and endpoint; 0 keeps none. Default 256.
    pub max_idle: Maybe<i64>,
    /// Connections in the making per worker and endpoint; what comes after waits in line, as long
    /// as connecting may take. Default 32.
    pub max_connecting: Maybe<i64>,
    /// Connections with a request or tunnel on them, of all workers and endpoints together. Default
    /// 20000.
    pub max_connections: Maybe<i64>,
    /// Share of `max-connections` that one client address (IPv6: one /64) may have, in percent.
    /// Default 50.
    pub client_share: Maybe<i64>,
    /// How long a request waits for one of `max-connections` to become free, up to `"1min"`; `"0s"`:
    /// not at all. Default `"1s"`.
    pub queue_timeout: Maybe<String>,
    /// Begin every connection with a PROXY protocol header that says who the client is: `"v2"`. A
    /// connection then carries requests of one client connection only. Default: no header.
    pub proxy_protocol: Maybe<HeaderVersionFile>,
    /// Used only while none of `endpoints` is well, and left again only when one has been for a
    /// while. With backups every endpoint is checked, if only by connecting.
    pub backup: Maybe<Vec<Written<String>>>,
    /// How endpoints share the work. Default `"first"`.
    pub balance: Maybe<BalanceFile>,
    /// A share for each of `endpoints`, in their order. Default: 1 each.
    pub weights: Maybe<Vec<Written<i64>>>,
    /// Endpoints that get nothing new, but keep the sessions they have.
    pub drain: Maybe<Vec<Written<String>>>,
    /// Endpoints that get nothing at all.
    pub maintenance: Maybe<Vec<Written<String>>>,
    /// How long an endpoint that came up takes to get its whole share. Default `"0s"`.
    pub slow_start: Maybe<String>,
    /// How Socket.IO sessions stay on their endpoint. Default `"sid"`.
    pub sticky: Maybe<StickyFile>,
    /// Name of a cookie that says which endpoint a client is on, to every gateway with the same
    /// `shared-secret-file`: `"__Host-seat"`. Default: none.
    pub sticky_cookie: Maybe<String>,
    /// Requests per second that may go to another endpoint because one could not be connected to.
    /// Default 100.
    pub retries: Maybe<i64>,
    /// When an endpoint is left out for a while because of what requests met there.
    pub eject: Maybe<EjectFile>,
    /// When the backups are used, and for how long.
    pub fail_over: Maybe<FailOverFile>,
    /// How often names in `endpoints` and `backup` are looked up again, `"1s"` to `"1h"`. Default:
    /// as `[gateway]` says.
    pub resolve_every: Maybe<String>,
    /// Ask every endpoint again and again whether it is well, and send nothing to one that is not.
    /// Default: not asked.
    pub check: Maybe<CheckFile>,
}

/// How every endpoint is asked whether it is well.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CheckFile {
    /// What is asked. Default: `"http"` with a `path`, else `"tls"` for `https://` endpoints and
    /// `"tcp"` for others.
    pub kind: Maybe<CheckKindFile>,
    /// Path of a GET, e.g. `"/api/SystemInfo"`.
    pub path: Maybe<String>,
    /// `Host` of that GET. Default: the endpoint's host and port.
    pub host: Maybe<String>,
    /// Statuses that are well, e.g. `"200-299, 404"`. Default `"200-399"`.
    pub status: Maybe<String>,
    /// What the first 64 KiB of the answer's body must contain.
    pub body: Maybe<String>,
    /// Port that is asked, on the endpoint's host. Default: the endpoint's.
    pub port: Maybe<i64>,
    /// `false` asks an `https://` endpoint in the clear, at the `port` of an admin listener, say.
    /// Default: as the endpoint is. Only with `port`.
    pub tls: Maybe<bool>,
    /// Begin with the PROXY protocol too, saying that it is a check. Default: as the upstream does,
    /// unless another `port` is asked.
    pub proxy_protocol: Maybe<bool>,
    /// Time between two checks, give or take a tenth; a fifth of it while the results do not agree
    /// with the state. Default `"5s"`.
    pub every: Maybe<String>,
    /// How long a check may take, all of it. Default `"2s"`.
    pub timeout: Maybe<String>,
    /// Good checks in a row until an endpoint that was down is up. Default 2.
    pub rise: Maybe<i64>,
    /// Bad checks in a row until an endpoint that was up is down. Default 3.
    pub fall: Maybe<i64>,
    /// What an endpoint is taken for before it was checked. Default `"up"`.
    pub initial: Maybe<InitialFile>,
}

/// What is asked of an endpoint.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum CheckKindFile {
    /// A GET, over TLS if the endpoint is `https://`.
    Http,
    /// A TLS handshake, its certificate verified.
    Tls,
    /// A TCP connection.
    Tcp,
}

/// What an endpoint is taken for before it was checked.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InitialFile {
    /// Well, until `fall` checks were bad.
    Up,
    /// Not well, until `rise` checks were good.
    Down,
}

/// How little a certificate is verified.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyFile {
    /// Anyone on the path can read and change the traffic.
    None,
}

/// A version of the PROXY protocol that is sent.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HeaderVersionFile {
    /// Version 2.
    V2,
}

/// How endpoints share the work.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum BalanceFile {
    /// The first that is well gets all of it.
    First,
    /// By turns, each as often as its weight says.
    Weighted,
    /// The one with the fewest open requests and WebSockets for its weight.
    LeastConnections,
    /// By the client's address, as nginx does with `hash $remote_addr consistent`.
    Hash,
}

/// How Socket.IO sessions stay on their endpoint.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StickyFile {
    /// By the session's id, learnt from the answer that opens it.
    Sid,
    /// Not at all.
    Off,
}

/// When an endpoint is left out for a while because of what requests met there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EjectFile {
    /// What counts: `"connect"`, `"tls"`, `"reset"`, `"timeout"`, `"5xx"`, or a status like
    /// `"503"`. Default `["connect", "tls"]`.
    pub on: Maybe<Vec<Written<String>>>,
    /// How often within `window`. Default 1.
    pub errors: Maybe<i64>,
    /// Default `"10s"`.
    pub window: Maybe<String>,
    /// How long it is left out the first time; twice as long each time the request that tries it
    /// then fails. Default `"5s"`.
    pub time: Maybe<String>,
    /// How long at most. Default `"30s"`.
    pub longest: Maybe<String>,
    /// Share of the endpoints that may be left out, in percent; one always stays. Default 50.
    pub most: Maybe<i64>,
}

/// When the backups are used, and for how long.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FailOverFile {
    /// Requests in a row that could not connect to any of `endpoints`. Default 3.
    pub failures: Maybe<i64>,
    /// How long one of `endpoints` must be well until they are used again, or `"never"`: until
    /// `app-gateway endpoint return`. Default `"1min"`.
    pub return_after: Maybe<String>,
}
