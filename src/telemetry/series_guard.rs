//! Guards that keep metric series for as long as they are in use.
//!
//! A route that was removed from the configuration disappears from the metrics with its last
//! request and tunnel, so that a gateway that is reloaded for years exposes only the series of its
//! current configuration. The series of items that stay configured survive a reload, because the
//! guards of the next generation are acquired before those of the last one are dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::proto::LabelPair;

use super::Metrics;
use super::websockets::WebSocketMetrics;

/// A named item that has series.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum SeriesKind {
    /// Profile and route.
    Route(String, String),
    /// Profile and listener.
    Listener(String, String),
    /// Upstream.
    Upstream(String),
    /// Profile and passthrough route.
    Tcp(String, String),
    /// Rule of the forward proxy. Rules have no guards.
    Rule(String),
}

impl SeriesKind {
    /// Item to which a series with these labels belongs.
    pub(super) fn from_labels(labels: &[LabelPair]) -> Option<Self> {
        let value = |name: &str| {
            let label = labels.iter().find(|label| label.name() == name)?;
            Some(label.value().to_owned())
        };
        if let Some(route) = value("route") {
            return Some(Self::Route(value("profile")?, route));
        }
        if let Some(route) = value("tcp_route") {
            return Some(Self::Tcp(value("profile")?, route));
        }
        if let Some(listener) = value("listener") {
            return Some(Self::Listener(value("profile")?, listener));
        }
        value("upstream").map(Self::Upstream).or_else(|| value("rule").map(Self::Rule))
    }
}

/// Number of guards per item.
pub(super) type SeriesCounts = Mutex<HashMap<SeriesKind, usize>>;

/// Keeps the series of an item.
pub struct SeriesGuard {
    metrics: Arc<Metrics>,
    series: SeriesKind,
}

impl SeriesGuard {
    /// Must be called before the series is looked up.
    pub(super) fn acquire(metrics: &Arc<Metrics>, series: SeriesKind) -> Arc<Self> {
        let mut series_counts =
            metrics.series_counts.lock().unwrap_or_else(PoisonError::into_inner);
        *series_counts.entry(series.clone()).or_default() += 1;
        drop(series_counts);
        Arc::new(Self { metrics: Arc::clone(metrics), series })
    }

    /// Metrics for the WebSockets of this guard's route; they exist as long as the guard.
    pub(super) fn websockets(&self) -> Option<WebSocketMetrics> {
        let SeriesKind::Route(profile, route) = &self.series else { return None };
        Some(self.metrics.websockets.handles(profile, route))
    }
}

impl Drop for SeriesGuard {
    fn drop(&mut self) {
        // Held until the series is removed, so that no guard is created for a series that is about
        // to end.
        let mut series_counts =
            self.metrics.series_counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = series_counts.get_mut(&self.series) else { return };
        *count -= 1;
        if *count == 0 {
            series_counts.remove(&self.series);
            self.metrics.forget(&self.series);
        }
    }
}

impl std::fmt::Debug for SeriesGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.series.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::exposition::ExpositionFormat;
    use crate::telemetry::listeners::AdmissionRejection;
    use crate::telemetry::upstreams::ConnectFailure;

    fn rendered(metrics: &Metrics) -> String {
        let text = String::from_utf8(metrics.render(ExpositionFormat::Text)).unwrap();
        // Values of the process change meanwhile.
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("process_")).collect();
        lines.join("\n")
    }

    #[test]
    fn a_series_ends_with_the_last_who_counts_on_it() {
        let metrics = Metrics::new(["a"].into_iter()).unwrap();
        let empty = rendered(&metrics);
        let (old, other) =
            (metrics.route("internet", "/x/").with_websockets(), metrics.route("internet", "/y/"));
        let listener = metrics.listener_for_balancers("internet", "127.0.0.1:1");
        let upstream = metrics.upstream("u");
        old.requests[1].inc();
        listener.reject(AdmissionRejection::Client);
        upstream.connect_failed(ConnectFailure::Tls);
        // A reload: the new guard is created before the old one is dropped.
        let new = metrics.route("internet", "/x/");
        drop((old, other));
        let text = rendered(&metrics);
        assert!(
            text.contains(
                "http_requests_total{class=\"2xx\",profile=\"internet\",route=\"/x/\"} 1"
            )
        );
        assert!(!text.contains("/y/"), "{text}");
        drop((new, listener, upstream));
        assert_eq!(rendered(&metrics), empty);
        assert!(metrics.series_counts.lock().unwrap().is_empty());
    }
}
