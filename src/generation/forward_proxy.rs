//! Compiled forward proxy of a generation: rules, guard, users, parents, listeners.

mod compile;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::addr::{Destination, Host, HostName, Pattern};
use crate::config::{ForwardLimits, ForwardTimeouts, ProxyProtocol, Span};
use crate::egress::{EgressPolicy, EgressRule, Guard, Observations, Users};
use crate::tls::ServerTls;
use crate::upstream::Endpoint;

use super::ConfigVersion;

pub use compile::{ForwardInputs, compile};

/// The compiled `[forward]` table.
#[derive(Debug)]
pub struct ForwardProxy {
    /// Listeners, in the order of the configuration.
    pub listeners: Vec<Arc<ForwardProxyListener>>,
    /// Rules that allow or deny destinations.
    pub policy: EgressPolicy,
    /// Check of resolved addresses before they are dialled.
    pub guard: Guard,
    /// Accounts for proxy authentication; `None` if no rule requires it.
    pub users: Option<Arc<Users>>,
    /// Indexed by [`crate::config::ParentId`].
    pub parents: Vec<Arc<ParentProxy>>,
    /// Limits on connections and rates.
    pub limits: ForwardLimits,
    /// Timeouts.
    pub timeouts: ForwardTimeouts,
    /// TLS settings towards origins for `GET https://…` requests, which the proxy serves by opening
    /// TLS itself; `None` if such requests are rejected.
    pub origin_tls: Option<Arc<ClientConfig>>,
    /// Static addresses of host names, used instead of DNS.
    pub hosts: HashMap<HostName, Arc<[IpAddr]>>,
    /// Destinations that rules in report mode allowed; kept across reloads.
    pub seen: Arc<Observations>,
    /// Version of the generation, for the log.
    pub config_version: Arc<ConfigVersion>,
}

/// One listener of the forward proxy.
#[derive(Debug)]
pub struct ForwardProxyListener {
    /// Address and port.
    pub address: SocketAddr,
    /// The address as text; its name in logs and metrics.
    pub label: String,
    /// Place of the `listen` key in the configuration.
    pub place: Span,
    /// Balancers that name their clients in a PROXY header.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// TLS between client and proxy; `None` for plain HTTP.
    pub tls: Option<ServerTls>,
}

/// A parent proxy, through which tunnels of the forward proxy are sent.
#[derive(Debug)]
pub struct ParentProxy {
    /// Name in the configuration.
    pub name: String,
    /// Place of its table in the configuration.
    pub place: Span,
    /// Endpoints in order of preference; the one that failed most recently is tried last. Host
    /// names are resolved like those of upstreams.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Value of the `Proxy-Authorization` field to send.
    pub authorization: Option<Secret>,
    /// Destinations that are reached directly, without this parent.
    no_proxy: Vec<Pattern>,
    /// Time limit from the first SYN to the parent's answer.
    pub connect_timeout: Duration,
}

/// A secret value whose `Debug` output is redacted.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// The value, for the wire.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl ForwardProxy {
    /// A copy without rules, for connections that remain after `[forward]` was removed.
    #[must_use]
    pub fn without_rules(&self) -> Self {
        Self {
            listeners: Vec::new(),
            policy: EgressPolicy::default(),
            guard: Guard::new(Vec::new()),
            users: None,
            parents: Vec::new(),
            origin_tls: None,
            hosts: HashMap::new(),
            limits: self.limits.clone(),
            timeouts: self.timeouts.clone(),
            seen: Arc::clone(&self.seen),
            config_version: Arc::clone(&self.config_version),
        }
    }

    /// The parent proxy for a destination under a rule; `None` for a direct connection.
    #[must_use]
    pub fn parent(
        &self,
        rule: &EgressRule,
        destination: &Destination,
    ) -> Option<&Arc<ParentProxy>> {
        let parent = self.parents.get(rule.settings.via?.0)?;
        (!parent.no_proxy.iter().any(|pattern| covers(pattern, &destination.host)))
            .then_some(parent)
    }
}

fn covers(pattern: &Pattern, host: &Host) -> bool {
    match (pattern, host) {
        (Pattern::Exact(pattern), Host::Name(name)) => pattern == name,
        (Pattern::Below(pattern), Host::Name(name)) => {
            name.parents().any(|parent| parent == pattern.as_str())
        }
        (Pattern::Net(net), Host::Addr(ip)) => net.contains(ip),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
