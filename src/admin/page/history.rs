//! History of the last hour, in memory: totals every ten seconds, each route by the minute, and all
//! figures of the last minute.

use std::collections::VecDeque;
use std::time::Duration;

use crate::admin::report::RouteHour;

use super::figures::{Figures, RouteFigures, TrafficTotals};
use super::sparkline::{RouteHistories, RouteHistory};

/// Sampling interval.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// Samples in an hour.
const MAX_SAMPLES: usize = 360;
/// Samples in a minute.
const RECENT_SAMPLES: usize = 7;
/// Routes remembered.
const MAX_ROUTES: usize = 500;

/// Sums at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TrafficSample {
    /// Per second.
    pub requests: f64,
    /// Answered with 5xx, per second.
    pub errors: f64,
    /// Open client connections.
    pub connections: f64,
    /// Open WebSockets.
    pub websockets: f64,
}

/// See the module.
#[derive(Default)]
pub(super) struct TrafficHistory {
    points: VecDeque<TrafficSample>,
    recent: VecDeque<Figures>,
    lines: RouteHistories,
    /// Looks since the last minute that was remembered.
    looks: usize,
}

impl TrafficHistory {
    /// Adds a sample and drops the oldest ones.
    pub(super) fn remember(&mut self, mut seen: Figures) {
        while seen.routes.len() > MAX_ROUTES {
            seen.routes.pop_last();
        }
        if let Some(before) = self.recent.back() {
            let point = point(&seen, before);
            self.points.push_back(point);
        }
        if self.points.len() > MAX_SAMPLES {
            self.points.pop_front();
        }
        self.recent.push_back(seen);
        if self.recent.len() > RECENT_SAMPLES {
            self.recent.pop_front();
        }
        self.looks += 1;
        if self.looks >= RECENT_SAMPLES
            && let (Some(before), Some(seen)) = (self.recent.front(), self.recent.back())
        {
            self.lines.remember(seen, before, seconds(seen, before));
            // The last look of this minute is the first of the next.
            self.looks = 1;
        }
    }

    /// The hour, oldest first.
    pub(super) fn points(&self) -> impl ExactSizeIterator<Item = &TrafficSample> + Clone {
        self.points.iter()
    }

    /// The hour of a route, if anything happened in it.
    pub(super) fn line(&self, key: &(String, String)) -> Option<&RouteHistory> {
        self.lines.of(key)
    }

    /// The hours of all routes in which anything happened.
    pub(super) fn hours(&self) -> Vec<RouteHour> {
        self.lines.told()
    }

    /// Traffic of the last minute, or of the known part of it.
    pub(super) fn now(&self, seen: &Figures) -> TrafficSample {
        match self.recent.front() {
            Some(before) => point(seen, before),
            None => point(seen, seen),
        }
    }

    /// Figures of a route since a sample, and the age of that sample in seconds.
    pub(super) fn route(
        &self,
        seen: &Figures,
        key: &(String, String),
    ) -> Option<(RouteFigures, f64)> {
        let route = seen.routes.get(key)?;
        let before = self.recent.front()?;
        Some((route.since(before.routes.get(key)), seconds(seen, before)))
    }

    /// Access-log lines lost since then.
    pub(super) fn log_lost(&self, seen: &Figures) -> f64 {
        self.recent.front().map_or(0.0, |before| seen.log_lost - before.log_lost)
    }
}

/// Between two moments, never 0.
fn seconds(seen: &Figures, before: &Figures) -> f64 {
    seen.at.saturating_duration_since(before.at).as_secs_f64().max(0.1)
}

fn point(seen: &Figures, before: &Figures) -> TrafficSample {
    let (TrafficTotals { requests, errors, connections, websockets, .. }, took) =
        (seen.totals(), seconds(seen, before));
    let earlier = before.totals();
    // Counters of routes that are gone go with them.
    let per_second = |now: f64, then: f64| ((now - then) / took).max(0.0);
    TrafficSample {
        requests: per_second(requests, earlier.requests),
        errors: per_second(errors, earlier.errors),
        connections,
        websockets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(requests: u32, after: u64, start: std::time::Instant) -> Figures {
        let mut figures = Figures::of(&format!(
            "app_gateway_http_requests_total{{class=\"2xx\",profile=\"p\",route=\"/\"}} {requests}\n"
        ));
        figures.at = start + Duration::from_secs(after);
        figures
    }

    #[test]
    fn is_bounded_and_counts_the_last_minute() {
        let (mut past, start) = (TrafficHistory::default(), std::time::Instant::now());
        for step in 0..400_u32 {
            past.remember(seen(step * 20, u64::from(step) * 10, start));
        }
        assert_eq!((past.points().len(), past.recent.len()), (MAX_SAMPLES, RECENT_SAMPLES));
        let hours = past.hours();
        assert_eq!(hours[0].requests.len(), 60);
        assert!(hours[0].requests.iter().all(|rate| (rate - 2.0).abs() < 1e-6));
        let now = past.now(&seen(400 * 20, 4000, start));
        assert!((now.requests - 2.0).abs() < 1e-9, "{now:?}");
        let less = past.now(&seen(0, 4000, start));
        assert!(less.requests.abs() < 1e-9, "{less:?}");
    }
}
