//! `[tcp.NAME]`, checked.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::addr::HostPattern;
use crate::config::problem::Span;

use super::{ProxyProtocol, UpstreamId};

/// `[tcp.NAME]`: connections passed through as they are.
#[derive(Debug)]
pub struct Tcp {
    /// `NAME`; no profile is called so.
    pub name: String,
    /// Where the table is.
    pub place: Span,
    /// Networks of clients that may connect; empty: any.
    pub clients: Vec<IpNet>,
    /// Whether it has access-log lines. Default true.
    pub access_log: bool,
    /// What becomes of connections to an endpoint that is down or left. Default [`OnEndpointChange::Close`].
    pub on_down: OnEndpointChange,
    /// What becomes of connections to a backup that is not used any more. Default [`OnEndpointChange::Close`].
    pub on_return: OnEndpointChange,
    /// The time over which they are closed. Default 10 s.
    pub close_over: Duration,
    /// How many.
    pub limits: TcpLimits,
    /// How long.
    pub timeouts: TcpTimeouts,
    /// At least one.
    pub listeners: Vec<TcpListener>,
    /// At least one; no name is in two of them, and at most one has none.
    pub routes: Vec<TcpRoute>,
}

/// What becomes of connections whose endpoint is not the one to use any more.
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
    /// Where `listen` is written.
    pub place: Span,
    /// Address to bind.
    pub listen: SocketAddr,
    /// Balancers in front of it; `None`: there are none.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// `[[tcp.NAME.route]]`.
#[derive(Debug)]
pub struct TcpRoute {
    /// Where `upstream` is written.
    pub place: Span,
    /// Name in logs and metrics; unique within its table.
    pub name: String,
    /// Names in TLS that it takes; empty: what no other route takes.
    pub server_names: Vec<HostPattern>,
    /// Where they go.
    pub upstream: UpstreamId,
    /// To the port that the client came to.
    pub same_port: bool,
}

/// What a client may use.
#[derive(Clone, Copy, Debug)]
pub struct TcpLimits {
    /// Open connections per listener. Default 20,000.
    pub connections: usize,
    /// Open connections per client address (IPv6: per /64) and listener. Default 2,000.
    pub connections_per_client: usize,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct TcpTimeouts {
    /// From accept to the end of the client's hello. Default 10 s.
    pub hello: Duration,
    /// Longest silence, both directions together. Default 10 min.
    pub idle: Duration,
    /// Longest life; zero: no limit. Default zero.
    pub total: Duration,
}
