//! Conflicts between items: addresses bound twice, duplicate routes, endpoints that are listeners,
//! redirect loops.
//!
//! Compares all items of all files. Each problem shows both positions; conflicts are not resolved.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use crate::config::checked::PathPattern;
use crate::config::deserialize::{NamedTable, ParsedFiles};
use crate::config::file::{ForwardFile, ProfileFile, RouteFile, TcpFile, Written};
use crate::config::problem::{Problem, Span};

use super::{Checker, route, upstream, value};

impl Checker<'_> {
    /// With `SO_REUSEPORT`, which every worker needs, the kernel lets two listeners share an
    /// address and distributes connections between them. That is never intended.
    pub(super) fn clashing_addresses(&mut self, shaped: &ParsedFiles) {
        let admin = shaped
            .admin
            .iter()
            .filter_map(|item| Some((item.place.file, item.body.as_ref()?.listen.as_ref()?)));
        let mut by_port: HashMap<u16, Vec<(SocketAddr, Span)>> = HashMap::new();
        let profiles_and_forward =
            listeners(&shaped.profiles).chain(forward_listens(&shaped.forward));
        for (file, written) in
            profiles_and_forward.chain(passthrough_listens(&shaped.tcp)).chain(admin)
        {
            let Ok(address) = value::address(&written.value) else { continue };
            let place = Span::of(file, &written.span);
            let others = by_port.entry(address.port()).or_default();
            let clash = others.iter().find(|(other, _)| overlap(*other, address)).copied();
            others.push((address, place));
            let Some((other, before)) = clash else { continue };
            let problem = if other == address {
                Problem::error("listen.twice", place, format!("two listeners use {address}"))
                    .with_help(
                        "connections would be distributed between them at random: change one",
                    )
            } else {
                let message = format!("{address} and {other} are the same port of the same host");
                Problem::error("listen.overlap", place, message).with_help(
                    "0.0.0.0 is every address of this host: name the addresses, or change a port",
                )
            };
            self.found.push(problem.with_label("here").with_related(before, "and here"));
        }
    }

    /// An endpoint that is one of the gateway's own addresses would cause a request loop.
    pub(super) fn own_endpoints(&mut self, shaped: &ParsedFiles) {
        let listening: Vec<(SocketAddr, Span)> = listeners(&shaped.profiles)
            .chain(passthrough_listens(&shaped.tcp))
            .filter_map(|(file, written)| {
                Some((value::address(&written.value).ok()?, Span::of(file, &written.span)))
            })
            .collect();
        let endpoints = shaped.upstreams.iter().flat_map(|item| {
            let endpoints = item.body.iter().flat_map(|body| {
                let backups = body.backup.iter().flat_map(|list| &list.value);
                body.endpoints.value.iter().chain(backups)
            });
            endpoints.map(move |written| (item, written))
        });
        for (item, written) in endpoints {
            let place = Span::of(item.place.file, &written.span);
            let Ok(endpoint) = upstream::endpoint(&written.value, place) else { continue };
            let Ok(ip) = endpoint.host.parse::<IpAddr>() else { continue };
            let ports = same_ports(&shaped.tcp, &item.name);
            for port in ports.chain([endpoint.port]).collect::<BTreeSet<_>>() {
                let address = SocketAddr::new(ip, port);
                let shown = if port == endpoint.port {
                    written.value.clone()
                } else {
                    format!("{address}, by same-port")
                };
                self.own_address((address, place), &shown, &listening);
            }
        }
    }

    fn own_address(
        &mut self,
        (address, place): (SocketAddr, Span),
        written: &str,
        listening: &[(SocketAddr, Span)],
    ) {
        let ip = address.ip();
        // Every host has loopback addresses; its other addresses are unknown here.
        let ours = |listen: &SocketAddr| {
            *listen == address || overlap(*listen, address) && ip.is_loopback()
        };
        let Some((listen, at)) = listening.iter().find(|(listen, _)| ours(listen)) else { return };
        let problem = if *listen == address {
            Problem::error(
                "upstream.own-address",
                place,
                format!("`{written}` is the gateway itself"),
            )
            .with_label("every request would loop back here")
            .with_related(*at, "the gateway listens there")
        } else {
            let message = format!("`{written}` and the gateway need the same port");
            Problem::warning("upstream.own-address", place, message)
                .with_label("on this host only one of them can have it")
                .with_related(*at, "the gateway listens on every address, that one included")
        };
        self.found.push(problem.with_help(
            "name the component's host; if it is this one, let the gateway listen on a different address",
        ));
    }

    /// Routes of one profile that would take the same request, and redirects to themselves.
    pub(super) fn clashing_routes(&mut self, parts: &[&NamedTable<ProfileFile>]) {
        let routes: Vec<(&RouteFile, PathPattern, Span)> = parts
            .iter()
            .flat_map(|item| {
                let routes =
                    item.body.iter().flat_map(|body| &body.route).flat_map(|list| &list.value);
                routes.map(|written| (item.place.file, &written.value))
            })
            .filter_map(|(file, written)| {
                let exact = written.exact.as_ref().is_some_and(|exact| exact.value);
                let pattern = route::path(&written.path.value, exact).ok()?;
                Some((written, pattern, Span::of(file, &written.path.span)))
            })
            .collect();
        self.same_request(&routes);
        self.same_name(&routes);
        let patterns: HashSet<(&str, bool)> =
            routes.iter().map(|(_, pattern, _)| (pattern.as_str(), is_exact(pattern))).collect();
        for (written, pattern, place) in &routes {
            let Some(target) = &written.redirect else { continue };
            let path = target.value.split(['?', '#']).next().unwrap_or_default();
            if best(&patterns, path) == Some((pattern.as_str(), is_exact(pattern))) {
                let message = format!("`{}` redirects to itself", pattern.as_str());
                let target = Span { file: place.file, ..Span::of(place.file, &target.span) };
                self.found.push(
                    Problem::error("route.redirect-loop", target, message)
                        .with_label(
                            "no other route takes this path, so it would be redirected again",
                        )
                        .with_related(*place, "this route takes it")
                        .with_help(
                            "add a route for the target; for the root alone, write `exact = true`",
                        ),
                );
            }
        }
    }

    fn same_request(&mut self, routes: &[(&RouteFile, PathPattern, Span)]) {
        let mut seen: HashMap<&PathPattern, Vec<(&RouteFile, Span)>> = HashMap::new();
        for (written, pattern, place) in routes {
            let others = seen.entry(pattern).or_default();
            if let Some((_, before)) =
                others.iter().find(|(other, _)| methods_overlap(other, written))
            {
                let message =
                    format!("two routes take the same requests for `{}`", pattern.as_str());
                self.found.push(
                    Problem::error("route.twice", *place, message)
                        .with_label("the second route")
                        .with_related(*before, "the first route")
                        .with_help(
                            "remove one, or give them different `methods` (GET includes HEAD)",
                        ),
                );
            }
            others.push((written, *place));
        }
    }

    /// Route names distinguish routes in logs and metrics, so they must differ.
    fn same_name(&mut self, routes: &[(&RouteFile, PathPattern, Span)]) {
        let mut seen: HashMap<&str, (Span, &PathPattern)> = HashMap::new();
        for (written, pattern, place) in routes {
            let name = written.name.as_ref().map_or(&written.path.value, |name| &name.value);
            let at = written.name.as_ref().map_or(*place, |name| Span::of(place.file, &name.span));
            let Some((before, other)) = seen.get(name.as_str()).copied() else {
                seen.insert(name, (at, pattern));
                continue;
            };
            // Routes of one path with different methods may share a name.
            if other != pattern {
                self.found.push(
                    Problem::error(
                        "route.name-twice",
                        at,
                        format!("two routes are called `{name}`"),
                    )
                    .with_label("the second time")
                    .with_related(before, "the first time")
                    .with_help("logs and metrics could not distinguish them: rename one"),
                );
            }
        }
    }
}

