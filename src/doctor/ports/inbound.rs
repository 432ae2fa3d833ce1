//! Firewall rules for connections to the gateway, from clients or from the balancers in front.
//!
//! There is one row for each kind of source, and none for listeners that only this host reaches.
//! Unknown sources are listed separately.

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::addr::special::special;
use crate::config::{
    Config, ForwardListener, Listener, ListenerMode, ProxyProtocol, Tcp, TcpListener,
    UnlistedPeers, is_loopback,
};

use super::{FirewallRule, FirewallTable, GATEWAY};

/// Components that use the forward proxy.
pub(super) const EGRESS_COMPONENTS: [&str; 2] = ["Customer Channel Manager", "File Engine"];
pub(super) const EGRESS_PURPOSE: &str = "calls to Facebook, Viber, Twilio through the proxy";

/// Clients of a listener without configured networks.
const INTERNET_CLIENTS: &str = "Internet: customers' browsers, Facebook, Viber, Twilio";
const LAN_CLIENTS: &str = "LAN: agents, supervisors, administrators";

/// Listeners with the same clients.
struct ListenerGroup<'a> {
    name: &'a str,
    clients: Vec<String>,
    public: bool,
    /// Proxies that speak HTTP; they come beside the clients.
    trusted: &'a [IpNet],
}

/// A listener.
struct InboundRule<'a> {
    listen: SocketAddr,
    balancers: Option<&'a ProxyProtocol>,
    protocol: &'static str,
    purpose: String,
    /// Whether the public name may lead to this listener.
    main: bool,
}

/// The public name and its port, until it is clear where they lead.
type PublicAddress<'a> = Option<(&'a str, u16)>;

/// Adds the rows of everything that listens but the admin listener.
pub(super) fn add(config: &Config, table: &mut FirewallTable) {
    let mut outside: PublicAddress<'_> =
        config.doctor.fqdn.as_deref().map(|fqdn| (fqdn, config.doctor.public_port));
    for profile in &config.profiles {
        let side = ListenerGroup::of(config, &profile.name, &[], &profile.trusted_proxies);
        let rule = |listener| InboundRule::of_profile(config, listener, side.public);
        let rules: Vec<_> = profile.listeners.iter().map(rule).collect();
        side.add(&rules, &mut outside, table);
    }
    for tcp in &config.tcp {
        let side = ListenerGroup::of(config, &tcp.name, &tcp.clients, &[]);
        let rules: Vec<_> =
            tcp.listeners.iter().map(|listener| InboundRule::of_tcp(tcp, listener)).collect();
        side.add(&rules, &mut outside, table);
    }
    // Components that use another proxy do not come here.
    if let (Some(forward), None) = (&config.forward, &config.doctor.proxy) {
        let clients = EGRESS_COMPONENTS.map(str::to_owned).to_vec();
        let side =
            ListenerGroup { name: "the forward proxy", clients, public: false, trusted: &[] };
        let rules: Vec<_> = forward.listeners.iter().map(InboundRule::of_forward).collect();
        side.add(&rules, &mut outside, table);
    }
}

impl<'a> ListenerGroup<'a> {
    fn of(config: &Config, name: &'a str, clients: &[IpNet], trusted: &'a [IpNet]) -> Self {
        let public = config.doctor.public_profiles.iter().any(|one| one == name);
        let who = if public { INTERNET_CLIENTS } else { LAN_CLIENTS };
        let who = if clients.is_empty() { who.to_owned() } else { named(who, clients) };
        Self { name, clients: vec![who], public, trusted }
    }

