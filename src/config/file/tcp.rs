//! `[tcp.NAME]`, as it may be written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Maybe, ProxyProtocolFile, Written};

/// Connections passed through to an upstream as they are, TLS unopened: what a balancer in front of
/// two sites does. What no route takes is refused.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TcpFile {
    /// Networks of clients that may connect, e.g. `"10.0.0.0/8"`, or addresses. Default: any.
    pub clients: Maybe<Vec<Written<String>>>,
    /// Write access-log lines for its connections. Default true.
    pub access_log: Maybe<bool>,
    /// What becomes of open connections to an endpoint that is down, or whose side is left for the
    /// backups, while another endpoint is up. Default `"close"`.
    pub on_down: Maybe<FateFile>,
    /// What becomes of open connections to a backup once the primary endpoints are used again.
    /// Default `"close"`.
    pub on_return: Maybe<FateFile>,
    /// The time over which they are closed, each at a moment of its own, so that clients do not all
    /// come back at once. Default `"10s"`.
    pub close_over: Maybe<String>,
    /// What a client may use.
    pub limits: Maybe<TcpLimitsFile>,
    /// How long things may take.
    pub timeouts: Maybe<TcpTimeoutsFile>,
    /// Addresses it listens on.
    pub listener: Maybe<Vec<Written<TcpListenerFile>>>,
    /// Where connections go. A name is looked for in all of them, `"a.example.com"` before
    /// `"*.example.com"`; the order does not matter.
    pub route: Maybe<Vec<Written<TcpRouteFile>>>,
}

/// What becomes of connections whose endpoint is not the one to use any more.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FateFile {
    /// They are closed, over `close-over`.
    Close,
    /// They stay until one of their ends closes them.
    Keep,
}

/// An address connections are taken on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TcpListenerFile {
    /// Address and port, e.g. `"0.0.0.0:8443"`.
    pub listen: Written<String>,
    /// Balancers in front of this listener, which say who the client is. Default: none.
    pub proxy_protocol: Maybe<ProxyProtocolFile>,
}

/// Where connections go.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TcpRouteFile {
    /// Names that clients ask for in TLS (SNI): `"chat.example.com"`, or `"*.example.com"` for one
    /// label more. Default: every connection that no other route takes. If no route has names,
    /// connections need not even be TLS.
    pub server_names: Maybe<Vec<Written<String>>>,
    /// The `[upstream.NAME]` they go to. TLS passes through: what the upstream's table says about
    /// certificates is for its checks.
    pub upstream: Written<String>,
    /// Connect to the port that the client came to, in place of the endpoint's. Default false.
    pub same_port: Maybe<bool>,
    /// Name in logs and metrics. Default: the first of `server-names`, or `any`.
    pub name: Maybe<String>,
}

/// What a client may use.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TcpLimitsFile {
    /// Open connections per listener. Default 20000.
    pub connections: Maybe<i64>,
    /// Open connections per client address (IPv6: per /64) and listener. Default 2000.
    pub connections_per_client: Maybe<i64>,
}

/// How long things may take.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TcpTimeoutsFile {
    /// From accept to the end of the client's first TLS message. Default `"10s"`.
    pub hello: Maybe<String>,
    /// Longest silence, both directions together. Default `"10min"`.
    pub idle: Maybe<String>,
    /// Longest life of a connection; `"0s"`: no limit. Default `"0s"`.
    pub total: Maybe<String>,
}
