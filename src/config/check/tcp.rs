//! `[tcp.NAME]`: passthrough listeners and routes.
//!
//! Produces [`Tcp`]s. A server name with two routes is rejected, and so is a table without
//! listeners or routes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::addr::HostPattern;
use crate::config::checked::{
    OnEndpointChange, Tcp, TcpLimits, TcpListener, TcpRoute, TcpTimeouts, UpstreamId,
};
use crate::config::deserialize::NamedTable;
use crate::config::file::{OnEndpointChangeFile, ProfileFile, TcpFile, TcpRouteFile, Written};
use crate::config::problem::{Problem, Span};

use super::value::HOURS_24;
use super::{Checker, NameSet};

const SECOND: Duration = Duration::from_secs(1);

/// Name of a route without server names.
const CATCH_ALL_NAME: &str = "any";

impl Checker<'_> {
    pub(super) fn tcp(
        &mut self,
        items: &[NamedTable<TcpFile>],
        profiles: &[NamedTable<ProfileFile>],
        upstreams: &mut NameSet,
    ) -> Vec<Tcp> {
        self.report_duplicates("tcp", items.iter().map(|item| (item.name.as_str(), item.place)));
        for item in items {
            self.name(&item.name, item.place);
            let twin = profiles.iter().find(|profile| profile.name == item.name);
            if let Some(twin) = twin {
                let message = format!("a profile is called `{}` too", item.name);
                self.found.push(
                    Problem::error("tcp.profile", item.place, message)
                        .with_label("logs and metrics could not distinguish them")
                        .with_related(twin.place, "the profile")
                        .with_help("rename one of them"),
                );
            }
        }
        let all: Vec<_> = items.iter().map(|item| self.one_tcp(item, upstreams)).collect();
        self.keep_valid(all)
    }

    fn one_tcp(&mut self, item: &NamedTable<TcpFile>, upstreams: &mut NameSet) -> Option<Tcp> {
        self.file = item.place.file;
        let body = item.body.as_ref()?;
        let clients = body.clients.iter().flat_map(|list| &list.value);
        let clients: Vec<_> =
            clients.filter_map(|written| self.network(written, "tcp.clients")).collect();
        if let Some(list) = body.clients.as_ref().filter(|list| list.value.is_empty())
            && !self.found.is_damaged(self.place(list))
        {
            let problem = Problem::error("tcp.clients", self.place(list), "no client may connect");
            self.found.push(
                problem
                    .with_label("an empty list")
                    .with_help("leave `clients` out to let any client connect"),
            );
        }
        let limits = body.limits.as_ref().map(|written| &written.value);
        let timeouts = body.timeouts.as_ref().map(|written| &written.value);
        let idle = timeouts.and_then(|t| t.idle.as_ref());
        let listeners = body.listener.iter().flat_map(|list| &list.value).map(|written| {
            let file = &written.value;
            let listen = self.address(&file.listen);
            let proxy_protocol = self.proxy_protocol(file.proxy_protocol.as_ref());
            Some(TcpListener {
                place: self.place(&file.listen),
                listen: listen?,
                proxy_protocol: proxy_protocol?,
            })
        });
        let listeners: Vec<_> = listeners.collect();
        let written: Vec<_> = body.route.iter().flat_map(|list| &list.value).collect();
        let routes: Vec<_> =
            written.iter().map(|written| self.tcp_route(&written.value, upstreams)).collect();
        self.tcp_serves(item, body);
        self.tcp_clash(&written);
        let (listeners, routes) = (self.keep_valid(listeners), self.keep_valid(routes));
        Some(Tcp {
            name: item.name.clone(),
            place: item.place,
            clients,
            access_log: body.access_log.as_ref().is_none_or(|on| on.value),
            on_failover: fate(body.on_failover.as_ref()),
            on_failback: fate(body.on_failback.as_ref()),
            close_spread: self.duration(
                body.close_spread.as_ref(),
                10 * SECOND,
                Duration::ZERO..=Duration::from_mins(10),
            ),
            limits: TcpLimits {
                connections: self.count(
                    limits.and_then(|l| l.connections.as_ref()),
                    20_000,
                    1..=1_000_000,
                ),
                connections_per_client: self.count(
                    limits.and_then(|l| l.connections_per_client.as_ref()),
                    2_000,
                    1..=1_000_000,
                ),
            },
            timeouts: TcpTimeouts {
                client_hello: self.timeout(
                    timeouts.and_then(|t| t.client_hello.as_ref()),
                    10,
                    300 * SECOND,
                ),
                idle: self.duration(idle, 600 * SECOND, SECOND..=7 * HOURS_24),
                max_lifetime: self.duration(
                    timeouts.and_then(|t| t.max_lifetime.as_ref()),
                    Duration::ZERO,
                    Duration::ZERO..=7 * HOURS_24,
                ),
            },
            listeners,
            routes,
        })
    }

    fn tcp_route(&mut self, file: &TcpRouteFile, upstreams: &mut NameSet) -> Option<TcpRoute> {
        let names = file.server_names.iter().flat_map(|list| &list.value);
        let names: Vec<_> = names.map(|written| self.server_name_pattern(written)).collect();
        if let Some(list) = file.server_names.as_ref().filter(|list| list.value.is_empty())
            && !self.found.is_damaged(self.place(list))
        {
            let problem = Problem::error(
                "tcp.server-names",
                self.place(list),
                "this route matches no server name",
            );
            self.found.push(problem.with_label("an empty list").with_help(
                "leave `server-names` out to take every connection that no other route takes",
            ));
        }
        let place = self.place(&file.upstream);
        let Some(index) = upstreams.find(&file.upstream.value) else {
            let problem = upstreams.unknown("tcp.unknown-upstream", &file.upstream.value, place);
            self.found.strike(place, problem);
            return None;
        };
        Some(TcpRoute {
            place,
            name: name_of(file).to_owned(),
            server_names: names.into_iter().collect::<Option<_>>()?,
            upstream: UpstreamId(index),
            same_port: file.same_port.as_ref().is_some_and(|same| same.value),
        })
    }

    fn server_name_pattern(&mut self, written: &Written<String>) -> Option<HostPattern> {
        let said = match HostPattern::parse(&written.value) {
            // RFC 6066 section 3 excludes addresses from SNI.
            Ok(name) if name.as_str().parse::<IpAddr>().is_ok() => {
                "clients send no address as a server name".to_owned()
            }
            Ok(name) => return Some(name),
            Err(said) => said,
        };
        let message = format!("`{}` is not a server name", written.value);
        let problem = Problem::error("tcp.server-names", self.place(written), message);
        self.found.push(
            problem
                .with_label(said)
                .with_help("write `chat.example.com`, or `*.example.com` for one label more"),
        );
        None
    }

    fn tcp_serves(&mut self, item: &NamedTable<TcpFile>, body: &TcpFile) {
        if self.found.is_damaged(item.place) {
            return;
        }
        if body.listener.as_ref().is_none_or(|list| list.value.is_empty()) {
            let message = format!("`[tcp.{}]` has no listener", item.name);
            let help =
                format!("add `[[tcp.{}.listener]]` with `listen = \"0.0.0.0:8443\"`", item.name);
            let problem = Problem::error("tcp.no-listener", item.place, message);
            self.found.push(problem.with_label("no listener").with_help(help));
        }
        if body.route.as_ref().is_none_or(|list| list.value.is_empty()) {
            let message = format!("`[tcp.{}]` has no route", item.name);
            let help = format!(
                "add `[[tcp.{}.route]]` with `server-names = [\"chat.example.com\"]` and `upstream = \"NAME\"`",
                item.name
            );
            let problem = Problem::error("tcp.no-route", item.place, message);
            self.found
                .push(problem.with_label("every connection would be rejected").with_help(help));
        }
    }

    /// Reports server names with two routes, and duplicate route names.
    fn tcp_clash(&mut self, routes: &[&Written<TcpRouteFile>]) {
        let mut leads: HashMap<String, Span> = HashMap::new();
        let mut called: HashMap<&str, Span> = HashMap::new();
        let mut rest: Option<Span> = None;
        for file in routes.iter().map(|written| &written.value) {
            let own = self.place(&file.upstream);
            for written in file.server_names.iter().flat_map(|list| &list.value) {
                let Ok(name) = HostPattern::parse(&written.value) else { continue };
                let place = self.place(written);
                if let Some(before) = leads.insert(name.as_str().to_owned(), place) {
                    let message = format!("two routes take `{name}`");
                    self.found.push(
                        Problem::error("tcp.name-twice", place, message)
                            .with_label("the second time")
                            .with_related(before, "the first time"),
                    );
                }
            }
            if file.server_names.is_none()
                && let Some(before) = rest.replace(own)
            {
                self.found.push(
                    Problem::error(
                        "tcp.rest-twice",
                        own,
                        "two catch-all routes (without `server-names`) in one table",
                    )
                    .with_label("the second one")
                    .with_related(before, "the first one")
                    .with_help("give one of them `server-names`"),
                );
                continue;
            }
            if let Some(before) = called.insert(name_of(file), own) {
                let message = format!("two routes are called `{}`", name_of(file));
                self.found.push(
                    Problem::error("tcp.route-twice", own, message)
                        .with_label("the second one")
                        .with_related(before, "the first one")
                        .with_help("logs and metrics could not distinguish them: add a `name`"),
                );
            }
        }
    }
}

/// Name of a route in logs and metrics.
fn name_of(file: &TcpRouteFile) -> &str {
    let first = file.server_names.as_ref().and_then(|list| list.value.first());
    file.name.as_ref().or(first).map_or(CATCH_ALL_NAME, |written| &written.value)
}

fn fate(written: Option<&Written<OnEndpointChangeFile>>) -> OnEndpointChange {
    match written.map(|written| written.value) {
        None | Some(OnEndpointChangeFile::Close) => OnEndpointChange::Close,
        Some(OnEndpointChangeFile::Keep) => OnEndpointChange::Keep,
    }
}