    fn scope(&self) -> &'static str {
        if self.public { "public" } else { "private" }
    }

    /// Adds the rows of the listeners, and of the balancers in front as far as they are known.
    fn add(
        &self,
        rules: &[InboundRule<'_>],
        outside: &mut PublicAddress<'_>,
        table: &mut FirewallTable,
    ) {
        for rule in rules {
            if is_loopback(rule.listen.ip()) {
                table.local.push(format!("{} ({})", rule.listen, self.name));
            } else {
                self.reach(rule, table);
            }
        }
        let mut balanced = rules.iter().filter(|rule| rule.balancers.is_some()).count();
        let mains = rules.iter().filter(|rule| rule.main && self.public);
        // The one that needs no translation, if there is one.
        let translated =
            |rule: &&InboundRule<'_>| outside.is_some_and(|(_, port)| port != rule.listen.port());
        if let Some(main) = mains.min_by_key(translated)
            && let Some((fqdn, port)) = outside.take()
        {
            balanced -= usize::from(main.balancers.is_some());
            self.lead((fqdn, port), main, table);
        }
        if balanced > 0 {
            table.unknown.push(self.name.to_owned());
        }
    }

    /// Adds the rows for connections from the public name to a listener.
    fn lead(&self, (fqdn, port): (&str, u16), main: &InboundRule<'_>, table: &mut FirewallTable) {
        let own = main.listen.port();
        let purpose = match main.balancers {
            Some(_) => format!("to the load balancer, which connects to port {own} of the gateway"),
            None if own == port => return,
            None => format!("address translation to port {own} of the gateway"),
        };
        for client in &self.clients {
            let kind = [main.protocol, "public"];
            table.openings.push(FirewallRule::new(
                [client, fqdn],
                port.to_string(),
                kind,
                &*purpose,
            ));
        }
    }

    /// Adds the rows of a listener.
    fn reach(&self, rule: &InboundRule<'_>, table: &mut FirewallTable) {
        let (to, port) = (here(rule.listen), rule.listen.port().to_string());
        let mut add = |source: &str, protocol, scope, purpose: &str| {
            let opening = FirewallRule::new([source, &to], &*port, [protocol, scope], purpose);
            table.openings.push(opening);
        };
        let balancers = rule.balancers.map_or(&[][..], |known| &known.from);
        if let Some((balancers, scope)) = self.before("Load balancer", balancers) {
            // A firewall that looks at first bytes sees neither TLS nor HTTP.
            let purpose = format!("{}; begins with the PROXY protocol", rule.purpose);
            add(&balancers, "TCP", scope, &purpose);
        }
        if rule.balancers.is_some_and(|known| known.unlisted == UnlistedPeers::Refuse) {
            return;
        }
        for client in &self.clients {
            add(client, rule.protocol, self.scope(), &rule.purpose);
        }
        if let Some((proxies, scope)) = self.before("Trusted proxy", self.trusted) {
            add(&proxies, rule.protocol, scope, &rule.purpose);
        }
    }

    /// The balancer in front of the gateway: its name with its networks, and the scope of the path
    /// from there; `None` if it is on this host.
    fn before(&self, role: &str, networks: &[IpNet]) -> Option<(String, &'static str)> {
        let away = networks.iter().filter(|net| !is_loopback(net.addr())).copied();
        let away: Vec<IpNet> = away.collect();
        let anywhere = away.iter().any(|net| special(net.addr()).is_none());
        let scope = if anywhere { self.scope() } else { "private" };
        (!away.is_empty()).then(|| (named(role, &away), scope))
    }
}

impl<'a> InboundRule<'a> {
    fn of_profile(config: &Config, listener: &'a Listener, public: bool) -> Self {
        let (protocol, purpose) = match listener.serve {
            ListenerMode::Routes if public => {
                ("HTTPS", "web chat, WebSockets, webhooks, files".to_owned())
            }
            ListenerMode::Routes => {
                ("HTTPS", "agent gadget, WebSockets, administration".to_owned())
            }
            ListenerMode::Component(id) => {
                let name = config.upstreams.get(id.0).map_or("", |upstream| upstream.name.as_str());
                ("HTTPS", format!("{name} on a port of its own"))
            }
            ListenerMode::RedirectToHttps { .. } => ("HTTP", "sends browsers to HTTPS".to_owned()),
        };
        let (listen, balancers) = (listener.listen, listener.proxy_protocol.as_ref());
        Self { listen, balancers, protocol, purpose, main: listener.serve == ListenerMode::Routes }
    }

    fn of_tcp(tcp: &Tcp, listener: &'a TcpListener) -> Self {
        Self {
            listen: listener.listen,
            balancers: listener.proxy_protocol.as_ref(),
            protocol: "TCP",
            purpose: passed_on(tcp).to_owned(),
            main: true,
        }
    }

    fn of_forward(listener: &'a ForwardListener) -> Self {
        Self {
            listen: listener.listen,
            balancers: listener.proxy_protocol.as_ref(),
            protocol: "TCP",
            purpose: EGRESS_PURPOSE.to_owned(),
            main: false,
        }
    }
}

/// Description of the treatment of passthrough connections.
pub(super) fn passed_on(tcp: &Tcp) -> &'static str {
    if tcp.routes.iter().any(|route| !route.server_names.is_empty()) {
        "passed through, TLS not terminated"
    } else {
        "passed through unchanged"
    }
}

/// The gateway, with its address if it listens on one only.
pub(super) fn here(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        GATEWAY.to_owned()
    } else {
        format!("{GATEWAY} ({})", listen.ip())
    }
}

/// A role with its networks; a single address without its length.
fn named(role: &str, networks: &[IpNet]) -> String {
    let one = |net: &IpNet| {
        let alone = net.prefix_len() == net.max_prefix_len();
        if alone { net.addr().to_string() } else { net.to_string() }
    };
    format!("{role} ({})", networks.iter().map(one).collect::<Vec<_>>().join(", "))
}
