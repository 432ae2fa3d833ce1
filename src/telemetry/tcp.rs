//! Metrics of passthrough connections. Label values are names of the configuration and words of
//! closed lists, never client data.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use prometheus::core::Collector as _;
use prometheus::proto::{Metric, MetricFamily};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::Metrics;
use super::families::FamilyRegistry;
use super::metrics::{counters, gauges};
use super::series_guard::{SeriesGuard, SeriesKind};

/// Label value for connections without a route.
pub const NO_ROUTE: &str = "none";

/// Cause of the end of a passthrough connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PassthroughEnd {
    /// The client closed first.
    ByClient,
    /// The upstream closed first.
    ByUpstream,
    /// The client's connection broke.
    ClientBroke,
    /// The upstream's connection broke.
    UpstreamBroke,
    /// No data was sent for too long.
    Idle,
    /// The connection reached its maximum lifetime.
    Expired,
    /// The gateway drains.
    Draining,
    /// A new configuration does not allow the connection.
    Policy,
    /// The endpoint is no longer selected, and another one is.
    FailedOver,
    /// The second ClientHello has another server name.
    Rejected,
    /// The task was dropped without a cause.
    Unknown,
}

/// Words for the log and metrics, in the order of [`PassthroughEnd`].
const END_WORDS: [&str; 11] = [
    "client_closed",
    "upstream_closed",
    "client_broken",
    "upstream_broken",
    "tunnel_idle",
    "tunnel_expired",
    "draining",
    "policy",
    "failed_over",
    "rejected",
    "unknown",
];

const DIRECTIONS: [&str; 2] = ["sent", "received"];

impl PassthroughEnd {
    /// Word in the access log.
    #[must_use]
    pub fn word(self) -> &'static str {
        END_WORDS[self as usize]
    }
}

/// Metric families of passthrough connections.
pub(super) struct PassthroughFamilies {
    connections: IntCounterVec,
    active: IntGaugeVec,
    bytes: IntCounterVec,
    ends: IntCounterVec,
}

/// Metrics of one passthrough route.
pub struct PassthroughMetrics {
    /// Forwarded connections.
    pub passed: IntCounter,
    /// Open connections.
    pub active: IntGauge,
    /// Bytes to the upstream.
    pub sent: IntCounter,
    /// Bytes from the upstream.
    pub received: IntCounter,
    ends: [IntCounter; 11],
    names: [String; 2],
    connections: IntCounterVec,
    /// Counters by reason index, created on first use, so that only reasons that occurred are
    /// exposed.
    refused: Vec<OnceLock<IntCounter>>,
    _guard: Arc<SeriesGuard>,
}

/// Totals of one passthrough route.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PassthroughTotals {
    /// Open connections.
    pub open: u64,
    /// Forwarded connections.
    pub passed: u64,
    /// Rejected connections: reason word and count.
    pub refused: Vec<(String, u64)>,
}

impl Metrics {
    /// Totals of passthrough connections, by profile and route. Routes without series of their own
    /// are counted under `other` and `other`.
    #[must_use]
    pub fn passed_through(&self) -> BTreeMap<(String, String), PassthroughTotals> {
        self.tcp.totals()
    }

    /// Metrics of a passthrough route.
    #[must_use]
    pub fn tcp(self: &Arc<Self>, profile: &str, route: &str) -> PassthroughMetrics {
        let series = SeriesKind::Tcp(profile.to_owned(), route.to_owned());
        self.tcp.handles(SeriesGuard::acquire(self, series), [profile, route], self.words.len())
    }
}

impl PassthroughMetrics {
    /// Counts a rejected connection, by the index and the word of its reason.
    pub fn refused(&self, index: usize, word: &'static str) {
        if let Some(slot) = self.refused.get(index) {
            let [profile, route] = &self.names;
            let make = || self.connections.with_label_values(&[profile.as_str(), route, word]);
            slot.get_or_init(make).inc();
        }
    }

    /// Counts the end of a forwarded connection.
    pub fn ended(&self, how: PassthroughEnd) {
        self.ends[how as usize].inc();
    }
}

impl PassthroughFamilies {
    pub(super) fn new(registry: &FamilyRegistry) -> prometheus::Result<Self> {
        Ok(Self {
            connections: counters(
                registry,
                "tcp_connections_total",
                "Passthrough connections, by route and result: `ok`, or a reason word.",
                &["profile", "tcp_route", "result"],
            )?,
            active: gauges(
                registry,
                "tcp_connections_active",
                "Open passthrough connections.",
                &["profile", "tcp_route"],
            )?,
            bytes: counters(
                registry,
                "tcp_bytes_total",
                "Bytes of passthrough connections, by direction: `sent` to upstreams, `received` from them; counted when a connection ends.",
                &["profile", "tcp_route", "direction"],
            )?,
            ends: counters(
                registry,
                "tcp_closed_total",
                "Passthrough connections that have closed, by reason.",
                &["profile", "tcp_route", "reason"],
            )?,
        })
    }

