//! The forward proxy of a generation: rules, guard, users, parents, listeners.

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

/// `[forward]`, compiled.
#[derive(Debug)]
pub struct ForwardProxy {
    /// One per listener, in the order of the files.
    pub listeners: Vec<Arc<ForwardProxyListener>>,
    /// Who may go where.
    pub policy: EgressPolicy,
    /// Which addresses may be dialled.
    pub guard: Guard,
    /// Who may log in; `None`: nobody, and no rule asks for it.
    pub users: Option<Arc<Users>>,
    /// By [`crate::config::ParentId`].
    pub parents: Vec<Arc<ParentProxy>>,
    /// How many, how fast.
    pub limits: ForwardLimits,
    /// How long.
    pub timeouts: ForwardTimeouts,
    /// TLS towards origins, where `GET https://…` is served by opening it; `None`: it is not.
    pub origin_tls: Option<Arc<ClientConfig>>,
    /// Names that are not looked up, and what they stand for.
    pub hosts: HashMap<HostName, Arc<[IpAddr]>>,
    /// What rules in report mode have let through; goes on over reloads.
    pub seen: Arc<Observations>,
    /// The generation it belongs to, for the log.
    pub config_version: Arc<ConfigVersion>,
}

/// An address the forward proxy listens on.
#[derive(Debug)]
pub struct ForwardProxyListener {
    /// The address.
    pub address: SocketAddr,
    /// The address as text, its name in logs and metrics.
    pub label: String,
    /// Where `listen` is written.
    pub place: Span,
    /// Balancers that say who the client is.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// TLS between client and proxy; `None`: plain.
    pub tls: Option<ServerTls>,
}

/// A proxy to go through.
#[derive(Debug)]
pub struct ParentProxy {
    /// Its name.
    pub name: String,
    /// Where that is written.
    pub place: Span,
    /// In order of preference. Their names are looked up like those of upstreams; the one that
    /// failed last is tried last.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Value of the `Proxy-Authorization` field to send.
    pub authorization: Option<Secret>,
    /// Destinations connected to directly all the same.
    no_proxy: Vec<Pattern>,
    /// From the first SYN to the parent's answer.
    pub connect_timeout: Duration,
}

/// A value that is sent and never shown.
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
    /// The same without rules: what is left once `[forward]` has gone.
    #[must_use]
    pub fn closed(&self) -> Self {
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

    /// The parent a destination is reached through under a rule; `None`: directly.
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
