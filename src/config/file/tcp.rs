//! File types of `[tcp.NAME]`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Maybe, ProxyProtocolFile, Written};

/// Passthrough: connections forwarded to an upstream without terminating TLS. This is the work of a
/// balancer in front of two sites. Connections that no route takes are rejected.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TcpFile {
    /// Networks of clients that may connect, e.g. `"10.0.0.0/8"`, or addresses. Default: any.
    pub clients: Maybe<Vec<Written<String>>>,
    /// Write access-log lines for these connections. Default true.
    pub access_log: Maybe<bool>,
    /// Action on open connections to an endpoint that is down, or that is no longer used because of
    /// a failover to the backups, while another endpoint is up. Default `"close"`.
    pub on_failover: Maybe<OnEndpointChangeFile>,
    /// Action on open connections to a backup once the primary endpoints are used again. Default
    /// `"close"`.
    pub on_failback: Maybe<OnEndpointChangeFile>,
    /// Period over which these connections are closed, each at a different time, so that clients do
    /// not all reconnect at once. Default `"10s"`.
    pub close_spread: Maybe<String>,
    /// Limits per listener and client.
    pub limits: Maybe<TcpLimitsFile>,
    /// Time limits.
    pub timeouts: Maybe<TcpTimeoutsFile>,
    /// Addresses to listen on.
    pub listener: Maybe<Vec<Written<TcpListenerFile>>>,
    /// Routes to upstreams. A name is matched against all of them, `"a.example.com"` before
    /// `"*.example.com"`; the order does not matter.
    pub route: Maybe<Vec<Written<TcpRouteFile>>>,
}

/// Action on connections whose endpoint is no longer the one to use.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnEndpointChangeFile {
    /// Close them, spread over `close-spread`.
    Close,
    /// Keep them until the client or the endpoint closes them.
    Keep,
}

/// An address on which passthrough connections are accepted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TcpListenerFile {
    /// Address and port, e.g. `"0.0.0.0:8443"`.
    pub listen: Written<String>,
    /// Balancers in front of this listener, which name the client. Default: none.
    pub proxy_protocol: Maybe<ProxyProtocolFile>,
}

/// A route to an upstream.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TcpRouteFile {
    /// Server names in TLS (SNI): `"chat.example.com"`, or `"*.example.com"` for one more label.
    /// Default: every connection that no other route takes. If no route has names, connections need
    /// not even be TLS.
    pub server_names: Maybe<Vec<Written<String>>>,
    /// The `[upstream.NAME]` of the connections, e.g. `"site-a"`. TLS is not terminated:
    /// certificate settings of the upstream apply to its health checks.
    pub upstream: Written<String>,
    /// Connect to the port that the client used, in place of the endpoint's. Default false.
    pub same_port: Maybe<bool>,
    /// Name in logs and metrics, e.g. `"chat"`. Default: the first of `server-names`, or `any`.
    pub name: Maybe<String>,
}

/// Limits per listener and client.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TcpLimitsFile {
    /// Open connections per listener. Default 20000.
    pub connections: Maybe<i64>,
    /// Open connections per client address (IPv6: per /64) and listener. Default 2000.
    pub connections_per_client: Maybe<i64>,
}

/// Time limits.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TcpTimeoutsFile {
    /// Time from accept to the end of the client's ClientHello. Default `"10s"`.
    pub client_hello: Maybe<String>,
    /// Longest time without data in either direction. Default `"10min"`.
    pub idle: Maybe<String>,
    /// Longest lifetime of a connection; `"0s"`: no limit. Default `"0s"`.
    pub max_lifetime: Maybe<String>,
}
