//! File types of `[upstream.NAME]`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Maybe, Written};

/// A component behind the gateway.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct UpstreamFile {
    /// Addresses, e.g. `"https://10.0.0.5:8444"`, in order of preference: the next is used while
    /// the one before cannot be connected to.
    pub endpoints: Written<Vec<Written<String>>>,
    /// PEM file with the CAs that must have issued its certificate, or with the certificate itself,
    /// which is then trusted for its names, e.g. `"/etc/app-gateway/components-ca.pem"`. Default:
    /// the system's CAs.
    pub ca_file: Maybe<String>,
    /// Instead of a CA: hashes of the permitted public keys, each `"sha256/BASE64"`.
    pub pin: Maybe<Vec<Written<String>>>,
    /// Instead of a CA: `"none"` disables verification of the certificate. `check` warns about it.
    pub verify: Maybe<VerifyFile>,
    /// Name expected in its certificate and sent as SNI, e.g. `"ccm.example.com"`. Default: the
    /// endpoint's host.
    pub server_name: Maybe<String>,
    /// Time from the first SYN to the end of the TLS handshake. Default `"5s"`.
    pub connect_timeout: Maybe<String>,
    /// Time from the end of the request to the first byte of the response, or `"unlimited"`.
    /// Default `"60s"`.
    pub first_byte_timeout: Maybe<String>,
    /// Longest pause inside the body of a response, or `"unlimited"`. Default `"5min"`.
    pub idle_timeout: Maybe<String>,
    /// Time for which an idle connection is kept. Default `"30s"`.
    pub keep_alive: Maybe<String>,
    /// Idle connections kept per worker and endpoint; 0 keeps none. Default 256.
    pub max_idle: Maybe<i64>,
    /// Connection attempts in progress per worker and endpoint. Further ones are queued for at most
    /// `connect-timeout`. Default 32.
    pub max_connecting: Maybe<i64>,
    /// Connections with a request or tunnel, of all workers and endpoints together. Default 20000.
    pub max_connections: Maybe<i64>,
    /// Share of `max-connections` that one client address (IPv6: one /64) may use, in percent.
    /// Default 50.
    pub client_share: Maybe<i64>,
    /// Time for which a request waits for one of `max-connections` to become free, up to `"1min"`;
    /// `"0s"` disables waiting. Default `"1s"`.
    pub queue_timeout: Maybe<String>,
    /// Begin every connection with a PROXY protocol header that names the client: `"v2"`. A
    /// connection then carries requests of one client connection only. Default: no header.
    pub proxy_protocol: Maybe<HeaderVersionFile>,
    /// Endpoints used only while none of `endpoints` is up; the upstream fails back after one of
    /// those has been up for a while, e.g. `["https://10.1.0.5:8444"]`. With backups every endpoint
    /// is checked, at least by a TCP connection.
    pub backup: Maybe<Vec<Written<String>>>,
    /// Load-balancing method. Default `"first"`.
    pub balance: Maybe<BalanceFile>,
    /// A weight for each of `endpoints`, in their order, e.g. `[3, 1]`. Default: 1 each.
    pub weights: Maybe<Vec<Written<i64>>>,
    /// Endpoints that get no new sessions, but keep the existing ones, e.g.
    /// `["https://10.0.0.5:8444"]`.
    pub drain: Maybe<Vec<Written<String>>>,
    /// Endpoints that get no requests at all, e.g. `["https://10.0.0.5:8444"]`.
    pub maintenance: Maybe<Vec<Written<String>>>,
    /// Time over which an endpoint that came up reaches its full share. Default `"0s"`.
    pub slow_start: Maybe<String>,
    /// Method that keeps Socket.IO sessions on their endpoint. Default `"sid"`.
    pub sticky: Maybe<StickyFile>,
    /// Name of a cookie that names the endpoint of a client, for every gateway with the same
    /// `shared-secret-file`: `"__Host-affinity"`. Default: none.
    pub sticky_cookie: Maybe<String>,
    /// Requests per second that may be sent to another endpoint after a failed connection attempt.
    /// Default 100.
    pub retries_per_second: Maybe<i64>,
    /// Temporary removal of an endpoint because requests to it failed.
    pub eject: Maybe<EjectFile>,
    /// Conditions for using the backups and for failing back.
    pub failover: Maybe<FailoverFile>,
    /// Interval between DNS lookups of names in `endpoints` and `backup`, `"1s"` to `"1h"`, e.g.
    /// `"10s"`. Default: that of `[gateway]`.
    pub resolve_interval: Maybe<String>,
    /// Check the health of every endpoint periodically, and send no requests to one that is down.
    /// Default: no checks.
    pub check: Maybe<CheckFile>,
}

