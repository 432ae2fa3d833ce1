//! `[upstream.NAME]`: addresses of the components, and verification of their identity.
//!
//! Produces an [`Upstream`]. No name is resolved and nothing is connected to.

use std::net::IpAddr;
use std::time::Duration;

use crate::addr::HostPattern;
use crate::base64;
use crate::config::checked::{AdminState, Endpoint, Gateway, Upstream, Verify};
use crate::config::deserialize::NamedTable;
use crate::config::file::{StickyFile, UpstreamFile, VerifyFile, Written};
use crate::config::problem::{Problem, Span};

use super::value::HOURS_24;
use super::{Checker, RESOLVE_INTERVALS, balance};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);

impl Checker<'_> {
    pub(super) fn upstream(
        &mut self,
        item: &NamedTable<UpstreamFile>,
        gateway: &Gateway,
    ) -> Upstream {
        self.file = item.place.file;
        let nothing = UpstreamFile::default();
        let known = self.record_missing(item.body.as_ref());
        let body = known.unwrap_or(&nothing);
        let (endpoints, all) = match known {
            Some(body) => self.endpoints(item, body),
            None => (Vec::new(), false),
        };
        self.incomplete |= !all;
        let endpoints = if all { self.with_weights_and_states(endpoints, body) } else { endpoints };
        let verify = self.verify(body);
        let verify = self.record_missing(verify).unwrap_or(Verify::System);
        let server_name = body.server_name.as_ref().and_then(|name| self.server_name(name));
        if all {
            self.plain_endpoints(&endpoints, body);
        }
        let connect_timeout = self.duration(
            body.connect_timeout.as_ref(),
            5 * SECOND,
            10 * MILLISECOND..=300 * SECOND,
        );
        let first_byte_timeout = self.duration_or_unlimited(
            body.first_byte_timeout.as_ref(),
            60 * SECOND,
            100 * MILLISECOND..=HOUR,
        );
        let check = self.health_check(body);
        Upstream {
            name: item.name.clone(),
            place: item.place,
            endpoints,
            verify,
            server_name,
            connect_timeout,
            first_byte_timeout,
            idle_timeout: self.duration_or_unlimited(
                body.idle_timeout.as_ref(),
                300 * SECOND,
                SECOND..=HOURS_24,
            ),
            keep_alive: self.duration(
                body.keep_alive.as_ref(),
                30 * SECOND,
                100 * MILLISECOND..=HOUR,
            ),
            max_idle: self.count(body.max_idle.as_ref(), 256, 0..=65_536),
            max_connecting: self.count(body.max_connecting.as_ref(), 32, 1..=65_536),
            max_connections: self.count(body.max_connections.as_ref(), 20_000, 1..=1_000_000),
            client_share: self.count(body.client_share.as_ref(), 50, 1..=100),
            queue_timeout: self.duration(
                body.queue_timeout.as_ref(),
                SECOND,
                Duration::ZERO..=60 * SECOND,
            ),
            announces: body.proxy_protocol.is_some(),
            check,
            balance: balance::balance_method(body),
            slow_start: self.duration(
                body.slow_start.as_ref(),
                Duration::ZERO,
                Duration::ZERO..=HOUR,
            ),
            sticky: !matches!(body.sticky.as_ref().map(|s| s.value), Some(StickyFile::Off)),
            cookie: body
                .sticky_cookie
                .as_ref()
                .and_then(|name| self.sticky_cookie_name(name, gateway)),
            retries_per_second: self.number_u32(
                body.retries_per_second.as_ref(),
                100,
                0..=1_000_000,
            ),
            eject: self.eject(body),
            failover: self.failover(body),
            resolve_interval: self.duration(
                body.resolve_interval.as_ref(),
                gateway.resolve_interval,
                RESOLVE_INTERVALS,
            ),
        }
    }

    /// The valid endpoints, and whether all are valid.
    fn endpoints(
        &mut self,
        item: &NamedTable<UpstreamFile>,
        body: &UpstreamFile,
    ) -> (Vec<Endpoint>, bool) {
        let list = &body.endpoints;
        if list.value.is_empty() {
            if !self.found.is_damaged(self.place(list)) {
                let message = format!("upstream `{}` has no endpoint", item.name);
                self.found.push(
                    Problem::error("upstream.empty", self.place(list), message)
                        .with_label("at least one")
                        .with_help("write `endpoints = [\"https://10.0.0.5:8444\"]`"),
                );
            }
            return (Vec::new(), false);
        }
        let mut endpoints: Vec<Endpoint> = Vec::new();
        let mut good = true;
        let backups =
            body.backup.iter().flat_map(|list| &list.value).map(|written| (true, written));
        let primary = list.value.iter().map(|written| (false, written));
        for (backup, written) in primary.chain(backups) {
            let place = self.place(written);
            let Some(mut endpoint) = self.endpoint(written) else {
                good = false;
                continue;
            };
            let same =
                |other: &&Endpoint| other.host == endpoint.host && other.port == endpoint.port;
            if let Some(before) = endpoints.iter().find(same) {
                let message = format!("`{}` is listed twice", written.value);
                self.found.push(
                    Problem::error("upstream.endpoint-twice", place, message)
                        .with_label("the second time")
                        .with_related(before.place, "the first time"),
                );
            }
            endpoint.backup = backup;
            endpoints.push(endpoint);
        }
        (endpoints, good)
    }

    pub(super) fn endpoint(&mut self, written: &Written<String>) -> Option<Endpoint> {
        let place = self.place(written);
        match endpoint(&written.value, place) {
            Ok(endpoint) => Some(endpoint),
            Err((said, help)) => {
                let message = format!("`{}` is not an endpoint", written.value);
                let problem = Problem::error("upstream.endpoint", place, message);
                self.found.push(problem.with_label(said).with_help(help));
                None
            }
        }
    }

    fn verify(&mut self, body: &UpstreamFile) -> Option<Verify> {
        let ca = body.ca_file.as_ref().map(|written| ("ca-file", self.place(written)));
        let pin = body.pin.as_ref().map(|written| ("pin", self.place(written)));
        let none = body.verify.as_ref().map(|written| ("verify", self.place(written)));
        let mut given = [ca, pin, none].into_iter().flatten();
        if let (Some((first, at)), Some((second, place))) = (given.next(), given.next()) {
            let message =
                format!("`{first}` and `{second}` are two ways to verify one certificate");
            self.found.push(
                Problem::error("upstream.verify-twice", place, message)
                    .with_label("this one")
                    .with_related(at, "or this one")
                    .with_help("keep one of them"),
            );
        }
        if let Some(written) = &body.ca_file {
            let place = self.place(written);
            return self.readable(written, "CA file").map(|file| Verify::Ca { file, place });
        }
        if let Some(pins) = &body.pin {
            return self.pins(pins).map(Verify::Pin);
        }
        let Some(written) = &body.verify else { return Some(Verify::System) };
        let VerifyFile::None = written.value;
        let place = self.place(written);
        self.found.push(
            Problem::warning(
                "upstream.not-verified",
                place,
                "the identity of this upstream is not verified",
            )
            .with_label("NOT verified: anyone on the path can read and change every chat")
            .with_help("name its certificate or CA with `ca-file`, or its key with `pin`"),
        );
        Some(Verify::None { place })
    }

    fn pins(&mut self, list: &Written<Vec<Written<String>>>) -> Option<Vec<[u8; 32]>> {
        if list.value.is_empty() && !self.found.is_damaged(self.place(list)) {
            self.found.push(
                Problem::error("upstream.pin", self.place(list), "no key is permitted")
                    .with_label("an empty list")
                    .with_help("write `pin = [\"sha256/...\"]`, or leave `pin` out"),
            );
        }
        let pins: Vec<_> = list.value.iter().map(|written| self.pin(written)).collect();
        pins.into_iter().collect()
    }

    fn pin(&mut self, written: &Written<String>) -> Option<[u8; 32]> {
        let said = match written.value.strip_prefix("sha256/") {
            None => "it starts with `sha256/`".to_owned(),
            Some(hash) => match sha256(hash) {
                Ok(pin) => return Some(pin),
                Err(said) => said.to_owned(),
            },
        };
        self.found.push(
            Problem::error("upstream.pin", self.place(written), "this is not a pin")
                .with_label(said)
                .with_help(
                    "what follows `sha256/` is printed by: \
 openssl x509 -in server.crt -noout -pubkey | openssl pkey -pubin -outform der \
                 | openssl dgst -sha256 -binary | base64",
                ),
        );
        None
    }

    fn server_name(&mut self, written: &Written<String>) -> Option<String> {
        let said = match HostPattern::parse(&written.value) {
            Ok(name) if !name.as_str().contains('*') => return Some(name.as_str().to_owned()),
            Ok(_) => "the certificate is checked for one name, not a pattern".to_owned(),
            Err(said) => said,
        };
        let message = format!("`{}` is not a server name", written.value);
        self.found.push(
            Problem::error("upstream.server-name", self.place(written), message).with_label(said),
        );
        None
    }

    /// Reports problems of endpoints without TLS.
    fn plain_endpoints(&mut self, endpoints: &[Endpoint], body: &UpstreamFile) {
        let Some(plain) = endpoints.iter().find(|endpoint| !endpoint.tls) else { return };
        let ca = body.ca_file.as_ref().map(|written| ("ca-file", self.place(written)));
        let pin = body.pin.as_ref().map(|written| ("pin", self.place(written)));
        let name = body.server_name.as_ref().map(|written| ("server-name", self.place(written)));
        if let Some((key, place)) = [ca, pin, name].into_iter().flatten().next() {
            let message = format!("`{key}` verifies nothing on an `http://` endpoint");
            self.found.push(
                Problem::error("upstream.plain-verified", plain.place, message)
                    .with_label("no TLS, no certificate")
                    .with_related(place, "this has no effect")
                    .with_help(
                        "write `https://`; most components of Hybrid Chat support nothing else",
                    ),
            );
            return;
        }
        let local = plain.host == "localhost"
            || plain.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if !local {
            let message = "requests to this endpoint cross the network in the clear";
            self.found.push(
                Problem::warning("upstream.plain", plain.place, message)
                    .with_label("no TLS")
                    .with_help("write `https://` if the component speaks it"),
            );
        }
    }
}

