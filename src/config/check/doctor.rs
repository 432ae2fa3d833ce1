//! `[doctor]`: further targets to test.
//!
//! Produces a [`Doctor`], which is empty without a table. No name is resolved and nothing is
//! connected to.

use std::time::Duration;

use crate::addr::HostPattern;
use crate::config::checked::{Doctor, DoctorTarget};
use crate::config::deserialize::NamedTable;
use crate::config::file::{DoctorFile, Written};
use crate::config::problem::{Problem, Span};
use crate::config::wording;

use super::Checker;
use super::upstream::split_port;

/// Hosts that the components call, unless the file names others.
const PLATFORMS: [&str; 3] = ["graph.facebook.com", "chatapi.viber.com", "api.twilio.com"];

/// The relay range of the product's TURN server.
const TURN_RELAY_PORTS: (u16, u16) = (49_152, 49_252);

type List = Option<Written<Vec<Written<String>>>>;

impl Checker<'_> {
    /// `names` are those of the upstreams and of the profiles.
    pub(super) fn doctor(
        &mut self,
        items: &[NamedTable<DoctorFile>],
        [upstreams, profiles]: [&[&str]; 2],
    ) -> Doctor {
        self.report_duplicates("doctor", items.iter().map(|item| (item.name.as_str(), item.place)));
        let nothing = DoctorFile::default();
        let item = items.first();
        self.file = item.map_or(0, |item| item.place.file);
        let body = item.and_then(|item| item.body.as_ref()).unwrap_or(&nothing);
        let second = Duration::from_secs(1);
        let port = self.number(body.public_port.as_ref(), 443, 1..=65_535);
        Doctor {
            timeout: self.duration(body.timeout.as_ref(), 5 * second, second / 10..=60 * second),
            fqdn: body.fqdn.as_ref().and_then(|written| self.fqdn(written)),
            public_port: u16::try_from(port).unwrap_or(443),
            public_profiles: self.public_profiles(&body.public_profiles, profiles),
            proxy: body.proxy.as_ref().and_then(|written| self.target(written, 3128)),
            platforms: match &body.platforms {
                Some(_) => self.targets(&body.platforms, 443),
                None => PLATFORMS.map(by_default).to_vec(),
            },
            sql: self.targets(&body.sql, 1433),
            smpp: self.targets(&body.smpp, 2775),
            turn: self.targets(&body.turn, 3478),
            relay_ports: self.relay_ports(body.relay_ports.as_ref()),
            finesse: self.targets(&body.finesse, 8445),
            finesse_ca: body
                .finesse_ca_file
                .as_ref()
                .and_then(|written| self.readable(written, "CA file")),
            install: self.targets(&body.install, 443),
            peers: self.targets(&body.peers, 443),
            health: self.health(body, upstreams),
        }
    }

    fn fqdn(&mut self, written: &Written<String>) -> Option<String> {
        let (said, help) = match HostPattern::parse(&written.value) {
            Ok(name) if name.as_str().contains('*') => {
                ("one name, not a pattern".to_owned(), "name the host that customers use")
            }
            Ok(name) if name.as_str().parse::<std::net::IpAddr>().is_ok() => (
                "an address, not a name".to_owned(),
                "no public authority certifies addresses for this: write the name",
            ),
            Ok(name) => return Some(name.as_str().to_owned()),
            Err(said) => (said, "write it like `chat.example.com`; the port is `public-port`"),
        };
        let message = format!("`{}` is not a public name", written.value);
        let problem = Problem::error("doctor.fqdn", self.place(written), message);
        self.found.push(problem.with_label(said).with_help(help));
        None
    }

    fn public_profiles(&mut self, list: &List, profiles: &[&str]) -> Vec<String> {
        let Some(list) = list else { return vec!["internet".to_owned()] };
        for written in &list.value {
            if !profiles.contains(&written.value.as_str()) {
                self.unknown_name("profile", &written.value, self.place(written), profiles);
            }
        }
        list.value.iter().map(|written| written.value.clone()).collect()
    }

    fn unknown_name(&mut self, kind: &str, name: &str, place: Span, known: &[&str]) {
        let label = wording::nearest(name, known.iter().copied()).map_or_else(
            || format!("there is {}", known.join(", ")),
            |n| format!("did you mean `{n}`?"),
        );
        let message = format!("no {kind} is called `{name}`");
        let code = if kind == "profile" { "doctor.profile" } else { "doctor.health" };
        // A warning, because serving does not depend on the target.
        self.found.push(Problem::warning(code, place, message).with_label(label));
    }

    fn targets(&mut self, list: &List, port: u16) -> Vec<DoctorTarget> {
        let list = list.iter().flat_map(|list| &list.value);
        list.filter_map(|written| self.target(written, port)).collect()
    }

    fn target(&mut self, written: &Written<String>, port: u16) -> Option<DoctorTarget> {
        let place = self.place(written);
        match target(&written.value, port) {
            Ok((host, port)) => Some(DoctorTarget { place: Some(place), host, port }),
            Err(said) => {
                let message = format!("`{}` is not a host", written.value);
                self.found.push(
                    Problem::error("doctor.target", place, message)
                        .with_label(said)
                        .with_help(format!("write `10.0.0.9` or `host.example.com`; with another port than {port}, `10.0.0.9:{}`", port + 1)),
                );
                None
            }
        }
    }

    fn relay_ports(&mut self, written: Option<&Written<String>>) -> (u16, u16) {
        let Some(written) = written else { return TURN_RELAY_PORTS };
        let range = written.value.split_once('-').and_then(|(first, last)| {
            let range = (first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?);
            (0 < range.0 && range.0 <= range.1).then_some(range)
        });
        if range.is_none() {
            let message = format!("`{}` is not a range of ports", written.value);
            self.found.push(
                Problem::error("doctor.relay-ports", self.place(written), message)
                    .with_label("first and last port, the smaller one first")
                    .with_help("write `relay-ports = \"49152-49252\"`, as `min-port` and `max-port` of the TURN server say"),
            );
        }
        range.unwrap_or(TURN_RELAY_PORTS)
    }

    fn health(&mut self, body: &DoctorFile, upstreams: &[&str]) -> Vec<(String, String)> {
        let mut health = Vec::new();
        for (name, path) in body.health.iter().flat_map(|health| &health.value) {
            let place = Span::of(self.file, &name.span());
            let name = name.get_ref();
            if !upstreams.contains(&name.as_str()) {
                self.unknown_name("upstream", name, place, upstreams);
            }
            let plain = path.value.bytes().all(|b| b.is_ascii_graphic());
            if !path.value.starts_with('/') || !plain {
                let message = format!("`{}` is not a path", path.value);
                self.found.push(
                    Problem::error("doctor.health", self.place(path), message)
                        .with_label("it begins with `/` and has no spaces")
                        .with_help(
                            "write the path as the component itself knows it, e.g. `/api/status`",
                        ),
                );
            }
            health.push((name.clone(), path.value.clone()));
        }
        health
    }
}

