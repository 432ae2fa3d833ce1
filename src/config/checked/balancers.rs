//! Balancers in front of a listener.

use ipnet::IpNet;

/// `proxy-protocol` of a listener: who may say who the client is, before the first byte.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProxyProtocol {
    /// The balancers' networks, at least one. Whoever connects from there must send a header.
    pub from: Vec<IpNet>,
    /// What is done with connections from elsewhere. Default: refused.
    pub others: UnlistedPeers,
}

/// What is done with connections that do not come from a balancer. A header is never read from them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UnlistedPeers {
    /// They are closed at once.
    #[default]
    Refuse,
    /// They are served as clients that came directly.
    Direct,
}
