//! Firewall rules derived from the configuration: the product's two port tables for this site.
//!
//! Uses only a checked [`Config`], and does not test whether a port is open.

mod components;
mod inbound;

use serde::Serialize;

use crate::config::{Config, DoctorTarget, is_loopback};

use super::forward_proxy;
use super::services::XMPP_PORT;
use inbound::{EGRESS_COMPONENTS, EGRESS_PURPOSE, here};

/// Name of the destination, as in the product's documentation.
const GATEWAY: &str = "App gateway";

/// One line of the request to the firewall's administrators. The source port is always any.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FirewallRule {
    /// Source of the connections.
    pub source: String,
    /// Destination: a role, and an address if there is one.
    pub destination: String,
    /// To which port or range.
    pub port: String,
    /// In which protocol.
    pub protocol: &'static str,
    /// `public` (from or to the internet) or `private`.
    pub scope: &'static str,
    /// Purpose of the connections.
    pub purpose: String,
}

/// The columns of the table.
pub const COLUMNS: [&str; 6] = ["Source", "Destination", "Port", "Protocol", "Scope", "What for"];

impl FirewallRule {
    fn new(
        [source, destination]: [&str; 2],
        port: impl Into<String>,
        [protocol, scope]: [&'static str; 2],
        purpose: impl Into<String>,
    ) -> Self {
        Self {
            source: source.to_owned(),
            destination: destination.to_owned(),
            port: port.into(),
            protocol,
            scope,
            purpose: purpose.into(),
        }
    }

    /// In the order of [`COLUMNS`].
    #[must_use]
    pub fn cells(&self) -> Vec<String> {
        [&self.source, &self.destination, &self.port, self.protocol, self.scope, &self.purpose]
            .map(|cell: &str| cell.to_owned())
            .to_vec()
    }
}

/// The request to the firewall's administrators.
#[derive(Debug, Default)]
pub struct FirewallTable {
    /// Everything that has to be open, as far as it is known.
    pub openings: Vec<FirewallRule>,
    /// Keys of `[doctor]` that would add more.
    pub missing: Vec<&'static str>,
    /// Profiles and `[tcp.NAME]` tables behind balancers whose own addresses are not known.
    pub unknown: Vec<String>,
    /// Loopback addresses, which no firewall is between: listeners and endpoints, each with its use.
    pub local: Vec<String>,
}

impl FirewallTable {
    /// Derives the firewall rules of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut table = Self::default();
        inbound::add(config, &mut table);
        components::add(config, &mut table);
        outwards(config, &mut table.openings);
        let public = |name| config.doctor.public_profiles.contains(name);
        if config.doctor.fqdn.is_none() && table.unknown.iter().any(public) {
            table.missing.push("fqdn");
        }
        let besides = besides(config, &mut table.openings);
        table.missing.extend(besides);
        if let Some(admin) = config.admin.as_ref().filter(|admin| is_loopback(admin.listen.ip())) {
            table.local.push(format!("{} (admin listener)", admin.listen));
        }
        table
    }
}

fn outwards(config: &Config, all: &mut Vec<FirewallRule>) {
    let label = match (&config.doctor.proxy, &config.forward) {
        (Some(proxy), _) => format!("Forward proxy ({})", proxy.host),
        (None, Some(_)) => format!("{GATEWAY}, forward proxy"),
        (None, None) => return,
    };
    if let Some(proxy) = &config.doctor.proxy {
        for source in EGRESS_COMPONENTS {
            let port = proxy.port.to_string();
            all.push(FirewallRule::new([source, &label], port, ["TCP", "private"], EGRESS_PURPOSE));
        }
    }
    for platform in &forward_proxy::platforms(config) {
        let purpose = "messages and files, through the proxy";
        all.push(FirewallRule::new(
            [&label, &platform.host],
            platform.port.to_string(),
            ["HTTPS", "public"],
            purpose,
        ));
    }
}

