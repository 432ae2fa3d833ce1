//! Firewall rules from the gateway to endpoints, for requests and for health checks.
//!
//! There is one row for each use of each port, and none for endpoints on this host.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{
    Action, CheckKind, Config, DoctorTarget, Endpoint, HealthCheck, Profile, Tcp, Upstream,
    UpstreamId, is_loopback,
};

use super::inbound::passed_on;
use super::{FirewallRule, FirewallTable, GATEWAY};

/// Adds the rows of every upstream.
pub(super) fn add(config: &Config, table: &mut FirewallTable) {
    for (index, upstream) in config.upstreams.iter().enumerate() {
        let uses = UpstreamUses::of(config, UpstreamId(index));
        for endpoint in &upstream.endpoints {
            if is_local(&endpoint.host) {
                let (host, port) = (endpoint.host.clone(), endpoint.port);
                let label = DoctorTarget { place: None, host, port }.label();
                table.local.push(format!("{label} (upstream {})", upstream.name));
            } else {
                uses.add((upstream, endpoint), table);
            }
        }
    }
}

/// Routes and services that use an upstream.
struct UpstreamUses<'a> {
    id: UpstreamId,
    profiles: Vec<&'a str>,
    passed: Vec<&'a Tcp>,
    compared: bool,
}

impl<'a> UpstreamUses<'a> {
    fn of(config: &'a Config, id: UpstreamId) -> Self {
        let proxied =
            |action: &Action| matches!(action, Action::Proxy { upstream, .. } if *upstream == id);
        let leads = |profile: &&Profile| profile.routes.iter().any(|route| proxied(&route.action));
        let passes = |tcp: &&Tcp| tcp.routes.iter().any(|route| route.upstream == id);
        Self {
            id,
            profiles: config.profiles.iter().filter(leads).map(|p| p.name.as_str()).collect(),
            passed: config.tcp.iter().filter(passes).collect(),
            compared: config.drift.as_ref().is_some_and(|drift| drift.peers.contains(&id)),
        }
    }

    fn add(&self, (upstream, endpoint): (&Upstream, &Endpoint), table: &mut FirewallTable) {
        let (host, port) = (&endpoint.host, endpoint.port);
        let hybrid_chat = format!("Hybrid Chat ({host})");
        let own = format!("{} ({host})", upstream.name);
        let mut asked: BTreeSet<u16> = BTreeSet::new();
        let mut add = |[source, to]: [&str; 2], port: u16, protocol, purpose: &str| {
            asked.insert(port);
            let kind = [protocol, "private"];
            table.openings.push(FirewallRule::new([source, to], port.to_string(), kind, purpose));
        };
        let protocol = if endpoint.tls { "HTTPS" } else { "HTTP" };
        if !self.profiles.is_empty() {
            add([&from(&self.profiles), &hybrid_chat], port, protocol, &upstream.name);
        }
        for ((port, purpose), names) in self.ports_of(endpoint) {
            add([&from(&names), &own], port, "TCP", purpose);
        }
        if self.compared {
            let to = format!("Other gateway ({host})");
            add([GATEWAY, &to], port, protocol, "comparison of configurations (drift)");
        }
        let Some(check) = &upstream.check else { return };
        let port = check.port.unwrap_or(port);
        if !asked.contains(&port) {
            let to = if self.profiles.is_empty() { &own } else { &hybrid_chat };
            let purpose = format!("health check of {}", upstream.name);
            let kind = [protocol_of(check, endpoint), "private"];
            table.openings.push(FirewallRule::new([GATEWAY, to], port.to_string(), kind, purpose));
        }
    }

    /// The ports of an endpoint that connections are passed on to, and by which tables.
    fn ports_of(&self, endpoint: &Endpoint) -> BTreeMap<(u16, &'static str), Vec<&'a str>> {
        let mut all: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for &tcp in &self.passed {
            let own = tcp.routes.iter().filter(|route| route.upstream == self.id);
            let ports: BTreeSet<u16> = own
                .flat_map(|route| {
                    let same = tcp.listeners.iter().filter(|_| route.same_port);
                    let other = (!route.same_port).then_some(endpoint.port);
                    same.map(|listener| listener.listen.port()).chain(other)
                })
                .collect();
            for port in ports {
                all.entry((port, passed_on(tcp))).or_default().push(&tcp.name);
            }
        }
        all
    }
}

fn from(names: &[&str]) -> String {
    if names.is_empty() {
        GATEWAY.to_owned()
    } else {
        format!("{GATEWAY}, {}", names.join(" and "))
    }
}

fn protocol_of(check: &HealthCheck, endpoint: &Endpoint) -> &'static str {
    match check.kind {
        CheckKind::Http { .. } if endpoint.tls && !check.plain => "HTTPS",
        CheckKind::Http { .. } => "HTTP",
        CheckKind::Tcp | CheckKind::Tls => "TCP",
    }
}

/// Whether a packet there never meets a firewall.
fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_on_this_host_needs_no_opening() {
        assert!(is_local("127.0.0.2") && is_local("::1") && is_local("localhost"));
        assert!(!is_local("10.0.0.5") && !is_local("chat.example.com"));
    }
}