/// Health check of every endpoint.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CheckFile {
    /// Kind of check. Default: `"http"` with a `path`, else `"tls"` for `https://` endpoints and
    /// `"tcp"` for others.
    pub kind: Maybe<CheckKindFile>,
    /// Path of a GET, e.g. `"/api/SystemInfo"`.
    pub path: Maybe<String>,
    /// `Host` of that GET, e.g. `"ccm.example.com"`. Default: the endpoint's host and port.
    pub host: Maybe<String>,
    /// Statuses that pass, e.g. `"200-299, 404"`. Default `"200-399"`.
    pub status: Maybe<String>,
    /// Text that the first 64 KiB of the response body must contain, e.g. `"UP"`.
    pub body: Maybe<String>,
    /// Port of the check, on the endpoint's host, e.g. `9145`. Default: the endpoint's.
    pub port: Maybe<i64>,
    /// `false` checks an `https://` endpoint without TLS, for example at the `port` of an admin
    /// listener. Default: as the endpoint. Only with `port`.
    pub tls: Maybe<bool>,
    /// Begin with a PROXY protocol header too, which marks the connection as a check. Default: as
    /// the upstream, unless the check has another `port`.
    pub proxy_protocol: Maybe<bool>,
    /// Time between two checks, plus or minus a tenth; a fifth of it while the results contradict
    /// the state. Default `"5s"`.
    pub interval: Maybe<String>,
    /// Longest duration of a whole check. Default `"2s"`.
    pub timeout: Maybe<String>,
    /// Consecutive successful checks after which an endpoint that was down is up. Default 2.
    pub rise: Maybe<i64>,
    /// Consecutive failed checks after which an endpoint that was up is down. Default 3.
    pub fall: Maybe<i64>,
    /// State of an endpoint before its first check. Default `"up"`.
    pub initial: Maybe<InitialFile>,
}

/// Kind of health check.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum CheckKindFile {
    /// A GET, over TLS if the endpoint is `https://`.
    Http,
    /// A TLS handshake with verification of the certificate.
    Tls,
    /// A TCP connection.
    Tcp,
}

/// State of an endpoint before its first check.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InitialFile {
    /// Up, until `fall` checks have failed.
    Up,
    /// Down, until `rise` checks have succeeded.
    Down,
}

/// Reduced verification of a certificate.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyFile {
    /// No verification: anyone on the path can read and change the traffic.
    None,
}

/// PROXY protocol version of the header that is sent.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HeaderVersionFile {
    /// Version 2.
    V2,
}

/// Load-balancing method.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum BalanceFile {
    /// All requests go to the first endpoint that is up.
    First,
    /// Round robin in proportion to the weights.
    Weighted,
    /// The endpoint with the fewest open requests and WebSockets for its weight.
    LeastConnections,
    /// The endpoint is selected by the client's address, as with `hash $remote_addr consistent` in
    /// nginx.
    Hash,
}

/// Method that keeps Socket.IO sessions on their endpoint.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StickyFile {
    /// The id of the session, learnt from the response that opens it.
    Sid,
    /// Disabled.
    Off,
}

/// Temporary removal of an endpoint because requests to it failed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EjectFile {
    /// Kinds of failures that count: `"connect"`, `"tls"`, `"reset"`, `"timeout"`, `"5xx"`, or a status like
    /// `"503"`. Default `["connect", "tls"]`.
    pub failure_kinds: Maybe<Vec<Written<String>>>,
    /// Number of failures within `window`. Default 1.
    pub count: Maybe<i64>,
    /// Period in which failures are counted. Default `"10s"`.
    pub window: Maybe<String>,
    /// Duration of the first ejection, doubled each time the request that tries the endpoint again
    /// fails. Default `"5s"`.
    pub base_time: Maybe<String>,
    /// Longest duration of an ejection. Default `"30s"`.
    pub max_time: Maybe<String>,
    /// Share of the endpoints that may be ejected at once, in percent; one always stays. Default
    /// 50.
    pub max_percent: Maybe<i64>,
}

/// Conditions for using the backups and for failing back.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FailoverFile {
    /// Consecutive requests that could not connect to any of `endpoints`. Default 3.
    pub failures: Maybe<i64>,
    /// Time for which one of `endpoints` must be up before they are used again, or `"never"`: until
    /// `app-gateway endpoint failback`. Default `"1min"`.
    pub failback_after: Maybe<String>,
}
