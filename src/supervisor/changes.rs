//! What is different between two generations, in the operator's words.

mod way_out;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::config::{
    AccessLog, Action, ClientCertificates, Config, Profile, Serve, Upstream, UpstreamId, Verify,
};
use crate::generation::Generation;

/// What only a start can set, as it was at the start.
pub(super) struct Fixed {
    workers: usize,
    access_log: AccessLog,
    admin: Option<SocketAddr>,
}

impl Fixed {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            workers: config.gateway.workers,
            access_log: config.gateway.access_log.clone(),
            admin: config.admin.as_ref().map(|admin| admin.listen),
        }
    }
}

/// One line per difference, in the order listeners, routes, upstreams, certificates, and what a
/// reload cannot change.
pub(super) fn between(started: &Fixed, old: &Generation, new: &Generation) -> Vec<String> {
    let mut lines = Vec::new();
    compare(&mut lines, "listener", &listeners(old), &listeners(new));
    compare(&mut lines, "route", &routes(&old.config), &routes(&new.config));
    compare(&mut lines, "upstream", &upstreams(&old.config), &upstreams(&new.config));
    compare(&mut lines, "profile", &profiles(&old.config), &profiles(&new.config));
    compare(&mut lines, "certificate", &certificates(old), &certificates(new));
    way_out::compare(&mut lines, old, new);
    let now = Fixed::of(&new.config);
    let fixed = [
        ("gateway.workers", started.workers != now.workers),
        ("gateway.access-log", started.access_log != now.access_log),
        ("admin.listen", started.admin != now.admin),
    ];
    let changed = fixed.iter().filter(|(_, changed)| *changed);
    lines.extend(changed.map(|(name, _)| format!("needs restart: {name}")));
    if lines.is_empty() {
        lines.push("only comments, spelling or file contents without effect".to_owned());
    }
    lines
}

fn compare(
    lines: &mut Vec<String>,
    what: &str,
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) {
    for (name, text) in new {
        match old.get(name) {
            None => lines.push(format!("{what} {name} added")),
            Some(before) if before != text => lines.push(format!("{what} {name} changed")),
            Some(_) => {}
        }
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    lines.extend(gone.map(|name| format!("{what} {name} removed")));
}

fn listeners(generation: &Generation) -> BTreeMap<String, String> {
    let profiles = generation.config.profiles.iter();
    let all = profiles.flat_map(|profile| profile.listeners.iter().map(move |l| (profile, l)));
    all.map(|(profile, listener)| {
        let name = format!("{} ({})", listener.listen, profile.name);
        let clients = match &listener.client_certificates {
            ClientCertificates::Off => String::new(),
            ClientCertificates::Optional { ca, .. } => format!("optional {}", ca.display()),
            ClientCertificates::Required { ca, .. } => format!("required {}", ca.display()),
        };
        let kind = match listener.serve {
            Serve::RedirectToHttps { port } => format!("to {port}"),
            Serve::Routes => "routes".to_owned(),
            Serve::Component(id) => format!("component {}", upstream_name(&generation.config, id)),
        };
        (name, format!("{kind} {} {clients}", listener.http2))
    })
    .collect()
}

fn routes(config: &Config) -> BTreeMap<String, String> {
    let all =
        config.profiles.iter().flat_map(|profile| profile.routes.iter().map(move |r| (profile, r)));
    all.map(|(profile, route)| {
        let action = match &route.action {
            Action::Proxy { upstream, strip_prefix } => {
                format!("{} {strip_prefix:?}", upstream_name(config, *upstream))
            }
            other => format!("{other:?}"),
        };
        let methods: Vec<_> = route.methods.iter().map(http::Method::as_str).collect();
        let name = format!("{} {} ({})", route.path.as_str(), methods.join(","), profile.name);
        let settings = (
            (&route.name, &route.path, route.max_body, route.websocket, route.retry),
            (
                route.allow_encoded_slash,
                route.report_only,
                route.first_byte_timeout,
                &route.response_headers,
            ),
        );
        (name.replace("  ", " "), format!("{action} {settings:?}"))
    })
    .collect()
}

fn upstreams(config: &Config) -> BTreeMap<String, String> {
    let text = |u: &Upstream| {
        let endpoints: Vec<_> = u.endpoints.iter().map(|e| (e.tls, &e.host, e.port)).collect();
        let verify = match &u.verify {
            Verify::Ca { file, .. } => format!("ca {}", file.display()),
            Verify::None { .. } => "none".to_owned(),
            other => format!("{other:?}"),
        };
        let times =
            (u.connect_timeout, u.first_byte_timeout, u.idle_timeout, u.keep_alive, u.max_idle);
        format!("{endpoints:?} {verify} {:?} {times:?}", u.server_name)
    };
    config.upstreams.iter().map(|upstream| (upstream.name.clone(), text(upstream))).collect()
}

fn profiles(config: &Config) -> BTreeMap<String, String> {
    let text = |profile: &Profile| {
        let hosts: Vec<_> = profile.hosts.iter().map(|(host, _)| host.as_str()).collect();
        let names = profile.certificates.iter().filter_map(|id| config.certificates.get(id.0));
        let names: Vec<_> = names.map(|certificate| certificate.name.as_str()).collect();
        format!(
            "{hosts:?} {names:?} {:?} {:?} {:?} {:?}",
            profile.unknown_sni, profile.trusted_proxies, profile.limits, profile.timeouts
        )
    };
    config.profiles.iter().map(|profile| (profile.name.clone(), text(profile))).collect()
}

fn certificates(generation: &Generation) -> BTreeMap<String, String> {
    let mut found = BTreeMap::<String, String>::new();
    for (name, pair, print) in generation.prints() {
        let text: &mut String = found.entry(name.to_owned()).or_default();
        // Writing to a String cannot fail.
        let _ = write!(text, "{pair} {print}");
    }
    found
}

fn upstream_name(config: &Config, id: UpstreamId) -> &str {
    config.upstreams.get(id.0).map_or("", |upstream| upstream.name.as_str())
}
