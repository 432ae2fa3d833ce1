//! What a firewall has to let through, from the configuration: the product's two port tables as this
//! site has them.
//!
//! In: a checked [`Config`]. Out: [`Opening`]s. Never: looks whether anything is open.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::Serialize;

use crate::config::{Action, Config, Profile, Serve, Target, Tcp, UpstreamId, is_loopback};

use super::outlet;
use super::services::XMPP;

/// Who is reached, in the words of the product's pages.
const GATEWAY: &str = "App gateway";

/// One line of the request to the firewall's administrators. The source port is always any.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Opening {
    /// Who connects.
    pub source: String,
    /// To whom: a role, and an address where there is one.
    pub destination: String,
    /// To which port or range.
    pub port: String,
    /// In which protocol.
    pub protocol: &'static str,
    /// `public` (from or to the internet) or `private`.
    pub scope: &'static str,
    /// What for.
    pub purpose: String,
}

/// The columns of the table.
pub const COLUMNS: [&str; 6] = ["Source", "Destination", "Port", "Protocol", "Scope", "What for"];

impl Opening {
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

/// Everything that has to be open, and the keys of `[doctor]` that would add more.
#[must_use]
pub fn openings(config: &Config) -> (Vec<Opening>, Vec<&'static str>) {
    let mut all = Vec::new();
    for profile in &config.profiles {
        inwards(config, profile, &mut all);
    }
    for index in 0..config.upstreams.len() {
        behind(config, UpstreamId(index), &mut all);
    }
    for tcp in &config.tcp {
        through(config, tcp, &mut all);
    }
    outwards(config, &mut all);
    let missing = besides(config, &mut all);
    (all, missing)
}

fn is_public(config: &Config, profile: &Profile) -> bool {
    config.doctor.public.contains(&profile.name)
}

fn inwards(config: &Config, profile: &Profile, all: &mut Vec<Opening>) {
    let public = is_public(config, profile);
    let (source, scope) = if public {
        ("Internet: customers' browsers, Facebook, Viber, Twilio", "public")
    } else {
        ("LAN: agents, supervisors, administrators", "private")
    };
    for listener in profile.listeners.iter().filter(|l| !is_loopback(l.listen.ip())) {
        let (protocol, purpose) = match listener.serve {
            Serve::Routes if public => {
                ("HTTPS", "web chat, WebSockets, webhooks, files".to_owned())
            }
            Serve::Routes => ("HTTPS", "agent gadget, WebSockets, administration".to_owned()),
            Serve::Component(id) => {
                let name = config.upstreams.get(id.0).map_or("", |upstream| upstream.name.as_str());
                ("HTTPS", format!("{name} on a port of its own"))
            }
            Serve::RedirectToHttps { .. } => ("HTTP", "sends browsers to HTTPS".to_owned()),
        };
        let destination = here(listener.listen);
        let port = listener.listen.port().to_string();
        all.push(Opening::new([source, &destination], port, [protocol, scope], purpose));
    }
    let outside = config.doctor.public_port;
    let main = profile.listeners.iter().find(|listener| listener.serve == Serve::Routes);
    if let (true, Some(fqdn), Some(main)) = (public, &config.doctor.fqdn, main)
        && main.listen.port() != outside
    {
        let purpose = format!("address translation to port {} of the gateway", main.listen.port());
        all.push(Opening::new([source, fqdn], outside.to_string(), ["HTTPS", "public"], purpose));
    }
}

/// What is passed through: to the gateway, from it to the sites, and what asks whether they are well.
fn through(config: &Config, tcp: &Tcp, all: &mut Vec<Opening>) {
    let (source, scope) = if config.doctor.public.contains(&tcp.name) {
        ("Internet: customers' browsers, Facebook, Viber, Twilio", "public")
    } else {
        ("LAN: agents, supervisors, administrators", "private")
    };
    for listener in tcp.listeners.iter().filter(|l| !is_loopback(l.listen.ip())) {
        let port = listener.listen.port().to_string();
        let to = [source, &here(listener.listen)];
        all.push(Opening::new(to, port, ["TCP", scope], "passed through, TLS unopened"));
    }
    let from = format!("{GATEWAY}, {}", tcp.name);
    for route in &tcp.routes {
        let Some(upstream) = config.upstreams.get(route.upstream.0) else { continue };
        for endpoint in upstream.endpoints.iter().filter(|endpoint| !is_local(&endpoint.host)) {
            let check = upstream.check.as_ref().map(|check| check.port.unwrap_or(endpoint.port));
            let ports: BTreeSet<u16> = if route.same_port {
                tcp.listeners.iter().map(|listener| listener.listen.port()).collect()
            } else {
                [endpoint.port].into()
            };
            let to = format!("{} ({})", upstream.name, endpoint.host);
            for port in &ports {
                let opening = [from.as_str(), &to];
                let purpose = "passed through, TLS unopened";
                all.push(Opening::new(opening, port.to_string(), ["TCP", "private"], purpose));
            }
            if let Some(port) = check.filter(|port| !ports.contains(port)) {
                let opening = [from.as_str(), &to];
                let purpose = "asks whether it is well";
                all.push(Opening::new(opening, port.to_string(), ["TCP", "private"], purpose));
            }
        }
    }
}

fn here(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        GATEWAY.to_owned()
    } else {
        format!("{GATEWAY} ({})", listen.ip())
    }
}