    /// Metrics of a route; `reasons` is the length of the list of reasons.
    pub(super) fn handles(
        &self,
        guard: Arc<SeriesGuard>,
        [profile, route]: [&str; 2],
        reasons: usize,
    ) -> PassthroughMetrics {
        let bytes = |direction| self.bytes.with_label_values(&[profile, route, direction]);
        PassthroughMetrics {
            passed: self.connections.with_label_values(&[profile, route, "ok"]),
            active: self.active.with_label_values(&[profile, route]),
            sent: bytes(DIRECTIONS[0]),
            received: bytes(DIRECTIONS[1]),
            ends: END_WORDS.map(|end| self.ends.with_label_values(&[profile, route, end])),
            names: [profile.to_owned(), route.to_owned()],
            connections: self.connections.clone(),
            refused: (0..reasons).map(|_| OnceLock::new()).collect(),
            _guard: guard,
        }
    }

    fn totals(&self) -> BTreeMap<(String, String), PassthroughTotals> {
        let mut all: BTreeMap<_, PassthroughTotals> = BTreeMap::new();
        for metric in self.active.collect().iter().flat_map(MetricFamily::get_metric) {
            let [profile, route] = labels(metric, ["profile", "tcp_route"]);
            let open = metric.get_gauge().get_value();
            all.entry((profile, route)).or_default().open = whole(open);
        }
        for metric in self.connections.collect().iter().flat_map(MetricFamily::get_metric) {
            let [profile, route, result] = labels(metric, ["profile", "tcp_route", "result"]);
            let count = whole(metric.get_counter().get_value());
            let passed = all.entry((profile, route)).or_default();
            if result == "ok" {
                passed.passed = count;
            } else if count > 0 {
                passed.refused.push((result, count));
            }
        }
        all
    }

    /// Returns `true` if a connection is open.
    pub(super) fn is_used(&self, profile: &str, route: &str) -> bool {
        self.active.with_label_values(&[profile, route]).get() != 0
    }

    /// Removes the series of a route that no longer exists. `reasons` are all reason words.
    pub(super) fn forget(&self, profile: &str, route: &str, reasons: &[&str]) {
        // Removal ignores errors: a missing series is already removed.
        let _ = self.active.remove_label_values(&[profile, route]);
        for result in std::iter::once(&"ok").chain(reasons) {
            let _ = self.connections.remove_label_values(&[profile, route, result]);
        }
        for direction in DIRECTIONS {
            let _ = self.bytes.remove_label_values(&[profile, route, direction]);
        }
        for end in END_WORDS {
            let _ = self.ends.remove_label_values(&[profile, route, end]);
        }
    }
}

fn labels<const N: usize>(metric: &Metric, names: [&str; N]) -> [String; N] {
    names.map(|name| {
        let pair = metric.get_label().iter().find(|pair| pair.name() == name);
        pair.map_or_else(String::new, |pair| pair.value().to_owned())
    })
}

/// Converts a count, which the library stores as an integer but returns as a float.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole and not negative; a float that is neither becomes the nearest"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::exposition::ExpositionFormat;

    #[test]
    fn what_is_gone_leaves_no_series() {
        let metrics = Metrics::new(["a", "b"].into_iter()).unwrap();
        let shown = || {
            let text = String::from_utf8(metrics.render(ExpositionFormat::Text)).unwrap();
            text.lines().filter(|line| line.contains("tcp_route")).count()
        };
        let route = metrics.tcp("sites", "chat.example.com");
        assert_eq!(shown(), 15);
        route.refused(1, "b");
        route.refused(9, "none of them");
        route.ended(PassthroughEnd::FailedOver);
        route.passed.inc();
        route.active.inc();
        assert_eq!(shown(), 16);
        let passed = PassthroughTotals { open: 1, passed: 1, refused: vec![("b".to_owned(), 1)] };
        let key = ("sites".to_owned(), "chat.example.com".to_owned());
        assert_eq!(metrics.passed_through(), [(key, passed)].into());
        route.active.dec();
        drop(route);
        assert_eq!(shown(), 0);
        assert!(metrics.passed_through().is_empty());
    }
}
