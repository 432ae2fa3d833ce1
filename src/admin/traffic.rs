//! What is going on: the hour of each route, what was refused and where, the open tunnels. For
//! `/status` and for the status page, which say the same.

use crate::message::Reason;

use super::Desk;
use super::report::{RefusedBy, Status, Tunnel, Tunnels};

/// Tunnels that are shown; all are counted.
const SHOWN: usize = 100;

/// Puts it into the status.
pub(super) fn add(desk: &Desk, status: &mut Status) {
    status.hours = desk.page.hours();
    status.refused = refused(desk);
    let forwards = desk.page.forwards();
    status.tunnels = forwards.then(|| tunnels(desk));
}

fn refused(desk: &Desk) -> Vec<RefusedBy> {
    let by_route = desk.metrics.refused_by_route().into_iter();
    let told = by_route.map(|one| RefusedBy {
        reason: Reason::ALL.get(one.reason).map_or("", |reason| reason.word()).to_owned(),
        profile: one.profile,
        route: one.route,
        count: one.count,
    });
    let mut told: Vec<_> = told.collect();
    told.sort_by(|a, b| a.reason.cmp(&b.reason).then(b.count.cmp(&a.count)));
    told
}

fn tunnels(desk: &Desk) -> Tunnels {
    let (open, oldest) = (desk.way_out.oldest)(SHOWN);
    let shown: Vec<Tunnel> = serde_json::from_value(oldest).unwrap_or_default();
    Tunnels { open, shown }
}
