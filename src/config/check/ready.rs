//! `ready`: upstreams that must be up for the gateway to be ready.
//!
//! Resolves names to upstreams. Their health is unknown here.

use crate::config::checked::{Action, Profile, Upstream, UpstreamId};
use crate::config::deserialize::NamedTable;
use crate::config::file::{AdminFile, Written};
use crate::config::problem::Problem;

use super::{Checker, NameSet};

/// The upstreams that `ready` routes of a profile depend on.
pub(super) fn required_upstreams(profile: &Profile) -> impl Iterator<Item = &UpstreamId> {
    profile.routes.iter().flat_map(|route| match &route.action {
        Action::Ready(upstreams) => upstreams.as_slice(),
        _ => &[],
    })
}

impl Checker<'_> {
    pub(super) fn ready_admin(
        &mut self,
        items: &[NamedTable<AdminFile>],
        upstreams: &mut NameSet,
    ) -> Vec<UpstreamId> {
        let Some(item) = items.first() else { return Vec::new() };
        self.file = item.place.file;
        let list = item.body.as_ref().and_then(|body| body.ready.as_ref());
        list.map_or(Vec::new(), |list| self.ready(list, upstreams))
    }

    /// The upstreams of a list.
    pub(super) fn ready(
        &mut self,
        list: &Written<Vec<Written<String>>>,
        upstreams: &mut NameSet,
    ) -> Vec<UpstreamId> {
        let mut ids = Vec::new();
        for written in &list.value {
            if let Some(index) = upstreams.find(&written.value) {
                ids.push(UpstreamId(index));
            } else {
                let place = self.place(written);
                self.found.push(upstreams.unknown("ready.unknown-upstream", &written.value, place));
            }
        }
        ids
    }

    /// Warns of an upstream that readiness depends on but that has no health check.
    pub(super) fn unchecked(&mut self, upstream: Option<&Upstream>) {
        let Some(upstream) = upstream.filter(|upstream| upstream.check.is_none()) else { return };
        let message = format!("readiness depends on `{}`, which is not checked", upstream.name);
        self.found.push(
            Problem::warning("ready.unchecked", upstream.place, message)
                .with_label("it always counts as up")
                .with_help("add `check = { path = \"/health\" }` with the path of the component"),
        );
    }
}
