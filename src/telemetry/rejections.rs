//! Rejections per route and reason, for the status page. They are not exposed to scrapers, because
//! every pair of route and reason would be a series.
//!
//! A route without rejections costs an entry in a table, any other route eight bytes per reason.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Counters of one route, by reason index in the list given to [`super::Metrics::new`].
#[derive(Debug)]
pub struct RouteRejections {
    reasons: usize,
    counts: OnceLock<Box<[AtomicU64]>>,
}

/// Number of rejections of a route for one reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RejectionTotal {
    /// Name of the profile.
    pub profile: String,
    /// Name of the route.
    pub route: String,
    /// Index of the reason.
    pub reason: usize,
    /// Number of rejections since the route exists.
    pub count: u64,
}

/// Counters by profile and route.
#[derive(Debug, Default)]
pub(super) struct RejectionFamilies(Mutex<BTreeMap<(String, String), Arc<RouteRejections>>>);

impl RouteRejections {
    /// Counts one rejection.
    pub fn count(&self, reason: usize) {
        let none = || (0..self.reasons).map(|_| AtomicU64::new(0)).collect();
        if let Some(count) = self.counts.get_or_init(none).get(reason) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl RejectionFamilies {
    pub(super) fn handles(
        &self,
        profile: &str,
        route: &str,
        reasons: usize,
    ) -> Arc<RouteRejections> {
        let new = || Arc::new(RouteRejections { reasons, counts: OnceLock::new() });
        let key = (profile.to_owned(), route.to_owned());
        Arc::clone(self.lock().entry(key).or_insert_with(new))
    }

    pub(super) fn forget(&self, profile: &str, route: &str) {
        self.lock().remove(&(profile.to_owned(), route.to_owned()));
    }

    /// Totals other than 0.
    pub(super) fn totals(&self) -> Vec<RejectionTotal> {
        let routes = self.lock();
        let of = |((profile, route), refusals): (&(String, String), &Arc<RouteRejections>)| {
            let counts = refusals.counts.get().map_or(&[][..], |counts| counts);
            let told = counts.iter().enumerate().map(|(reason, count)| RejectionTotal {
                profile: profile.clone(),
                route: route.clone(),
                reason,
                count: count.load(Ordering::Relaxed),
            });
            told.filter(|one| one.count > 0).collect::<Vec<_>>()
        };
        routes.iter().flat_map(of).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Arc<RouteRejections>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::Metrics;

    #[test]
    fn a_route_is_counted_under_its_name_until_it_is_gone() {
        let metrics = Metrics::new(["a", "b"].into_iter()).unwrap();
        let (first, again, other) =
            (metrics.route("p", "r"), metrics.route("p", "r"), metrics.route("p", "s"));
        first.refusals.count(1);
        again.refusals.count(1);
        again.refusals.count(99);
        let told = metrics.rejections_by_route();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].route.as_str(), told[0].reason, told[0].count), ("r", 1, 2));
        drop((first, again));
        assert!(metrics.rejections_by_route().is_empty());
        other.refusals.count(0);
        assert_eq!(metrics.rejections_by_route()[0].route, "s");
    }
}