fn besides(config: &Config, all: &mut Vec<FirewallRule>) -> Vec<&'static str> {
    let doctor = &config.doctor;
    let mut missing = Vec::new();
    let (first, last) = doctor.relay_ports;
    let mut each = |key: &'static str,
                    targets: &[DoctorTarget],
                    make: &dyn Fn(&DoctorTarget) -> Vec<FirewallRule>| {
        if targets.is_empty() {
            missing.push(key);
        }
        all.extend(targets.iter().flat_map(make));
    };
    let opening =
        |from: &str, role: &str, (target, port): (&DoctorTarget, String), kind, purpose: &str| {
            FirewallRule::new([from, &format!("{role} ({})", target.host)], port, kind, purpose)
        };
    each("sql", &doctor.sql, &|to| {
        vec![opening(
            "Hybrid Chat",
            "MS SQL Server",
            (to, to.port.to_string()),
            ["TCP", "private"],
            "reports",
        )]
    });
    each("smpp", &doctor.smpp, &|to| {
        let to = (to, to.port.to_string());
        vec![opening(
            "Customer Channel Manager",
            "SMPP gateway",
            to,
            ["TCP", "private"],
            "SMS, both ways",
        )]
    });
    each("turn", &doctor.turn, &|to| {
        let (port, range) = ((to, to.port.to_string()), (to, format!("{first}-{last}")));
        vec![
            opening(
                "Customers and agents",
                "TURN server",
                port,
                ["TCP/UDP", "public"],
                "setting up web calls",
            ),
            opening(
                "Customers and agents",
                "TURN server",
                range,
                ["UDP", "public"],
                "sound and picture of web calls",
            ),
        ]
    });
    each("finesse", &doctor.finesse, &|to| {
        let (rest, xmpp) = (to.port.to_string(), XMPP_PORT.to_string());
        let (https, tcp) = (["HTTPS", "private"], ["XMPP", "private"]);
        vec![
            opening(
                "Communication Server",
                "Cisco Finesse",
                (to, rest.clone()),
                https,
                "agents' states",
            ),
            opening(
                "User Management Module",
                "Cisco Finesse",
                (to, rest),
                https,
                "synchronising agents",
            ),
            opening(
                "Communication Server",
                "Cisco Finesse",
                (to, xmpp),
                tcp,
                "agents' states, as they change",
            ),
        ]
    });
    each("install", &doctor.install, &|to| {
        let protocol = if to.port == 443 { "HTTPS" } else { "TCP" };
        let to = (to, to.port.to_string());
        vec![opening(
            "Hybrid Chat",
            "Expertflow",
            to,
            [protocol, "public"],
            "installing and updating",
        )]
    });
    all.extend(metrics(config));
    missing
}

/// The scraper's way to an admin listener that other hosts can reach.
fn metrics(config: &Config) -> Option<FirewallRule> {
    let admin = config.admin.as_ref().filter(|admin| !is_loopback(admin.listen.ip()))?;
    let (destination, port) = (here(admin.listen), admin.listen.port().to_string());
    let scope = ["HTTP", "private"];
    Some(FirewallRule::new(["Prometheus", &destination], port, scope, "metrics and health"))
}

// --- As text ----------------------------------------------------------------------------------

/// Formats the rules as comma-separated values (RFC 4180), with a heading.
#[must_use]
pub fn csv(openings: &[FirewallRule]) -> String {
    let head: Vec<String> = COLUMNS.map(str::to_owned).to_vec();
    let rows = std::iter::once(head).chain(openings.iter().map(FirewallRule::cells));
    let line = |row: Vec<String>| row.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(",");
    rows.map(|row| line(row) + "\r\n").collect()
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

/// Formats the rules as a Markdown table.
#[must_use]
pub fn markdown(openings: &[FirewallRule]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | ").replace('\n', " "));
    let head = line(&COLUMNS.map(str::to_owned));
    let rule = line(&COLUMNS.map(|_| "---".to_owned()));
    let rows = openings.iter().map(|opening| {
        let cells: Vec<_> = opening.cells().iter().map(|cell| cell.replace('|', "\\|")).collect();
        line(&cells)
    });
    head + &rule + &rows.collect::<String>()
}

#[cfg(test)]
mod tests;
