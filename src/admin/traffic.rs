//! Traffic for `/status` and the status page: last hour of each route, rejections, passthrough,
//! open tunnels.

use crate::message::Reason;
use crate::telemetry::cardinality::OTHER_LABEL;
use crate::telemetry::tcp::NO_ROUTE;

use super::AdminApi;
use super::report::{PassthroughSummary, RejectionCount, Status, TunnelList, TunnelStatus};

/// Tunnels that are shown; all are counted.
const MAX_TUNNELS_LISTED: usize = 100;

/// Puts it into the status.
pub(super) fn add(api: &AdminApi, status: &mut Status) {
    status.hours = api.page.hours();
    let so_far = api.metrics.rejections().into_iter();
    status.rejected_in_all = so_far.map(|(reason, count)| (word(reason), count)).collect();
    status.passed_through = passed_through(api);
    status.rejected = rejections(api, &status.passed_through);
    let forwards = api.page.forwards();
    status.tunnels = forwards.then(|| tunnels(api));
}

fn word(reason: usize) -> String {
    Reason::ALL.get(reason).map_or("", |reason| reason.word()).to_owned()
}

/// Rejections by route, for every kind of route. Rejections without a route are not included.
fn rejections(api: &AdminApi, passed: &[PassthroughSummary]) -> Vec<RejectionCount> {
    let by_route = api.metrics.rejections_by_route().into_iter();
    let served = by_route.map(|one| RejectionCount {
        reason: word(one.reason),
        profile: one.profile,
        route: one.route,
        count: one.count,
    });
    let passed = passed.iter().filter(|one| one.upstream.is_some()).flat_map(|one| {
        one.rejected.iter().map(|(reason, count)| RejectionCount {
            reason: reason.clone(),
            profile: one.profile.clone(),
            route: one.route.clone(),
            count: *count,
        })
    });
    let mut told: Vec<_> = served.chain(passed).collect();
    told.sort_by(|a, b| a.reason.cmp(&b.reason).then(b.count.cmp(&a.count)));
    told
}

/// The routes in the order of the configuration, then connections without a route, if any.
fn passed_through(api: &AdminApi) -> Vec<PassthroughSummary> {
    let mut counted = api.metrics.passed_through();
    let mut all = Vec::new();
    let mut add = |profile: &str, route: &str, upstream: Option<&str>| {
        // A table has a passage for each of its listeners.
        let Some(seen) = counted.remove(&(profile.to_owned(), route.to_owned())) else { return };
        if upstream.is_some() || !seen.refused.is_empty() {
            all.push(PassthroughSummary {
                profile: profile.to_owned(),
                route: route.to_owned(),
                upstream: upstream.map(str::to_owned),
                open: seen.open,
                passed: seen.passed,
                rejected: seen.refused.into_iter().collect(),
            });
        }
    };
    let serving = api.page.serving();
    for passthrough_listener in
        serving.iter().flat_map(|generation| &generation.passthrough_listeners)
    {
        let profile = &passthrough_listener.names.profile;
        for route in passthrough_listener.routes() {
            add(profile, &route.stats.name, Some(&route.upstream.name));
        }
        add(profile, NO_ROUTE, None);
    }
    add(OTHER_LABEL, OTHER_LABEL, None);
    all
}

fn tunnels(api: &AdminApi) -> TunnelList {
    let (open, oldest) = (api.way_out.oldest)(MAX_TUNNELS_LISTED);
    let shown: Vec<TunnelStatus> = serde_json::from_value(oldest).unwrap_or_default();
    TunnelList { open, shown }
}
