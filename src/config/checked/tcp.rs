//! Checked form of `[tcp.NAME]`.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::addr::HostPattern;
use crate::config::problem::Span;

use super::{ProxyProtocol, UpstreamId};

/// `[tcp.NAME]`: passthrough listeners and routes.
#[derive(Debug)]
pub struct Tcp {
    /// `NAME`; differs from the names of all profiles.
    pub name: String,
    /// Position of the table.
    pub place: Span,
    /// Networks of clients that may connect; empty: any.
    pub clients: Vec<IpNet>,
    /// Whether access-log lines are written. Default true.
    pub access_log: bool,
    /// Action on connections to an endpoint that is down or no longer used. Default
    /// [`OnEndpointChange::Close`].
    pub on_failover: OnEndpointChange,
    /// Action on connections to a backup that is no longer used. Default
    /// [`OnEndpointChange::Close`].
    pub on_failback: OnEndpointChange,
    /// Period over which they are closed. Default 10 s.
    pub close_spread: Duration,
    /// Limits per listener and client.
    pub limits: TcpLimits,
    /// Time limits.
    pub timeouts: TcpTimeouts,
    /// At least one.
    pub listeners: Vec<TcpListener>,
    /// At least one; no name is in two of them, and at most one has none.
    pub routes: Vec<TcpRoute>,
}

/// Action on connections whose endpoint is no longer the one to use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnEndpointChange {
    /// They are closed.
    Close,
    /// They stay.
    Keep,
}

/// `[[tcp.NAME.listener]]`.
#[derive(Debug)]
pub struct TcpListener {
    /// Position of `listen`.
    pub place: Span,
    /// Address to bind.
    pub listen: SocketAddr,
    /// Balancers in front of it; `None`: there are none.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// `[[tcp.NAME.route]]`.
#[derive(Debug)]
pub struct TcpRoute {
    /// Position of `upstream`.
    pub place: Span,
    /// Name in logs and metrics; unique within its table.
    pub name: String,
    /// Server names in TLS that it takes; empty: connections that no other route takes.
    pub server_names: Vec<HostPattern>,
    /// Destination of the connections.
    pub upstream: UpstreamId,
    /// Connect to the port that the client used.
    pub same_port: bool,
}

/// Limits per listener and client.
#[derive(Clone, Copy, Debug)]
pub struct TcpLimits {
    /// Open connections per listener. Default 20,000.
    pub connections: usize,
    /// Open connections per client address (IPv6: per /64) and listener. Default 2,000.
    pub connections_per_client: usize,
}

/// Time limits.
#[derive(Clone, Copy, Debug)]
pub struct TcpTimeouts {
    /// Time from accept to the end of the client's ClientHello. Default 10 s.
    pub client_hello: Duration,
    /// Longest time without data in either direction. Default 10 min.
    pub idle: Duration,
    /// Longest lifetime; zero: no limit. Default zero.
    pub max_lifetime: Duration,
}
