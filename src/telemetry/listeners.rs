//! Metrics of listeners: connections of clients and their handshakes.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use super::metrics::{counters, gauges, histograms};
use super::series_guard::SeriesGuard;

/// Seconds, for handshakes: most take a way there and back.
const BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Why a connection was not let in; the words are those of the reasons in the access log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AdmissionRejection {
    /// The listener has as many as it may.
    Listener,
    /// This client has.
    Client,
    /// The process has no file descriptor left.
    Descriptors,
}

const REJECTIONS: [&str; 3] =
    ["too_many_connections", "too_many_connections_from_client", "out_of_descriptors"];

/// How a TLS handshake with a client ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HandshakeResult {
    /// TLS 1.2, from the beginning.
    Full12,
    /// TLS 1.2, going on from a session of before.
    Resumed12,
    /// TLS 1.3, from the beginning.
    Full13,
    /// TLS 1.3, going on from a session of before.
    Resumed13,
    /// It failed.
    Failed,
    /// It took too long.
    TimedOut,
}

/// Version, result, resumed.
const HANDSHAKES: [[&str; 3]; 6] = [
    ["1.2", "ok", "false"],
    ["1.2", "ok", "true"],
    ["1.3", "ok", "false"],
    ["1.3", "ok", "true"],
    ["none", "failed", "false"],
    ["none", "timeout", "false"],
];

/// What came of a connection to a listener for balancers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyHeaderResult {
    /// A header that names the client.
    Proxied,
    /// A header that says that the balancer speaks for itself.
    Local,
    /// A header that does not name the client.
    Unknown,
    /// Closed before the first byte.
    Probe,
    /// No header, or one that is not right.
    Malformed,
    /// No whole header in time.
    TimedOut,
    /// The connection broke.
    Broken,
    /// Not from a balancer.
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

    /// The word in logs and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// The families.
pub(super) struct ListenerFamilies {
    active: IntGaugeVec,
    accepted: IntCounterVec,
    rejected: IntCounterVec,
    handshakes: IntCounterVec,
    handshake_seconds: HistogramVec,
    balanced: IntCounterVec,
}

/// Handles of one listener.
#[derive(Clone)]
pub struct ListenerMetrics {
    /// Open connections.
    pub active: IntGauge,
    /// Accepted connections.
    pub accepted: IntCounter,
    rejected: [IntCounter; 3],
    handshakes: [IntCounter; 6],
    handshake_seconds: Histogram,
    /// Only of listeners for balancers.
    balanced: Option<Arc<[IntCounter; 8]>>,
    /// For what outlives the listener.
    pub lease: Arc<SeriesGuard>,
}

impl ListenerMetrics {
    /// Counts a connection that was not let in.
    pub fn reject(&self, why: AdmissionRejection) {
        self.rejected[why as usize].inc();
    }

    /// Counts a handshake that ended well.
    pub fn handshake_done(&self, how: HandshakeResult, took: Duration) {
        self.handshakes[how as usize].inc();
        self.handshake_seconds.observe(took.as_secs_f64());
    }

    /// Counts a connection to a listener for balancers.
    pub fn balanced(&self, what: ProxyHeaderResult) {
        if let Some(counters) = &self.balanced {
            counters[what as usize].inc();
        }
    }

    /// Counts a handshake that did not.
    pub fn handshake_failed(&self, how: HandshakeResult) {
        self.handshakes[how as usize].inc();
    }
}

impl ListenerFamilies {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
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
                "How long client TLS handshakes took that ended well.",
                BUCKETS,
                listener,
            )?,
            balanced: counters(
                registry,
                "proxy_protocol_total",
                "Connections to listeners with `proxy-protocol`, by what came of their header.",
                &["profile", "listener", "result"],
            )?,
        })
    }

    pub(super) fn handles(
        &self,
        lease: Arc<SeriesGuard>,
        profile: &str,
        listener: &str,
    ) -> ListenerMetrics {
        let labels = &[profile, listener];
        ListenerMetrics {
            lease,
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

    /// The same for a listener for balancers.
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

    /// Whether a connection is open.
    pub(super) fn is_used(&self, profile: &str, listener: &str) -> bool {
        self.active.with_label_values(&[profile, listener]).get() != 0
    }

    pub(super) fn forget(&self, profile: &str, listener: &str) {
        // What is not there need not go.
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
