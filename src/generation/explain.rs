//! Explanations of how a request would be decided, with the configuration lines responsible. Used
//! by `explain` and by the status page.
//!
//! The decision is made by the same code that serves requests, on a request built from the query.

mod passthrough;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;

use crate::addr::ClientAddr;
use crate::config::{ProxyProtocol, UnlistedPeers, Verify};
use crate::message::forward::{ClientOrigin, TrustedProxy, stripped_target, write_request};
use crate::message::{Reason, RequestHead, host, path};
use crate::units::{display_duration, display_size};
use crate::upstream::{Upstream, resolve};

use super::virtual_server::{ProxyTarget, RouteAction};
use super::{
    CompiledRoute, Generation, ListenerService, RouteDecision, RouteRejection, VirtualServer,
};

pub use passthrough::ConnectionQuery;

/// A request to explain.
pub struct RequestQuery {
    /// Request method.
    pub method: String,
    /// URL as the client types it. Its port selects the listener; the default port is that of the
    /// scheme.
    pub url: String,
    /// Client address.
    pub from: IpAddr,
    /// Profile to search if the port matches no listener, or several.
    pub profile: Option<String>,
    /// Request fields, each as `Name: value`.
    pub headers: Vec<String>,
}

/// Text of an explanation. Each line has a name, a value and the place in the configuration.
#[derive(Default)]
pub struct ExplanationLines {
    /// The lines written so far.
    pub text: String,
}

impl ExplanationLines {
    /// Appends a line.
    pub fn line(&mut self, name: &str, value: &str, place: &str) {
        let gap = if place.is_empty() { "" } else { "  " };
        let _ = writeln!(self.text, "{name:<11} {value:<44}{gap}{place}").map(|()| {
            let end = self.text.trim_end().len();
            self.text.truncate(end);
            self.text.push('\n');
        });
    }
}

/// Explanation of one request or connection.
pub struct Explanation<'a> {
    generation: &'a Generation,
    /// The text.
    pub lines: ExplanationLines,
    /// Whether the request would be forwarded or answered, rather than rejected.
    pub served: bool,
}

impl<'a> Explanation<'a> {
    /// Decides a request as the proxy would. Resolves host names, so it blocks.
    ///
    /// # Errors
    ///
    /// A message about an invalid query or a port without a listener.
    pub fn of_request(generation: &'a Generation, query: &RequestQuery) -> Result<Self, String> {
        let (authority, port, target) = split(&query.url)?;
        let virtual_server = select_listener(generation, port, query.profile.as_deref())?;
        let mut explanation =
            Self { generation, lines: ExplanationLines::default(), served: false };
        explanation.line("request", &format!("{} {}", query.method, query.url), "");
        let client = ClientAddr(SocketAddr::new(query.from, 0));
        let trusted = match virtual_server.trusted_proxy(client) {
            None => "not a trusted proxy",
            Some(TrustedProxy { believed: true, .. }) => {
                "a trusted proxy: its X-Forwarded-* are believed"
            }
            Some(_) => "a trusted proxy: its Forwarded is believed",
        };
        explanation.line("from", &format!("{} ({trusted})", query.from), "");
        explanation.line(
            "profile",
            &virtual_server.names.profile,
            &explanation.place_of_profile(virtual_server),
        );
        explanation.line(
            "listener",
            &virtual_server.names.listener,
            &generation.config.sources.locate(virtual_server.place),
        );
        if let Some(balancers) = &virtual_server.proxy_protocol {
            explanation.line("balancers", &balancers_text(balancers), "");
        }
        let mut text = format!("{} {target} HTTP/1.1\r\nHost: {authority}\r\n", query.method);
        for field in &query.headers {
            if field.contains(['\r', '\n']) || !field.contains(':') {
                return Err(format!("`{field}` is not a field; write it as `Name: value`"));
            }
            let _ = write!(text, "{field}\r\n");
            if field.to_ascii_lowercase().starts_with("upgrade:")
                && !text.contains("\r\nConnection:")
            {
                text.push_str("Connection: Upgrade\r\n");
            }
        }
        text.push_str("\r\n");
        match RequestHead::parse(&Bytes::from(text), virtual_server.limits.header_count) {
            Err(reason) => {
                explanation.refused(
                    &RouteRejection { reason, route: None, allow: None },
                    virtual_server,
                    &target,
                );
            }
            Ok(head) => {
                explanation.client(&head, virtual_server, client);
                match virtual_server.decide(&head) {
                    Err(refusal) => match virtual_server.hidden_route(&head) {
                        Some(route) => explanation.route(&route, &head, virtual_server, client),
                        None => explanation.refused(&refusal, virtual_server, &target),
                    },
                    Ok(RouteDecision::AddSlash) => {
                        explanation.verdict("308 to the same path with `/` at its end");
                    }
                    Ok(RouteDecision::ToHttps(port)) => {
                        explanation.verdict(&format!("308 to the same URL on https, port {port}"));
                    }
                    Ok(RouteDecision::Route(route)) => {
                        explanation.route(&route, &head, virtual_server, client);
                    }
                }
            }
        }
        Ok(explanation)
    }

