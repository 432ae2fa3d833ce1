//! Metrics of listeners: client connections and TLS handshakes.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::families::FamilyRegistry;
use super::metrics::{counters, gauges, histograms};
use super::series_guard::SeriesGuard;

/// Bucket bounds for handshakes, in seconds: most handshakes take one round trip.
const BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Reason for closing a new connection at once; the words are reason words of the access log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AdmissionRejection {
    /// The listener's connection limit is reached.
    Listener,
    /// The client's connection limit is reached.
    Client,
    /// The process has no free file descriptor.
    Descriptors,
}

const REJECTIONS: [&str; 3] =
    ["too_many_connections", "too_many_connections_from_client", "out_of_descriptors"];

/// Result of a TLS handshake with a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HandshakeResult {
    /// A full TLS 1.2 handshake.
    Full12,
    /// A TLS 1.2 handshake with session resumption.
    Resumed12,
    /// A full TLS 1.3 handshake.
    Full13,
    /// A TLS 1.3 handshake with session resumption.
    Resumed13,
    /// The handshake failed.
    Failed,
    /// The handshake timed out.
    TimedOut,
}

/// Labels per result: version, result, resumed.
const HANDSHAKES: [[&str; 3]; 6] = [
    ["1.2", "ok", "false"],
    ["1.2", "ok", "true"],
    ["1.3", "ok", "false"],
    ["1.3", "ok", "true"],
    ["none", "failed", "false"],
    ["none", "timeout", "false"],
];

/// Result of the PROXY protocol header on a listener with `proxy-protocol`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyHeaderResult {
    /// The header names the client.
    Proxied,
    /// The header says that the balancer itself is the client (LOCAL).
    Local,
    /// The header does not name the client.
    Unknown,
    /// The connection was closed before its first byte.
    Probe,
    /// The header is missing or malformed.
    Malformed,
    /// The header did not arrive in time.
    TimedOut,
    /// The connection broke.
    Broken,
    /// The peer is not a listed balancer.
    Unlisted,
}

impl ProxyHeaderResult {
    const WORDS: [&'static str; 8] = [
        "proxied",
        "local",
        "unknown",
        "probe",
        "malformed",
        "timeout",
        "broken",
        "not_a_balancer",
    ];

    /// Word in logs and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// Metric families of listeners.
pub(super) struct ListenerFamilies {
    active: IntGaugeVec,
    accepted: IntCounterVec,
    rejected: IntCounterVec,
    handshakes: IntCounterVec,
    handshake_seconds: HistogramVec,
    balanced: IntCounterVec,
}

/// Metrics of one listener.
#[derive(Clone)]
pub struct ListenerMetrics {
    /// Open connections.
    pub active: IntGauge,
    /// Accepted connections.
    pub accepted: IntCounter,
    rejected: [IntCounter; 3],
    handshakes: [IntCounter; 6],
    handshake_seconds: Histogram,
    /// Only for listeners with `proxy-protocol`.
    balanced: Option<Arc<[IntCounter; 8]>>,
    /// Keeps the series for as long as a connection needs them.
    pub guard: Arc<SeriesGuard>,
}

impl ListenerMetrics {
    /// Counts a connection that was closed at once.
    pub fn reject(&self, why: AdmissionRejection) {
        self.rejected[why as usize].inc();
    }

    /// Counts a successful handshake.
    pub fn handshake_done(&self, how: HandshakeResult, took: Duration) {
        self.handshakes[how as usize].inc();
        self.handshake_seconds.observe(took.as_secs_f64());
    }

    /// Counts a connection to a listener with `proxy-protocol`.
    pub fn balanced(&self, what: ProxyHeaderResult) {
        if let Some(counters) = &self.balanced {
            counters[what as usize].inc();
        }
    }

    /// Counts a failed handshake.
    pub fn handshake_failed(&self, how: HandshakeResult) {
        self.handshakes[how as usize].inc();
    }
}

impl ListenerFamilies {
    pub(super) fn new(registry: &FamilyRegistry) -> prometheus::Result<Self> {
        let listener = &["profile", "listener"];
        Ok(Self {
            active: gauges(registry, "connections_active", "Open client connections.", listener)?,
            accepted: counters(
                registry,
                "connections_total",
                "Client connections accepted.",
                listener,
            )?,
            rejected: counters(
                registry,
                "connections_rejected_total",
                "Client connections closed at once because a limit was reached, by reason.",
                &["profile", "listener", "reason"],
            )?,
            handshakes: counters(
                registry,
                "tls_handshakes_total",
                "Client TLS handshakes, by version, result and whether a session was resumed.",
                &["profile", "listener", "version", "result", "resumed"],
            )?,
            handshake_seconds: histograms(
                registry,
                "tls_handshake_duration_seconds",
                "Duration of successful client TLS handshakes.",
                BUCKETS,
                listener,
            )?,
            balanced: counters(
                registry,
                "proxy_protocol_total",
                "Connections to listeners with `proxy-protocol`, by result of their header.",
                &["profile", "listener", "result"],
            )?,
        })
    }

    pub(super) fn handles(
        &self,
        guard: Arc<SeriesGuard>,
        profile: &str,
        listener: &str,
    ) -> ListenerMetrics {
        let labels = &[profile, listener];
        ListenerMetrics {
            guard,
            active: self.active.with_label_values(labels),
            accepted: self.accepted.with_label_values(labels),
            rejected: REJECTIONS
                .map(|reason| self.rejected.with_label_values(&[profile, listener, reason])),
            handshakes: HANDSHAKES.map(|[version, result, resumed]| {
                self.handshakes.with_label_values(&[profile, listener, version, result, resumed])
            }),
            handshake_seconds: self.handshake_seconds.with_label_values(labels),
            balanced: None,
        }
    }

    /// Metrics of a listener with `proxy-protocol`.
    pub(super) fn for_balancers(
        &self,
        handles: ListenerMetrics,
        profile: &str,
        listener: &str,
    ) -> ListenerMetrics {
        let counter = |word| self.balanced.with_label_values(&[profile, listener, word]);
        ListenerMetrics {
            balanced: Some(Arc::new(ProxyHeaderResult::WORDS.map(counter))),
            ..handles
        }
    }

    /// Returns `true` if a connection is open.
    pub(super) fn is_used(&self, profile: &str, listener: &str) -> bool {
        self.active.with_label_values(&[profile, listener]).get() != 0
    }

    pub(super) fn forget(&self, profile: &str, listener: &str) {
        // Removal ignores errors: a missing series is already removed.
        let labels = &[profile, listener];
        let _ = self.active.remove_label_values(labels);
        let _ = self.accepted.remove_label_values(labels);
        let _ = self.handshake_seconds.remove_label_values(labels);
        for reason in REJECTIONS {
            let _ = self.rejected.remove_label_values(&[profile, listener, reason]);
        }
        for word in ProxyHeaderResult::WORDS {
            let _ = self.balanced.remove_label_values(&[profile, listener, word]);
        }
        for [version, result, resumed] in HANDSHAKES {
            let labels = &[profile, listener, version, result, resumed];
            let _ = self.handshakes.remove_label_values(labels);
        }
    }
}