/// Every `listen` of every profile, with its file.
fn listeners(
    profiles: &[NamedTable<ProfileFile>],
) -> impl Iterator<Item = (u16, &Written<String>)> {
    profiles.iter().flat_map(|item| {
        let listeners =
            item.body.iter().flat_map(|body| &body.listener).flat_map(|list| &list.value);
        listeners.map(|listener| (item.place.file, &listener.value.listen))
    })
}

/// Every `listen` of the forward proxy, with its file.
pub(super) fn forward_listens(
    forward: &[NamedTable<ForwardFile>],
) -> impl Iterator<Item = (u16, &Written<String>)> {
    forward.iter().flat_map(|item| {
        let listeners =
            item.body.iter().flat_map(|body| &body.listener).flat_map(|list| &list.value);
        listeners.map(|listener| (item.place.file, &listener.value.listen))
    })
}

/// Every `listen` of every passthrough table, with its file.
fn passthrough_listens(
    tcp: &[NamedTable<TcpFile>],
) -> impl Iterator<Item = (u16, &Written<String>)> {
    tcp.iter().flat_map(|item| {
        let listeners =
            item.body.iter().flat_map(|body| &body.listener).flat_map(|list| &list.value);
        listeners.map(|listener| (item.place.file, &listener.value.listen))
    })
}

/// Ports of endpoints that are copied from the port of the client's connection (`same-port`).
fn same_ports<'a>(
    tcp: &'a [NamedTable<TcpFile>],
    upstream: &'a str,
) -> impl Iterator<Item = u16> + use<'a> {
    let leads = move |item: &&NamedTable<TcpFile>| {
        let routes = item.body.iter().flat_map(|body| &body.route).flat_map(|list| &list.value);
        let mut routes = routes.map(|written| &written.value);
        routes.any(|route| {
            route.upstream.value == upstream && route.same_port.as_ref().is_some_and(|on| on.value)
        })
    };
    let items = tcp.iter().filter(leads);
    let listens = items.flat_map(|item| passthrough_listens(std::slice::from_ref(item)));
    listens.filter_map(|(_, written)| Some(value::address(&written.value).ok()?.port()))
}

/// Whether two programs cannot both bind these addresses.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port()
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn methods_overlap(a: &RouteFile, b: &RouteFile) -> bool {
    let (Some(a), Some(b)) = (&a.methods, &b.methods) else { return true };
    a.value.iter().any(|a| {
        let a = a.value.as_str();
        b.value
            .iter()
            .map(|b| b.value.as_str())
            .any(|b| a == b || a == "GET" && b == "HEAD" || a == "HEAD" && b == "GET")
    })
}

fn is_exact(pattern: &PathPattern) -> bool {
    matches!(pattern, PathPattern::Exact(_))
}

/// The pattern that takes `path`, with whether it is exact: the path itself, or the longest subtree
/// that contains it. Looks up the prefixes of the path and does not compare every pattern, because
/// there may be thousands of redirects among thousands of routes.
fn best<'a>(patterns: &HashSet<(&str, bool)>, path: &'a str) -> Option<(&'a str, bool)> {
    let ends = (0..=path.len()).rev();
    let roots = ends.filter_map(|end| path.get(..end)).map(|root| (root, false));
    std::iter::once((path, true)).chain(roots).find(|one| patterns.contains(one))
}