    fn line(&mut self, name: &str, value: &str, place: &str) {
        self.lines.line(name, value, place);
    }

    fn verdict(&mut self, text: &str) {
        self.served = true;
        self.line("verdict", text, "");
    }

    fn client(
        &mut self,
        head: &RequestHead,
        virtual_server: &VirtualServer,
        connected: ClientAddr,
    ) {
        let client = virtual_server.client_of(connected, &head.fields);
        if client != connected {
            self.line("client", &format!("{} (named by the proxy)", client.ip()), "");
        }
    }

    fn place_of_profile(&self, virtual_server: &VirtualServer) -> String {
        let profile =
            self.generation.config.profiles.iter().find(|p| p.name == virtual_server.names.profile);
        profile.map_or(String::new(), |p| self.generation.config.sources.locate(p.place))
    }

    fn refused(&mut self, refusal: &RouteRejection, virtual_server: &VirtualServer, target: &str) {
        if let Some(route) = &refusal.route {
            self.line(
                "route",
                &route.stats.name,
                &self.generation.config.sources.locate(route.place),
            );
        }
        let reason = refusal.reason;
        self.line("verdict", &format!("rejected: {} {}", reason.code(), reason.word()), "");
        self.line("", reason.sentence(), "");
        if let Some(allow) = refusal.allow.as_deref().filter(|allow| !allow.is_empty()) {
            self.line("allowed", allow, "");
        }
        if reason == Reason::AmbiguousPath {
            self.ambiguous(refusal.route.is_some(), virtual_server, target);
        }
        if reason == Reason::NoRoute {
            self.line("to fix", &format!("add a [[profile.{}.route]] whose `path` matches; requests without a route are denied", virtual_server.names.profile), "");
        }
    }

    /// Adds the ambiguous parts of a path and the settings that would allow them.
    fn ambiguous(&mut self, has_route: bool, virtual_server: &VirtualServer, target: &str) {
        let Ok(read) = path::matchable(path::raw(target.as_bytes())) else {
            self.line("to fix", "not possible: no setting allows such a path", "");
            return;
        };
        let oddities = read.oddities;
        let odd = [
            (oddities.empty_segment, "an empty segment (`//`)", "allow-empty-segments"),
            (oddities.parameter, "a path parameter (`;`)", "allow-path-parameters"),
            (oddities.encoded_slash, "an encoded slash", "allow-encoded-slash"),
        ];
        let odd = || odd.iter().filter(|(is_there, ..)| *is_there);
        let found: Vec<_> = odd().map(|(_, found, _)| *found).collect();
        self.line("because", &format!("the path has {}", found.join(" and ")), "");
        let keys: Vec<_> = odd().map(|(.., key)| format!("{key} = true")).collect();
        let keys = keys.join(" and ");
        let compared = String::from_utf8_lossy(&read.path);
        let out = if has_route {
            format!("add {keys} to this route; the path is forwarded unchanged")
        } else {
            let profile = &virtual_server.names.profile;
            format!("add a [[profile.{profile}.route]] that matches `{compared}`, with {keys}")
        };
        self.line("to fix", &out, "");
    }