fn by_default(host: &str) -> DoctorTarget {
    DoctorTarget { place: None, host: host.to_owned(), port: 443 }
}

/// Parses `HOST` or `HOST:PORT`.
fn target(text: &str, port: u16) -> Result<(String, u16), String> {
    if text.contains("://") {
        return Err("a host, not a URL".to_owned());
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok((text.to_ascii_lowercase(), port));
    }
    let (host, written) = split_port(text).ok_or("neither HOST nor HOST:PORT")?;
    let port = match written {
        None => port,
        Some(written) => match written.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => return Err(format!("`{written}` is not a port")),
        },
    };
    match HostPattern::parse(host)? {
        name if name.as_str().contains('*') => Err("this is a pattern: name one host".to_owned()),
        name => Ok((name.as_str().to_owned(), port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_targets() {
        let good = [
            ("10.0.0.9", ("10.0.0.9", 1433)),
            ("SQL.example.com:1500", ("sql.example.com", 1500)),
            ("::1", ("::1", 1433)),
            ("[::1]:5", ("::1", 5)),
        ];
        for (text, (host, port)) in good {
            assert_eq!(target(text, 1433), Ok((host.to_owned(), port)), "{text}");
        }
        for bad in ["", "tcp://a", "a:0", "a:x", "*.a", "a b", "[::1", "a/b"] {
            assert!(target(bad, 1433).is_err(), "{bad}");
        }
    }
}
