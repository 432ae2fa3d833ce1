//! `[forward]`: the forward proxy.
//!
//! Like a profile it may be spread over files: one has the settings, any may add listeners, rules
//! and parents.
//!
//! Combines all parts to a [`Forward`]. The users file is not read, and no name is looked up.

mod hosts;
mod nat64;
mod parent;
mod rule;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::checked::{
    CertificateId, ClientCertificates, Forward, ForwardLimits, ForwardListener, ForwardTimeouts,
    UsersFile, Verify, is_loopback,
};
use crate::config::deserialize::NamedTable;
use crate::config::file::{
    ForwardFile, ForwardLimitsFile, ForwardListenerFile, ForwardTimeoutsFile, Written,
};
use crate::config::problem::{Problem, Span};

use super::value::{self, HOURS_24};
use super::{Checker, NameSet, clash};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);

/// Names of rules and parents, with their positions.
type RuleNames = HashMap<String, Span>;

impl Checker<'_> {
    pub(super) fn forward(
        &mut self,
        items: &[NamedTable<ForwardFile>],
        certificates: &mut NameSet,
    ) -> Option<Forward> {
        let with_settings: Vec<_> =
            items.iter().filter(|item| item.body.as_ref().is_none_or(has_settings)).collect();
        self.report_duplicates(
            "forward",
            with_settings.iter().map(|item| (item.name.as_str(), item.place)),
        );
        let main = with_settings.first().copied().or(items.first())?;
        let nothing = ForwardFile::default();
        let body = main.body.as_ref().unwrap_or(&nothing);
        let before = std::mem::take(&mut self.incomplete);
        let parents = self.parents(items);
        self.file = main.place.file;
        let users = body.users_file.as_ref().and_then(|written| {
            let place = self.place(written);
            let file = self.secret(written, "users file");
            self.record_missing(file).map(|file| UsersFile { file, place })
        });
        let hosts = self.pinned_hosts(body.hosts.as_ref());
        let nat64 = self.nat64(body.nat64.as_ref());
        let https = self.absolute_form(body);
        let limits = self.forward_limits(body.limits.as_ref().map(|written| &written.value));
        let timeouts = self.forward_timeouts(body.timeouts.as_ref().map(|written| &written.value));
        let listeners = self.ways_in(items, certificates);
        let rules = self.rules(items, main);
        self.listens(items, main);
        let forward = Forward {
            place: main.place,
            listeners,
            rules,
            parents,
            users,
            https_absolute_form: https,
            hosts,
            nat64: nat64?,
            limits,
            timeouts,
        };
        // Rules or parents may be missing because of a mistake that is already reported.
        if !self.incomplete {
            self.can_be_met(&forward);
            self.open_to_all(&forward);
            self.own_parents(&forward, items);
        }
        self.incomplete |= before;
        Some(forward)
    }

    /// Whether `GET https://...` is served, and the verification of origins.
    fn absolute_form(&mut self, body: &ForwardFile) -> Option<Verify> {
        let on = body.https_absolute_form.as_ref().is_some_and(|written| written.value);
        let Some(written) = &body.https_ca_file else {
            return on.then_some(Verify::System);
        };
        let place = self.place(written);
        if !on {
            let message = "`https-ca-file` has no effect without `https-absolute-form = true`";
            self.found.push(
                Problem::error("forward.ca-without-https", place, message)
                    .with_label("the gateway opens no TLS of its own"),
            );
        }
        let file = self.readable(written, "CA file");
        let verify =
            self.record_missing(file).map_or(Verify::System, |file| Verify::Ca { file, place });
        on.then_some(verify)
    }

    fn ways_in(
        &mut self,
        items: &[NamedTable<ForwardFile>],
        certificates: &mut NameSet,
    ) -> Vec<ForwardListener> {
        let mut listeners = Vec::new();
        for (item, body) in items.iter().filter_map(|item| Some((item, item.body.as_ref()?))) {
            self.file = item.place.file;
            let all = body.listener.iter().flat_map(|list| &list.value);
            listeners.extend(all.map(|written| self.way_in(&written.value, certificates)));
        }
        self.keep_valid(listeners)
    }

    fn way_in(
        &mut self,
        file: &ForwardListenerFile,
        known: &mut NameSet,
    ) -> Option<ForwardListener> {
        let listen = self.address(&file.listen);
        let certificates = self.certificates(file.certificates.as_ref(), known);
        if let Some(list) = file.certificates.as_ref().filter(|list| list.value.is_empty())
            && !self.found.is_damaged(self.place(list))
        {
            let message = "this list of certificates is empty";
            self.found.push(
                Problem::error("forward.no-certificate", self.place(list), message)
                    .with_label("TLS, or plain HTTP?")
                    .with_help("leave `certificates` out for plain HTTP between client and proxy"),
            );
        }
        if file.certificates.is_none()
            && let Some(written) = &file.client_ca
        {
            let message = "`client-ca` has no effect on a listener without TLS";
            self.found.push(
                Problem::error("forward.client-ca-without-tls", self.place(written), message)
                    .with_label("clients show certificates in TLS only")
                    .with_help(
                        "add `certificates = [\"NAME\"]`, the name of a `[certificate.NAME]`",
                    ),
            );
        }
        let client_certificates =
            self.client_certificates(file.client_ca.as_ref(), file.client_certificate.as_ref());
        let proxy_protocol = self.proxy_protocol(file.proxy_protocol.as_ref());
        let certificates: Vec<CertificateId> = certificates;
        Some(ForwardListener {
            place: self.place(&file.listen),
            listen: listen?,
            certificates,
            client_certificates: client_certificates?,
            proxy_protocol: proxy_protocol?,
        })
    }

    fn listens(&mut self, items: &[NamedTable<ForwardFile>], main: &NamedTable<ForwardFile>) {
        if items.iter().any(|item| item.body.is_none() || self.found.is_damaged(item.place)) {
            return;
        }
        let bodies = items.iter().filter_map(|item| item.body.as_ref());
        if bodies.flat_map(|body| &body.listener).all(|list| list.value.is_empty()) {
            self.found.push(
                Problem::error(
                    "forward.no-listener",
                    main.place,
                    "the forward proxy has no listener",
                )
                .with_label("no listener")
                .with_help("add `[[forward.listener]]` with `listen = \"127.0.0.1:3128\"`"),
            );
        }
    }

    /// Reports rules whose conditions no client can meet.
    fn can_be_met(&mut self, forward: &Forward) {
        let asks =
            |listener: &ForwardListener| listener.client_certificates != ClientCertificates::Off;
        let certificates = forward.listeners.iter().any(asks);
        for rule in &forward.rules {
            if !rule.client_names.is_empty() && !certificates {
                let message = format!(
                    "rule `{}` needs a client certificate, and no listener asks for one",
                    rule.name
                );
                self.found.push(
                    Problem::error("forward.names-without-ca", rule.place, message)
                        .with_label("it has `client-names`")
                        .with_help(
                            "add `certificates` and `client-ca` to a `[[forward.listener]]`",
                        ),
                );
            }
            if !rule.users.is_empty() && forward.users.is_none() {
                let message =
                    format!("rule `{}` needs users, and there is no users file", rule.name);
                self.found.push(
                    Problem::error("forward.users-without-file", rule.place, message)
                        .with_label("it has `users`")
                        .with_help(
                            "make the file with `htpasswd -B -c forward.htpasswd USER` and add `users-file = \"forward.htpasswd\"` to `[forward]`",
                        ),
                );
            }
        }
    }

    /// Warns of rules that open the proxy to every client that can reach it.
    fn open_to_all(&mut self, forward: &Forward) {
        let Some(listener) = forward.listeners.iter().find(|l| !is_loopback(l.listen.ip())) else {
            return;
        };
        let all = |rule: &&crate::config::ForwardRule| {
            rule.effect == crate::config::RuleEffect::Allow
                && rule.users.is_empty()
                && rule.client_names.is_empty()
                && rule.clients.iter().any(|network| network.prefix_len() == 0)
        };
        for rule in forward.rules.iter().filter(all) {
            let message =
                format!("rule `{}` applies to every client that can reach the proxy", rule.name);
            self.found.push(
                Problem::warning("forward.for-everyone", rule.place, message)
                    .with_label("any client, without a password")
                    .with_related(listener.place, "other hosts can reach this listener")
                    .with_help("name the networks of your components in `clients`"),
            );
        }
    }

    /// Reports parents that are this proxy itself.
    fn own_parents(&mut self, forward: &Forward, items: &[NamedTable<ForwardFile>]) {
        let endpoints = forward.parents.iter().flat_map(|parent| &parent.endpoints);
        for endpoint in endpoints {
            let Ok(ip) = endpoint.host.parse::<IpAddr>() else { continue };
            let address = std::net::SocketAddr::new(ip, endpoint.port);
            let mut own = clash::forward_listens(items);
            let own = own.find(|(_, written)| {
                value::address(&written.value).is_ok_and(|listen| {
                    listen == address || clash::overlap(listen, address) && ip.is_loopback()
                })
            });
            let Some((file, written)) = own else { continue };
            self.found.push(
                Problem::error(
                    "forward.own-parent",
                    endpoint.place,
                    format!("`{address}` is this proxy itself"),
                )
                .with_label("every tunnel would loop back here")
                .with_related(Span::of(file, &written.span), "it listens there"),
            );
        }
    }

    fn forward_limits(&mut self, file: Option<&ForwardLimitsFile>) -> ForwardLimits {
        let of = |key: fn(&ForwardLimitsFile) -> &Option<Written<i64>>| {
            file.and_then(|file| key(file).as_ref())
        };
        let header_size = self.size(
            file.and_then(|file| file.header_size.as_ref()),
            16 << 10,
            1 << 10..=64 << 10,
        );
        ForwardLimits {
            connections: self.count(of(|f| &f.connections), 10_000, 1..=1_000_000),
            connections_per_client: self.count(
                of(|f| &f.connections_per_client),
                1_000,
                1..=1_000_000,
            ),
            tunnels: self.count(of(|f| &f.tunnels), 10_000, 1..=1_000_000),
            tunnels_per_client: self.count(of(|f| &f.tunnels_per_client), 500, 1..=1_000_000),
            request_rate_per_client: self.number(
                of(|f| &f.request_rate_per_client),
                50,
                0..=1_000_000,
            ),
            rate_per_client: self.rate(file.and_then(|file| file.rate_per_client.as_ref())),
            header_size: usize::try_from(header_size).unwrap_or(16 << 10),
            header_count: self.count(of(|f| &f.header_count), 100, 1..=256),
        }
    }

    /// Bytes per second; 0 means no limit. A limit below 1 KiB would stop the traffic.
    fn rate(&mut self, written: Option<&Written<crate::config::file::Amount>>) -> u64 {
        let rate = self.size(written, 0, 0..=1 << 40);
        if let Some(written) = written.filter(|_| (1..1024).contains(&rate)) {
            self.found.push(
                Problem::error(
                    "value.bounds",
                    self.place(written),
                    "this rate would stop every tunnel",
                )
                .with_label("at least 1KiB per second; 0 means no limit"),
            );
        }
        rate
    }

    fn forward_timeouts(&mut self, file: Option<&ForwardTimeoutsFile>) -> ForwardTimeouts {
        let of = |key: fn(&ForwardTimeoutsFile) -> &Option<Written<String>>| {
            file.and_then(|file| key(file).as_ref())
        };
        let minutes = 300 * SECOND;
        ForwardTimeouts {
            handshake: self.timeout(of(|f| &f.handshake), 10, minutes),
            header: self.timeout(of(|f| &f.header), 10, minutes),
            keep_alive: self.timeout(of(|f| &f.keep_alive), 75, HOUR),
            connect: self.timeout(of(|f| &f.connect), 10, minutes),
            client_hello: self.timeout(of(|f| &f.client_hello), 10, minutes),
            idle: self.timeout(of(|f| &f.idle), 600, HOURS_24),
            max_lifetime: self.duration(
                of(|f| &f.max_lifetime),
                HOURS_24,
                Duration::ZERO..=7 * HOURS_24,
            ),
            first_byte: self.timeout(of(|f| &f.first_byte), 60, HOUR),
        }
    }
}

/// Whether the part has other keys than listeners, rules and parents.
const fn has_settings(body: &ForwardFile) -> bool {
    body.users_file.is_some()
        || body.https_absolute_form.is_some()
        || body.https_ca_file.is_some()
        || body.hosts.is_some()
        || body.nat64.is_some()
        || body.via.is_some()
        || body.mode.is_some()
        || body.sni.is_some()
        || body.limits.is_some()
        || body.timeouts.is_some()
}