/// Parses `scheme://host:port`.
///
/// # Errors
///
/// The mistake and its correction.
pub(super) fn endpoint(text: &str, place: Span) -> Result<Endpoint, (String, String)> {
    let said = |said: &str, help: &str| Err((said.to_owned(), help.to_owned()));
    // Checked first, because no other message may repeat a part of the credentials.
    if text.contains('@') {
        return said("an endpoint has no user and password", "take out everything up to the `@`");
    }
    if text.starts_with("unix:") || text.starts_with('/') {
        return Err(unix_socket());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return said("the scheme is missing", &format!("write `https://{text}`"));
    };
    let tls = match scheme {
        "https" => true,
        "http" => false,
        "wss" | "ws" => {
            let scheme = if scheme == "wss" { "https" } else { "http" };
            return said(
                "a WebSocket begins as an HTTP request",
                &format!("write `{scheme}://{rest}`; WebSocket upgrades still work"),
            );
        }
        "unix" => return Err(unix_socket()),
        _ => {
            return said(
                &format!("`{scheme}` is not a supported scheme"),
                "write `https://` or `http://`",
            );
        }
    };
    if rest.starts_with("unix:") || rest.starts_with("%2F") || rest.starts_with("%2f") {
        return Err(unix_socket());
    }
    let (authority, path) = match rest.find(['/', '?', '#']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    if !matches!(path, "" | "/") {
        return said(
            "an endpoint has no path",
            &format!(
                "write `{scheme}://{authority}`; to remove a path prefix use `strip-prefix` of a route"
            ),
        );
    }
    let (host, port) = split_port(authority).ok_or_else(|| {
        (
            "this is not HOST:PORT".to_owned(),
            "write it like `https://10.0.0.5:8444` or `https://[::1]:8444`".to_owned(),
        )
    })?;
    let port = match port {
        None if tls => 443,
        None => 80,
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => {
                return said(
                    &format!("`{port}` is not a port"),
                    "ports are numbers from 1 to 65535",
                );
            }
        },
    };
    match HostPattern::parse(host) {
        Ok(name) if name.as_str().contains('*') => said("this is a pattern", "name one host"),
        Ok(name) => Ok(Endpoint {
            place,
            tls,
            host: name.as_str().to_owned(),
            port,
            backup: false,
            weight: 1,
            duty: AdminState::Up,
        }),
        Err(why) => Err((why, "write it like `https://10.0.0.5:8444`".to_owned())),
    }
}

