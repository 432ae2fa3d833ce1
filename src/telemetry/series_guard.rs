//! Series that last as long as somebody counts on them.
//!
//! A route that is gone from the configuration is gone from the metrics once its last request and
//! tunnel are, so a gateway that is reloaded for years has the series of today's configuration and
//! no others. What stays configured is counted on: the handles of the next generation are leased
//! before those of the last are given back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::proto::LabelPair;

use super::Metrics;
use super::websockets::WebSocketMetrics;

/// The series of one thing with a name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum SeriesKind {
    /// Profile and route.
    Route(String, String),
    /// Profile and listener.
    Listener(String, String),
    /// Upstream.
    Upstream(String),
    /// Profile and route of what is passed through.
    Tcp(String, String),
    /// Rule of the forward proxy. Nobody leases these.
    Rule(String),
}

impl SeriesKind {
    /// Whose series one with these labels is.
    pub(super) fn of(labels: &[LabelPair]) -> Option<Self> {
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

/// How many leases there are of what.
pub(super) type SeriesCounts = Mutex<HashMap<SeriesKind, usize>>;

/// Keeps series from ending.
pub struct SeriesGuard {
    metrics: Arc<Metrics>,
    series: SeriesKind,
}

impl SeriesGuard {
    /// To be taken before a series is looked up.
    pub(super) fn of(metrics: &Arc<Metrics>, series: SeriesKind) -> Arc<Self> {
        let mut leases = metrics.leases.lock().unwrap_or_else(PoisonError::into_inner);
        *leases.entry(series.clone()).or_default() += 1;
        drop(leases);
        Arc::new(Self { metrics: Arc::clone(metrics), series })
    }

    /// Handles for the WebSockets of the route it is for; they last as long as the lease.
    pub(super) fn websockets(&self) -> Option<WebSocketMetrics> {
        let SeriesKind::Route(profile, route) = &self.series else { return None };
        Some(self.metrics.websockets.handles(profile, route))
    }
}

impl Drop for SeriesGuard {
    fn drop(&mut self) {
        // Held until the series is gone, so that nobody leases one that is about to go.
        let mut leases = self.metrics.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = leases.get_mut(&self.series) else { return };
        *count -= 1;
        if *count == 0 {
            leases.remove(&self.series);
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
        // What the system says of the process changes meanwhile.
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
        // A reload: the new one is there before the old one goes.
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
        assert!(metrics.leases.lock().unwrap().is_empty());
    }
}
