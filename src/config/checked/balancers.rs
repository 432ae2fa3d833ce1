//! Balancers in front of a listener.

use ipnet::IpNet;

/// `proxy-protocol` of a listener: peers that name the client in a header before its first byte.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProxyProtocol {
    /// The balancers' networks, at least one. Connections from there must begin with a header.
    pub from: Vec<IpNet>,
    /// Treatment of connections from other addresses. Default: rejected.
    pub unlisted: UnlistedPeers,
}

/// Treatment of connections that do not come from a balancer. A header is never read from them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UnlistedPeers {
    /// They are closed at once.
    #[default]
    Refuse,
    /// They are served as direct clients.
    Direct,
}