/// The mistake and correction for a Unix socket in the syntax of other proxies.
fn unix_socket() -> (String, String) {
    (
        "a Unix socket cannot be an endpoint".to_owned(),
        "have the component listen on a loopback port and write `http://127.0.0.1:PORT`; if it cannot: \
         socat TCP-LISTEN:PORT,bind=127.0.0.1,fork,reuseaddr UNIX-CONNECT:/PATH"
            .to_owned(),
    )
}

/// Host without brackets, and the port if there is one.
pub(super) fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
        None => Some((authority, None)),
    }
}

/// Decodes 32 bytes of standard base64, padded or not.
fn sha256(text: &str) -> Result<[u8; 32], &'static str> {
    const PIN_HELP: &str = "a SHA-256 is 44 characters of base64";
    let digits = text.trim_end_matches('=');
    if digits.len() != 43 || text.len() > 44 {
        return Err(PIN_HELP);
    }
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    match digits.bytes().find(|byte| !is_digit(byte)) {
        None => {}
        Some(b'-' | b'_') => {
            return Err("this is base64 for URLs; write `+` for `-` and `/` for `_`");
        }
        Some(_) => return Err("it contains a character that is not base64"),
    }
    let bytes = base64::decode(digits.as_bytes()).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(PIN_HELP)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Span = Span { file: 0, start: 0, end: 0 };

    #[test]
    fn reads_endpoints() {
        let cases = [
            ("https://10.0.0.5:8444", (true, "10.0.0.5", 8444)),
            ("https://Chat.Example.com", (true, "chat.example.com", 443)),
            ("http://localhost/", (false, "localhost", 80)),
            ("https://[::1]:8444", (true, "::1", 8444)),
            ("https://[2001:DB8::5]", (true, "2001:db8::5", 443)),
        ];
        for (text, (tls, host, port)) in cases {
            let endpoint = endpoint(text, PLACE).unwrap();
            assert_eq!((endpoint.tls, endpoint.host.as_str(), endpoint.port), (tls, host, port));
        }
    }

    #[test]
    fn invalid_endpoints_are_rejected() {
        for text in [
            "10.0.0.5:8444",
            "wss://a:1",
            "ftp://a",
            "https://a/b",
            "https://u:p@a",
            "https://a:0",
            "https://a:70000",
            "https://",
            "https://:8444",
            "https://::1:8444",
            "https://*.a:1",
            "https://[::1",
            "https://a?b",
            "https://a:",
        ] {
            assert!(endpoint(text, PLACE).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_pins() {
        let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert_eq!(sha256(zeros), Ok([0; 32]));
        // SHA-256 of the empty string.
        let empty = sha256("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=").unwrap();
        assert_eq!(empty[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        for bad in
            ["", "AAAA", "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=", &zeros.replace('=', "==")]
        {
            assert!(sha256(bad).is_err(), "{bad}");
        }
    }
}
