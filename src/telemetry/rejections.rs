//! What each route refused, by reason: for the status page, not for scrapers, to whom every reason of
//! every route would be a series.
//!
//! A route that refuses nothing costs an entry in a table; one that does, eight bytes a reason.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Of one route, by the index of the reason in the list given to [`super::Metrics::new`].
#[derive(Debug)]
pub struct RouteRejections {
    reasons: usize,
    counts: OnceLock<Box<[AtomicU64]>>,
}

/// How often a route refused for a reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RejectionTotal {
    /// Its profile.
    pub profile: String,
    /// Its name.
    pub route: String,
    /// The index of the reason.
    pub reason: usize,
    /// How often, since the route is there.
    pub count: u64,
}

/// By profile and route.
#[derive(Debug, Default)]
pub(super) struct RejectionFamilies(Mutex<BTreeMap<(String, String), Arc<RouteRejections>>>);

impl RouteRejections {
    /// Counts one.
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

    /// Those that are not 0.
    pub(super) fn told(&self) -> Vec<RejectionTotal> {
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
        let told = metrics.refused_by_route();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].route.as_str(), told[0].reason, told[0].count), ("r", 1, 2));
        drop((first, again));
        assert!(metrics.refused_by_route().is_empty());
        other.refusals.count(0);
        assert_eq!(metrics.refused_by_route()[0].route, "s");
    }
}