fn behind(config: &Config, id: UpstreamId, all: &mut Vec<Opening>) {
    let Some(upstream) = config.upstreams.get(id.0) else { return };
    let leads = |profile: &&Profile| {
        profile
            .routes
            .iter()
            .any(|route| matches!(route.action, Action::Proxy { upstream, .. } if upstream == id))
    };
    let profiles: Vec<_> = config.profiles.iter().filter(leads).map(|p| p.name.as_str()).collect();
    if profiles.is_empty() {
        return;
    }
    let source = format!("{GATEWAY}, {}", profiles.join(" and "));
    for endpoint in upstream.endpoints.iter().filter(|endpoint| !is_local(&endpoint.host)) {
        let protocol = if endpoint.tls { "HTTPS" } else { "HTTP" };
        let destination = format!("Hybrid Chat ({})", endpoint.host);
        let scope = [protocol, "private"];
        all.push(Opening::new(
            [&source, &destination],
            endpoint.port.to_string(),
            scope,
            &upstream.name,
        ));
    }
}

/// Whether a packet there never meets a firewall.
fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(is_loopback)
}

fn outwards(config: &Config, all: &mut Vec<Opening>) {
    let Some(proxy) = outlet::proxy(config) else { return };
    let label = format!("Forward proxy ({})", proxy.host);
    let through = "calls to Facebook, Viber, Twilio through the proxy";
    for source in ["Customer Channel Manager", "File Engine"] {
        all.push(Opening::new(
            [source, &label],
            proxy.port.to_string(),
            ["TCP", "private"],
            through,
        ));
    }
    for platform in &outlet::platforms(config) {
        let purpose = "messages and files, through the proxy";
        all.push(Opening::new(
            [&label, &platform.host],
            platform.port.to_string(),
            ["HTTPS", "public"],
            purpose,
        ));
    }
}

fn besides(config: &Config, all: &mut Vec<Opening>) -> Vec<&'static str> {
    let doctor = &config.doctor;
    let mut missing = Vec::new();
    let (first, last) = doctor.relay_ports;
    let mut each =
        |key: &'static str, targets: &[Target], make: &dyn Fn(&Target) -> Vec<Opening>| {
            if targets.is_empty() {
                missing.push(key);
            }
            all.extend(targets.iter().flat_map(make));
        };
    let opening =
        |from: &str, role: &str, (target, port): (&Target, String), kind, purpose: &str| {
            Opening::new([from, &format!("{role} ({})", target.host)], port, kind, purpose)
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
        let (rest, xmpp) = (to.port.to_string(), XMPP.to_string());
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
    if let Some(admin) = config.admin.as_ref().filter(|admin| !is_loopback(admin.listen.ip())) {
        let (destination, port) = (here(admin.listen), admin.listen.port().to_string());
        let scope = ["HTTP", "private"];
        all.push(Opening::new(["Prometheus", &destination], port, scope, "metrics and health"));
    }
    missing
}

// --- As text ----------------------------------------------------------------------------------

/// As comma-separated values (RFC 4180), with a heading.
#[must_use]
pub fn csv(openings: &[Opening]) -> String {
    let head: Vec<String> = COLUMNS.map(str::to_owned).to_vec();
    let rows = std::iter::once(head).chain(openings.iter().map(Opening::cells));
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

/// As a table of Markdown.
#[must_use]
pub fn markdown(openings: &[Opening]) -> String {
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
mod tests {
    use super::*;

    #[test]
    fn cells_survive_being_pasted() {
        let opening = Opening::new(["a, b", "say \"c\""], "443", ["HTTPS", "public"], "x|y");
        let openings = [opening];
        assert_eq!(
            csv(&openings),
            "Source,Destination,Port,Protocol,Scope,What for\r\n\"a, b\",\"say \"\"c\"\"\",443,HTTPS,public,x|y\r\n"
        );
        assert!(
            markdown(&openings).ends_with("| a, b | say \"c\" | 443 | HTTPS | public | x\\|y |\n")
        );
    }

    #[test]
    fn what_stays_on_this_host_needs_no_opening() {
        assert!(is_local("127.0.0.2") && is_local("::1") && is_local("localhost"));
        assert!(!is_local("10.0.0.5") && !is_local("chat.example.com"));
    }
}