    fn route(
        &mut self,
        route: &Arc<CompiledRoute>,
        head: &RequestHead,
        virtual_server: &VirtualServer,
        client: ClientAddr,
    ) {
        self.line("route", &route.stats.name, &self.generation.config.sources.locate(route.place));
        match &route.action {
            RouteAction::Deny => self.line("verdict", "rejected: 403 route_denied", ""),
            RouteAction::Ready(upstreams) => {
                let names: Vec<_> = upstreams.iter().map(|upstream| &*upstream.name).collect();
                let and = if names.is_empty() { "" } else { " and these are up: " };
                self.verdict(&format!("200 if the gateway is ready{and}{}", names.join(", ")));
            }
            RouteAction::Drift(_) => {
                self.verdict(
                    "answers gateways with the same shared secret; others get 404 no_route",
                );
            }
            RouteAction::Redirect { to, status } => self.verdict(&format!("{status} to {to}")),
            RouteAction::SelfTest(..) => self.verdict("answered by the self-test of the gateway"),
            RouteAction::Proxy(ProxyTarget { upstream, strip_prefix, first_byte, .. }) => {
                self.upstream(upstream);
                let rewritten = stripped_target(&head.target, strip_prefix.as_deref());
                let note = strip_prefix
                    .as_deref()
                    .map_or("unchanged".to_owned(), |p| format!("`{p}` removed"));
                self.line("path sent", &String::from_utf8_lossy(&rewritten), &note);
                self.limits(route, virtual_server, upstream, &display_duration(*first_byte));
                self.fields(
                    route,
                    head,
                    &ClientOrigin {
                        sticky_cookie_name: None,
                        client: virtual_server.client_of(client, &head.fields).ip(),
                        proxy: virtual_server.trusted_proxy(client),
                        strip_prefix: strip_prefix.as_deref(),
                        request_id: "(made for each request)",
                        trace: None,
                        passes: &route.passes,
                    },
                );
                let report = if route.stats.report_only {
                    ", report only: without this route it would be denied"
                } else {
                    ""
                };
                let how = if head.upgrade { "as a WebSocket" } else { "over HTTP/1.1" };
                self.verdict(&format!("forwarded to {} {how}{report}", upstream.name));
            }
        }
    }

    fn upstream(&mut self, upstream: &Upstream) {
        let Some(written) =
            self.generation.config.upstreams.iter().find(|u| *u.name == *upstream.name)
        else {
            return;
        };
        let locate = |place| self.generation.config.sources.locate(place);
        let verify = match &written.verify {
            Verify::System => "certificate verified by the system's roots".to_owned(),
            Verify::Ca { file, .. } => format!("certificate verified by {}", file.display()),
            Verify::Pin(_) => "certificate verified by its pinned key".to_owned(),
            Verify::None { .. } => "certificate NOT VERIFIED".to_owned(),
        };
        let place = locate(written.place);
        let endpoints: Vec<_> =
            written.endpoints.iter().map(|e| (e.tls, locate(e.place))).collect();
        let any_tls = endpoints.iter().any(|(tls, _)| *tls);
        self.line("upstream", &upstream.name, &place);
        for (index, (endpoint, (tls, place))) in
            upstream.endpoints.iter().zip(endpoints).enumerate()
        {
            let backup = upstream.ranks.get(index).is_some_and(|role| role.backup);
            let which = match index {
                _ if backup => "backup",
                0 => "endpoint",
                _ => "else",
            };
            // The scheme comes from the configuration, because an upstream whose CA file is
            // unreadable has no TLS settings but is explained too.
            let scheme = if tls { "https" } else { "http" };
            let found = match resolve::refresh(endpoint) {
                Err(error) => format!(" ({error})"),
                Ok(()) if resolve::is_name(endpoint) => {
                    let list = endpoint.addresses.load();
                    let addresses: Vec<_> = list.iter().map(|a| a.get().ip().to_string()).collect();
                    format!(" (now {})", addresses.join(", "))
                }
                Ok(()) => String::new(),
            };
            self.line(which, &format!("{scheme}://{}{found}", endpoint.label), &place);
        }
        if any_tls {
            self.line("", &verify, "");
        }
        if upstream.announces {
            self.line("", "gets the client address in a PROXY protocol v2 header", "");
        }
    }

    fn limits(
        &mut self,
        route: &CompiledRoute,
        virtual_server: &VirtualServer,
        upstream: &Upstream,
        first_byte: &str,
    ) {
        let limits = format!(
            "body {}, connect {}, first byte {first_byte}, idle {}",
            display_size(route.max_body),
            display_duration(upstream.limits.connect),
            display_duration(upstream.limits.idle),
        );
        self.line("limits", &limits, "");
        let websocket = if route.websocket {
            format!(
                "allowed, idle timeout {}",
                display_duration(virtual_server.timeouts.tunnel_idle)
            )
        } else {
            "rejected".to_owned()
        };
        self.line("websocket", &websocket, "");
    }

