//! `[gateway.drift]`, and routes with `drift = true`: the peers of the comparison, and the routes
//! that answer them.
//!
//! Produces a [`Drift`], if configured. A comparison without a shared secret is rejected.

use std::time::Duration;

use http::HeaderValue;

use crate::config::checked::{Action, Drift, Gateway, PathPattern, Profile, Route, UpstreamId};
use crate::config::deserialize::NamedTable;
use crate::config::file::{DriftFile, GatewayFile, Written};
use crate::config::problem::{Problem, Span};

use super::{Checker, NameSet, route};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);

/// Default path of the peers' route.
const DEFAULT_PATH: &str = "/drift";

impl Checker<'_> {
    pub(super) fn drift(
        &mut self,
        items: &[NamedTable<GatewayFile>],
        gateway: &Gateway,
        upstreams: &mut NameSet,
    ) -> Option<Drift> {
        let item = items.first()?;
        self.file = item.place.file;
        let written = item.body.as_ref()?.drift.as_ref()?;
        let file = &written.value;
        if gateway.shared_secret.is_none() {
            self.no_secret(self.place(&file.peers));
        }
        let mut peers = Vec::new();
        for peer in &file.peers.value {
            let place = self.place(peer);
            match upstreams.find(&peer.value) {
                Some(index) => peers.push(UpstreamId(index)),
                None => {
                    self.found.push(upstreams.unknown(
                        "drift.unknown-upstream",
                        &peer.value,
                        place,
                    ));
                }
            }
        }
        if file.peers.value.is_empty() && !self.found.is_damaged(self.place(&file.peers)) {
            self.found.push(
                Problem::error("drift.peers", self.place(&file.peers), "no gateway is compared")
                    .with_label("an empty list")
                    .with_help("name an upstream whose endpoint is the other gateway, or take the table out"),
            );
        }
        let ignore = file.ignore.iter().flat_map(|list| &list.value);
        let ignore = ignore.map(|one| (one.value.clone(), self.place(one))).collect();
        let (path, host) = self.asked(file);
        let interval = self.duration(file.interval.as_ref(), DEFAULT_INTERVAL, INTERVALS);
        Some(Drift { peers, path, host, interval, ignore })
    }

    /// Path and `Host`, which are copied unchanged into a request head.
    fn asked(&mut self, file: &DriftFile) -> (String, Option<String>) {
        if let Some(written) = &file.path
            && let Err((said, help)) = route::path(&written.value, true)
        {
            let message = format!("`{}` is not the path of a route", written.value);
            let problem = Problem::error("drift.path", self.place(written), message);
            self.found.push(problem.with_label(said).with_help(help));
        }
        let unfit = |host: &&Written<String>| {
            let text = &host.value;
            text.is_empty() || text.contains(' ') || HeaderValue::from_str(text).is_err()
        };
        if let Some(written) = file.host.as_ref().filter(unfit) {
            let message = format!("`{}` is not a host", written.value);
            self.found.push(
                Problem::error("drift.host", self.place(written), message)
                    .with_label("one that the other gateway's profile answers for"),
            );
        }
        let path = file.path.as_ref().map_or(DEFAULT_PATH, |written| written.value.as_str());
        (path.to_owned(), file.host.as_ref().map(|written| written.value.clone()))
    }

    /// Checks the routes that answer other gateways.
    pub(super) fn drift_routes(&mut self, profiles: &[Profile], gateway: &Gateway) {
        let routes = profiles.iter().flat_map(|profile| &profile.routes);
        let all: Vec<&Route> = routes.filter(|route| route.action == Action::Drift).collect();
        for route in all {
            if gateway.shared_secret.is_none() {
                self.no_secret(route.place);
            }
            if matches!(route.path, PathPattern::Subtree(_)) {
                let message = "a route with `drift` takes one path, not all below it";
                self.found.push(
                    Problem::error("drift.subtree", route.place, message)
                        .with_label("the redirect to it would reveal the route to strangers")
                        .with_help("remove the `/` at its end"),
                );
            }
            if !route.methods.is_empty() {
                let message = "a route with `drift` takes no `methods`";
                self.found.push(
                    Problem::error("drift.methods", route.place, message)
                        .with_label("a 405 would reveal the route to strangers")
                        .with_help("take `methods` out"),
                );
            }
        }
    }

    fn no_secret(&mut self, place: Span) {
        self.found.push(
            Problem::error("drift.secret", place, "a comparison needs a shared secret")
                .with_label("without it anyone could read the answer")
                .with_help(
                    "make one with `app-gateway secret new FILE`, and name it as `shared-secret-file` under `[gateway]`",
                ),
        );
    }
}
