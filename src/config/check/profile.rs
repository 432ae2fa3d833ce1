//! `[profile.NAME]`: a side of the gateway.
//!
//! A profile may be spread over files: one of them has the settings, any of them may add listeners
//! and routes.
//!
//! Combines the parts to [`Profile`]s in the order of their names. A profile without listeners or
//! routes is rejected.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use crate::addr::HostPattern;
use crate::config::checked::{
    CertificateId, ClientAddressField, Limits, ListenerMode, Profile, Timeouts, UnknownSni,
};
use crate::config::deserialize::NamedTable;
use crate::config::file::{
    ClientAddressFile, LimitsFile, ProfileFile, TimeoutsFile, UnknownSniFile, Written,
};
use crate::config::problem::{Problem, Span};

use super::route::RouteDefaults;
use super::value::HOURS_24;
use super::{Checker, DefinedNames, NameSet, self_test};

/// Maximum of body limits, in bytes.
pub(super) const MAX_BODY_LIMIT: u64 = 64 << 30;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);

impl Checker<'_> {
    pub(super) fn profiles(
        &mut self,
        items: &[NamedTable<ProfileFile>],
        names: &mut DefinedNames<'_>,
    ) -> Vec<Profile> {
        let mut groups: BTreeMap<&str, Vec<&NamedTable<ProfileFile>>> = BTreeMap::new();
        for item in items {
            groups.entry(&item.name).or_default().push(item);
        }
        if groups.is_empty() && !names.other && !self.found.any_damage() {
            self.found.push(
                Problem::nowhere(
                    "profile.none",
                    "there is nothing to serve: no file has a `[profile.NAME]`",
                )
                .with_help(
                    "a profile has listeners and routes; the shipped `config/` directory has two",
                ),
            );
        }
        let profiles: Vec<_> = groups.values().map(|parts| self.profile(parts, names)).collect();
        self.keep_valid(profiles)
    }

    fn profile(
        &mut self,
        parts: &[&NamedTable<ProfileFile>],
        names: &mut DefinedNames<'_>,
    ) -> Option<Profile> {
        let with_settings: Vec<_> =
            parts.iter().filter(|part| part.body.as_ref().is_none_or(has_settings)).collect();
        self.report_duplicates(
            "profile",
            with_settings.iter().map(|part| (part.name.as_str(), part.place)),
        );
        let main = with_settings.first().copied().or(parts.first())?;
        self.name(&main.name, main.place);
        self.file = main.place.file;
        let nothing = ProfileFile::default();
        let body = main.body.as_ref().unwrap_or(&nothing);
        let hosts = self.hosts(body);
        let shared = RouteDefaults {
            max_body: self.body_limit(body.max_body.as_ref(), 10 << 20),
            response_headers: self.fields(body.response_headers.as_ref()).into(),
            pass_request_headers: self.passed(body.pass_request_headers.as_ref()).into(),
            proxied: self_test::proxied(parts.iter().filter_map(|part| part.body.as_ref())),
        };
        let trusted_proxies = self.networks(body);
        let limits = self.limits(body.limits.as_ref().map(|written| &written.value));
        let timeouts = self.timeouts(body.timeouts.as_ref().map(|written| &written.value));
        let certificates = self.certificates(body.certificates.as_ref(), names.certificates);
        let (mut listeners, mut routes) = (Vec::new(), Vec::new());
        for (part, body) in parts.iter().filter_map(|part| Some((part, part.body.as_ref()?))) {
            self.file = part.place.file;
            let all = body.listener.iter().flat_map(|list| &list.value);
            listeners.extend(all.map(|written| self.listener(written, names.upstreams)));
            let all = body.route.iter().flat_map(|list| &list.value);
            routes.extend(all.map(|written| self.route(written, &shared, names.upstreams)));
        }
        self.serves_something(parts, main.place);
        self.components_have_routes(parts);
        self.clashing_routes(parts);
        if listeners.iter().all(Option::is_some) {
            let mut all = listeners.iter().flatten();
            let tls = all.any(|l| !matches!(l.serve, ListenerMode::RedirectToHttps { .. }));
            self.has_certificate(body, tls, main);
        }
        let (listeners, routes) = (self.keep_valid(listeners), self.keep_valid(routes));
        Some(Profile {
            name: main.name.clone(),
            place: main.place,
            hosts,
            certificates,
            unknown_sni: match body.unknown_sni.as_ref().map(|written| written.value) {
                Some(UnknownSniFile::Refuse) => UnknownSni::Refuse,
                Some(UnknownSniFile::Default) | None => UnknownSni::Default,
            },
            trusted_proxies,
            named_by: self.named_by(body),
            access_log: body.access_log.as_ref().is_none_or(|on| on.value),
            response_headers: shared.response_headers,
            max_body: shared.max_body,
            limits,
            timeouts,
            listeners,
            // A boxed slice has no spare capacity, which would be megabytes for thousands of
            // routes.
            routes: routes.into_boxed_slice(),
        })
    }

    fn hosts(&mut self, body: &ProfileFile) -> Vec<(HostPattern, Span)> {
        let mut hosts = Vec::new();
        for written in body.hosts.iter().flat_map(|list| &list.value) {
            let place = self.place(written);
            match HostPattern::parse(&written.value) {
                Ok(host) => hosts.push((host, place)),
                Err(said) => {
                    let message = format!("`{}` is not a host", written.value);
                    self.found
                        .push(Problem::error("profile.host", place, message).with_label(said));
                }
            }
        }
        if let Some(list) = body.hosts.as_ref().filter(|list| list.value.is_empty())
            && !self.found.is_damaged(self.place(list))
        {
            self.found.push(
                Problem::error("profile.host", self.place(list), "this list of hosts is empty")
                    .with_label("no host, or any host?")
                    .with_help("leave `hosts` out to serve any host"),
            );
        }
        hosts
    }

    fn networks(&mut self, body: &ProfileFile) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for written in body.trusted_proxies.iter().flat_map(|list| &list.value) {
            let place = self.place(written);
            let Some(network) = self.network(written, "profile.trusted-proxies") else { continue };
            if network.prefix_len() == 0 {
                self.found.push(
                    Problem::warning(
                        "profile.trusts-everyone",
                        place,
                        "every client is treated as a proxy",
                    )
                    .with_label("any client could put any address into the logs")
                    .with_help("name the networks of your load balancers"),
                );
            }
            networks.push(network);
        }
        networks
    }

    fn named_by(&mut self, body: &ProfileFile) -> ClientAddressField {
        let Some(written) = &body.client_address else { return ClientAddressField::XForwardedFor };
        if body.trusted_proxies.as_ref().is_none_or(|list| list.value.is_empty()) {
            let message = "`client-address` without `trusted-proxies`";
            self.found.push(
                Problem::error("profile.client-address", self.place(written), message)
                    .with_label("no proxy is trusted")
                    .with_help("name the networks of your load balancers in `trusted-proxies`, or leave this key out"),
            );
        }
        match written.value {
            ClientAddressFile::XForwardedFor => ClientAddressField::XForwardedFor,
            ClientAddressFile::Forwarded => ClientAddressField::Forwarded,
            ClientAddressFile::Off => ClientAddressField::Nothing,
        }
    }

    pub(super) fn certificates(
        &mut self,
        written: Option<&Written<Vec<Written<String>>>>,
        known: &mut NameSet,
    ) -> Vec<CertificateId> {
        let mut ids = Vec::new();
        for written in written.into_iter().flat_map(|list| &list.value) {
            let place = self.place(written);
            match known.find(&written.value).map(CertificateId) {
                None => self.found.push(known.unknown(
                    "profile.unknown-certificate",
                    &written.value,
                    place,
                )),
                Some(id) if ids.contains(&id) => {
                    let message = format!("certificate `{}` is listed twice", written.value);
                    self.found.push(Problem::error("profile.certificate-twice", place, message));
                }
                Some(id) => ids.push(id),
            }
        }
        ids
    }

    fn has_certificate(&mut self, body: &ProfileFile, tls: bool, item: &NamedTable<ProfileFile>) {
        let named = body.certificates.as_ref().is_some_and(|list| !list.value.is_empty());
        if named || !tls || self.found.is_damaged(item.place) {
            return;
        }
        self.file = item.place.file;
        let place = body.certificates.as_ref().map_or(item.place, |list| self.place(list));
        let message = format!("profile `{}` has no certificate", item.name);
        self.found.push(
            Problem::error("profile.no-certificate", place, message)
                .with_label("its listeners speak TLS")
                .with_help("add `certificates = [\"NAME\"]`, the name of a `[certificate.NAME]`"),
        );
    }

    fn serves_something(&mut self, parts: &[&NamedTable<ProfileFile>], place: Span) {
        if parts.iter().any(|part| part.body.is_none() || self.found.is_damaged(part.place)) {
            return;
        }
        let bodies = || parts.iter().filter_map(|part| part.body.as_ref());
        let listeners = bodies().flat_map(|body| &body.listener).any(|list| !list.value.is_empty());
        let routes = bodies().flat_map(|body| &body.route).any(|list| !list.value.is_empty());
        let name = parts.first().map_or("", |part| part.name.as_str());
        if !listeners {
            let message = format!("profile `{name}` has no listener");
            self.found.push(
                Problem::error("profile.no-listener", place, message)
                    .with_label("no listener")
                    .with_help(format!(
                        "add `[[profile.{name}.listener]]` with `listen = \"0.0.0.0:8443\"`"
                    )),
            );
        }
        if !routes {
            let message = format!("profile `{name}` has no route");
            self.found.push(
                Problem::error("profile.no-route", place, message)
                    .with_label("every request would be answered 404")
                    .with_help(format!(
                        "add `[[profile.{name}.route]]` with a `path` and an `upstream`"
                    )),
            );
        }
    }

    fn components_have_routes(&mut self, parts: &[&NamedTable<ProfileFile>]) {
        if parts.iter().any(|part| part.body.is_none() || self.found.is_damaged(part.place)) {
            return;
        }
        let bodies =
            || parts.iter().filter_map(|part| Some((part.place.file, part.body.as_ref()?)));
        let routed: Vec<&str> = bodies()
            .flat_map(|(_, body)| body.route.iter().flat_map(|list| &list.value))
            .filter_map(|route| Some(route.value.upstream.as_ref()?.value.as_str()))
            .collect();
        for (file, body) in bodies() {
            self.file = file;
            for listener in body.listener.iter().flat_map(|list| &list.value) {
                let Some(component) = &listener.value.component else { continue };
                if routed.contains(&component.value.as_str()) {
                    continue;
                }
                let message = format!(
                    "this port would serve nothing: no route goes to `{}`",
                    component.value
                );
                self.found.push(
                    Problem::error(
                        "listener.component-without-route",
                        self.place(component),
                        message,
                    )
                    .with_label("a component's port opens the routes to it, and only those")
                    .with_help(
                        "add a route with this `upstream` to the profile, or take the listener out",
                    ),
                );
            }
        }
    }

    fn limits(&mut self, file: Option<&LimitsFile>) -> Limits {
        let header_size =
            self.size(file.and_then(|f| f.header_size.as_ref()), 32 << 10, 1 << 10..=64 << 10);
        let connections = file.and_then(|f| f.connections.as_ref());
        let connections = self.count(connections, 20_000, 1..=1_000_000);
        let per_client = file.and_then(|f| f.connections_per_client.as_ref());
        let connections_per_client = self.count(per_client, 2_000, 1..=1_000_000);
        let requests = file.and_then(|f| f.requests.as_ref());
        let requests_per_client = file.and_then(|f| f.requests_per_client.as_ref());
        let streams = self.number(file.and_then(|f| f.streams.as_ref()), 128, 1..=1000);
        let send_buffer = file.and_then(|f| f.http2_send_buffer.as_ref());
        let send_buffer = self.size(send_buffer, 1 << 20, 64 << 10..=64 << 20);
        Limits {
            http2_send_buffer: usize::try_from(send_buffer).unwrap_or(1 << 20),
            header_count: self.count(file.and_then(|f| f.header_count.as_ref()), 100, 1..=256),
            header_size: usize::try_from(header_size).unwrap_or(32 << 10),
            connections,
            connections_per_client,
            streams: u32::try_from(streams).unwrap_or(128),
            requests: self.count(requests, 2 * connections, 1..=2_000_000),
            requests_per_client: self.count(
                requests_per_client,
                2 * connections_per_client,
                1..=2_000_000,
            ),
        }
    }

    fn timeouts(&mut self, file: Option<&TimeoutsFile>) -> Timeouts {
        let tunnel = file.and_then(|f| f.tunnel_idle.as_ref());
        let timeouts = Timeouts {
            handshake: self.timeout(file.and_then(|f| f.handshake.as_ref()), 10, 300 * SECOND),
            header: self.timeout(file.and_then(|f| f.header.as_ref()), 15, 300 * SECOND),
            keep_alive: self.timeout(file.and_then(|f| f.keep_alive.as_ref()), 75, HOUR),
            body_idle: self.timeout(file.and_then(|f| f.body_idle.as_ref()), 30, HOUR),
            min_rate: self.number(file.and_then(|f| f.min_rate.as_ref()), 200, 0..=1 << 20),
            tunnel_idle: self.duration_or_unlimited(tunnel, 120 * SECOND, SECOND..=HOURS_24),
        };
        if let Some(written) = tunnel.filter(|_| timeouts.tunnel_idle <= 25 * SECOND) {
            self.found.push(
                Problem::warning(
                    "timeouts.tunnel-idle",
                    self.place(written),
                    "idle chats would be disconnected",
                )
                .with_label(
                    "Socket.IO's heartbeat comes every 25 s unless the chat server says otherwise",
                )
                .with_help("a minute or more is safe"),
            );
        }
        timeouts
    }

    pub(super) fn timeout(
        &mut self,
        written: Option<&Written<String>>,
        default: u64,
        most: Duration,
    ) -> Duration {
        self.duration(written, Duration::from_secs(default), SECOND..=most)
    }
}

/// Whether the part has other keys than listeners and routes.
fn has_settings(body: &ProfileFile) -> bool {
    body.hosts.is_some()
        || body.certificates.is_some()
        || body.unknown_sni.is_some()
        || body.trusted_proxies.is_some()
        || body.client_address.is_some()
        || body.access_log.is_some()
        || body.max_body.is_some()
        || body.response_headers.is_some()
        || body.pass_request_headers.is_some()
        || body.limits.is_some()
        || body.timeouts.is_some()
}