    fn fields(&mut self, route: &CompiledRoute, head: &RequestHead, origin: &ClientOrigin<'_>) {
        let mut sent = Vec::new();
        write_request(&mut sent, head, origin, None);
        let sent = String::from_utf8_lossy(&sent);
        for (index, line) in sent.lines().skip(1).filter(|line| !line.is_empty()).enumerate() {
            self.line(if index == 0 { "adds" } else { "" }, line, "");
        }
        let changed = route.edits.set();
        let answer = changed
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        let removed = route
            .edits
            .dropped()
            .iter()
            .filter(|name| !changed.iter().any(|(known, _)| known == *name))
            .map(|name| format!("{name} removed"));
        for (index, line) in answer.chain(removed).enumerate() {
            self.line(if index == 0 { "answer" } else { "" }, &line, "");
        }
    }
}

/// Text for the `balancers` line.
fn balancers_text(balancers: &ProxyProtocol) -> String {
    let from: Vec<_> = balancers.from.iter().map(ToString::to_string).collect();
    let unlisted = match balancers.unlisted {
        UnlistedPeers::Refuse => "other peers are rejected",
        UnlistedPeers::Direct => "other peers are direct clients",
    };
    format!("{} name the client; {unlisted}", from.join(", "))
}

/// Authority, port and request target of a URL.
fn split(url: &str) -> Result<(&str, u16, String), String> {
    let usage = || {
        format!(
            "`{url}` is not a URL; write it as the client does, e.g. https://chat.example.com:8443/socket.io/"
        )
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(usage)?;
    let default = match scheme {
        "https" | "wss" => 443,
        "http" | "ws" => 80,
        _ => return Err(usage()),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let parsed = host::parse(authority.as_bytes()).ok_or_else(usage)?;
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    Ok((authority, parsed.port.unwrap_or(default), target))
}

/// The virtual server that a request to this port reaches. Without one, falls back to the main
/// listener of `profile`.
fn select_listener<'a>(
    generation: &'a Generation,
    port: u16,
    profile: Option<&str>,
) -> Result<&'a Arc<VirtualServer>, String> {
    let of_profile = |virtual_server: &&Arc<VirtualServer>| {
        profile.is_none_or(|name| virtual_server.names.profile == name)
    };
    let whole = |virtual_server: &&Arc<VirtualServer>| {
        // The main listener of a profile is the one with the most routes.
        let ListenerService::Routes { routes, .. } = &virtual_server.served else { return false };
        generation.virtual_servers.iter().all(|other| {
            other.names.profile != virtual_server.names.profile
                || matches!(&other.served, ListenerService::Routes { routes: others, .. } if others.len() <= routes.len())
                || matches!(other.served, ListenerService::RedirectToHttps(_))
        })
    };
    let mut with_port = generation
        .virtual_servers
        .iter()
        .filter(of_profile)
        .filter(|virtual_server| virtual_server.address.port() == port);
    if let Some(virtual_server) = with_port.next() {
        return Ok(virtual_server);
    }
    if profile.is_some()
        && let Some(virtual_server) =
            generation.virtual_servers.iter().filter(of_profile).find(whole)
    {
        return Ok(virtual_server);
    }
    if generation.virtual_servers.is_empty() {
        return Err(
            "no profile has a listener; use `explain egress` for the forward proxy and `explain tcp` for passthrough".to_owned()
        );
    }
    let listeners: Vec<_> = generation
        .virtual_servers
        .iter()
        .map(|s| format!("{} ({})", s.names.listener, s.names.profile))
        .collect();
    Err(format!(
        "no listener has port {port}; the listeners are {}.\nUse one of their ports in the URL, or name the profile with --profile if a firewall maps the port",
        listeners.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_urls() {
        assert_eq!(split("https://a:8443/x?y").unwrap(), ("a:8443", 8443, "/x?y".to_owned()));
        assert_eq!(split("wss://a").unwrap(), ("a", 443, "/".to_owned()));
        assert_eq!(split("http://[::1]?q").unwrap(), ("[::1]", 80, "/?q".to_owned()));
        for bad in ["/x", "ftp://a/", "https://", "https://u@a/", "a:8443"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
