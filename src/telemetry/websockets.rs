//! Metrics of WebSockets, per route.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::families::FamilyRegistry;
use super::metrics::{counters, gauges, histograms};

/// Bucket bounds in seconds, for tunnels that last for hours.
const BUCKETS: &[f64] = &[1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 28800.0];

/// Initiator and cause of the end of a WebSocket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WebSocketClose {
    /// The client closed.
    ByClient,
    /// The upstream closed.
    ByUpstream,
    /// The client's connection broke.
    ClientBroke,
    /// The upstream's connection broke.
    UpstreamBroke,
    /// No data was sent for too long.
    Idle,
    /// The gateway drains.
    Draining,
    /// A new configuration does not allow the WebSocket.
    Policy,
    /// The task was dropped without a cause.
    Unknown,
}

impl WebSocketClose {
    /// Word in the access log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::ByClient => "client_closed",
            Self::ByUpstream => "upstream_closed",
            Self::ClientBroke => "client_broken",
            Self::UpstreamBroke => "upstream_broken",
            Self::Idle => "tunnel_idle",
            Self::Draining => "draining",
            Self::Policy => "policy",
            Self::Unknown => "unknown",
        }
    }
}

/// Labels per end: initiator and reason.
const CLOSE_WORDS: [[&str; 2]; 8] = [
    ["client", "closed"],
    ["upstream", "closed"],
    ["client", "broken"],
    ["upstream", "broken"],
    ["gateway", "tunnel_idle"],
    ["gateway", "draining"],
    ["gateway", "policy"],
    ["gateway", "unknown"],
];

const DIRECTIONS: [&str; 2] = ["to_upstream", "to_client"];

/// Metric families of WebSockets.
pub(super) struct WebSocketFamilies {
    active: IntGaugeVec,
    opened: IntCounterVec,
    closed: IntCounterVec,
    bytes: IntCounterVec,
    seconds: HistogramVec,
}

/// Metrics of one route's WebSockets.
pub struct WebSocketMetrics {
    active: IntGauge,
    opened: IntCounter,
    closed: [IntCounter; 8],
    bytes: [IntCounter; 2],
    seconds: Histogram,
}

impl WebSocketMetrics {
    /// Counts an opened WebSocket.
    pub fn opened(&self) {
        self.active.inc();
        self.opened.inc();
    }

    /// Counts relayed bytes.
    pub fn moved(&self, to_upstream: u64, to_client: u64) {
        for (counter, bytes) in self.bytes.iter().zip([to_upstream, to_client]) {
            if bytes > 0 {
                counter.inc_by(bytes);
            }
        }
    }

    /// Counts a closed WebSocket.
    pub fn closed(&self, how: WebSocketClose, seconds: f64) {
        self.active.dec();
        self.closed[how as usize].inc();
        self.seconds.observe(seconds);
    }
}

impl WebSocketFamilies {
    pub(super) fn new(registry: &FamilyRegistry) -> prometheus::Result<Self> {
        let route = &["profile", "route"];
        Ok(Self {
            active: gauges(registry, "websocket_active", "Open WebSockets.", route)?,
            opened: counters(registry, "websocket_opened_total", "WebSockets opened.", route)?,
            closed: counters(
                registry,
                "websocket_closed_total",
                "WebSockets that have ended, by initiator and reason.",
                &["profile", "route", "initiator", "reason"],
            )?,
            bytes: counters(
                registry,
                "websocket_bytes_total",
                "Bytes relayed by WebSockets, counted continuously, by direction.",
                &["profile", "route", "direction"],
            )?,
            seconds: histograms(
                registry,
                "websocket_duration_seconds",
                "Duration of WebSockets.",
                BUCKETS,
                route,
            )?,
        })
    }

    pub(super) fn handles(&self, profile: &str, route: &str) -> WebSocketMetrics {
        let labels = &[profile, route];
        WebSocketMetrics {
            active: self.active.with_label_values(labels),
            opened: self.opened.with_label_values(labels),
            closed: CLOSE_WORDS.map(|[initiator, reason]| {
                self.closed.with_label_values(&[profile, route, initiator, reason])
            }),
            bytes: DIRECTIONS
                .map(|direction| self.bytes.with_label_values(&[profile, route, direction])),
            seconds: self.seconds.with_label_values(labels),
        }
    }

    /// Returns `true` if a WebSocket is open.
    pub(super) fn is_used(&self, profile: &str, route: &str) -> bool {
        self.active
            .get_metric_with_label_values(&[profile, route])
            .is_ok_and(|open| open.get() != 0)
    }

    pub(super) fn forget(&self, profile: &str, route: &str) {
        // Removal ignores errors: a missing series is already removed.
        let labels = &[profile, route];
        let _ = self.active.remove_label_values(labels);
        let _ = self.opened.remove_label_values(labels);
        let _ = self.seconds.remove_label_values(labels);
        for [initiator, reason] in CLOSE_WORDS {
            let _ = self.closed.remove_label_values(&[profile, route, initiator, reason]);
        }
        for direction in DIRECTIONS {
            let _ = self.bytes.remove_label_values(&[profile, route, direction]);
        }
    }
}
