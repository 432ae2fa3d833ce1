//! Metrics of upstreams: connections to them, requests on these, and how they were answered.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use super::metrics::{CLASSES, REQUEST_BUCKETS, class, counters, gauges, histograms};
use super::series_guard::SeriesGuard;

/// Seconds, for connecting, TLS included.
const CONNECT_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Why a connection to an upstream was not made; the words are those of the reasons in the access
/// log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConnectFailure {
    /// Refused, unreachable, and the like.
    Refused,
    /// It took too long.
    TimedOut,
    /// The certificate was not accepted, or TLS failed in another way.
    Tls,
    /// The name has no address.
    Unresolved,
    /// The process has no file descriptor left.
    Descriptors,
    /// The host has no local port left.
    Ports,
    /// The host has no memory left for sockets.
    Memory,
}

const FAILURE_WORDS: [&str; 7] = [
    "upstream_connect_failed",
    "upstream_connect_timeout",
    "upstream_tls_failed",
    "upstream_unresolved",
    "out_of_descriptors",
    "out_of_ports",
    "out_of_memory",
];

/// The families.
pub(super) struct UpstreamFamilies {
    connects: IntCounterVec,
    errors: IntCounterVec,
    connect_seconds: HistogramVec,
    connections: IntGaugeVec,
    requests: IntCounterVec,
    seconds: HistogramVec,
    waits: IntCounterVec,
    queued: IntCounterVec,
    reused: IntCounterVec,
    retries: IntCounterVec,
    ejections: IntCounterVec,
}

/// Handles of one upstream. A clone is the same ones: every route to it has one.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics(Arc<UpstreamHandles>);

/// What [`UpstreamMetrics`] are.
#[derive(Debug)]
pub struct UpstreamHandles {
    connected: IntCounter,
    failed: IntCounter,
    failures: [IntCounter; 7],
    connect_seconds: Histogram,
    active: IntGauge,
    idle: IntGauge,
    requests: [IntCounter; 6],
    seconds: Histogram,
    /// Requests that waited for their turn to connect.
    pub waits: IntCounter,
    /// Requests that waited because `max-connections` were in use.
    pub queued: IntCounter,
    /// Requests sent on a connection that had carried others.
    pub reused: IntCounter,
    /// Requests sent once more, because a kept connection turned out to be closed.
    pub retries: IntCounter,
    /// Times an endpoint was left out.
    pub ejected: IntCounter,
    lease: Arc<SeriesGuard>,
}

impl Deref for UpstreamMetrics {
    type Target = UpstreamHandles;

    fn deref(&self) -> &UpstreamHandles {
        &self.0
    }
}

impl UpstreamHandles {
    /// Counts a connection that was made.
    pub fn connected(&self, took: Duration) {
        self.connected.inc();
        self.connect_seconds.observe(took.as_secs_f64());
    }

    /// Counts one that could not be made.
    pub fn connect_failed(&self, why: ConnectFailure) {
        self.failed.inc();
        self.failures[why as usize].inc();
    }

    /// Counts a request whose answer has begun.
    pub fn answered(&self, status: u16, took: Duration) {
        self.requests[class(status)].inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts a request that got no answer.
    pub fn unanswered(&self) {
        self.requests[class(0)].inc();
    }

    /// Counts an open connection, for as long as the result lives. It is at work.
    #[must_use]
    pub fn seat(&self) -> ConnGauge {
        self.active.inc();
        ConnGauge {
            active: self.active.clone(),
            idle: self.idle.clone(),
            rests: false,
            _lease: Arc::clone(&self.lease),
        }
    }
}

/// An open connection to an upstream as it is counted: at work, or idle.
#[derive(Debug)]
pub struct ConnGauge {
    active: IntGauge,
    idle: IntGauge,
    rests: bool,
    _lease: Arc<SeriesGuard>,
}

impl ConnGauge {
    /// The connection is kept for later.
    pub fn rest(&mut self) {
        if !std::mem::replace(&mut self.rests, true) {
            self.active.dec();
            self.idle.inc();
        }
    }

    /// It is used again.
    pub fn work(&mut self) {
        if std::mem::replace(&mut self.rests, false) {
            self.idle.dec();
            self.active.inc();
        }
    }
}

impl Drop for ConnGauge {
    fn drop(&mut self) {
        if self.rests { self.idle.dec() } else { self.active.dec() }
    }
}

impl UpstreamFamilies {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let upstream = &["upstream"];
        Ok(Self {
            connects: counters(
                registry,
                "upstream_connects_total",
                "Connections to upstreams, by result.",
                &["upstream", "result"],
            )?,
            errors: counters(
                registry,
                "upstream_connect_errors_total",
                "Connections to upstreams that could not be made, by reason.",
                &["upstream", "reason"],
            )?,
            connect_seconds: histograms(
                registry,
                "upstream_connect_duration_seconds",
                "How long making a connection to an upstream took, TLS included.",
                CONNECT_BUCKETS,
                upstream,
            )?,
            connections: gauges(
                registry,
                "upstream_connections",
                "Open connections to upstreams, by state: `active` with a request or tunnel, `idle` without.",
                &["upstream", "state"],
            )?,
            requests: counters(
                registry,
                "upstream_requests_total",
                "Requests sent to upstreams, by class of the answer's status code; `none` without an answer.",
                &["upstream", "class"],
            )?,
            seconds: histograms(
                registry,
                "upstream_request_duration_seconds",
                "From a connection with the upstream to the head of its answer.",
                REQUEST_BUCKETS,
                upstream,
            )?,
            waits: counters(
                registry,
                "upstream_connect_waits_total",
                "Requests that waited in line, because enough connections to the endpoint were in the making.",
                upstream,
            )?,
            queued: counters(
                registry,
                "upstream_queued_total",
                "Requests and tunnels that waited because `max-connections` of the upstream were in use.",
                upstream,
            )?,
            reused: counters(
                registry,
                "upstream_reused_total",
                "Requests sent on a kept upstream connection.",
                upstream,
            )?,
            retries: counters(
                registry,
                "upstream_retries_total",
                "Requests sent once more, because a kept upstream connection turned out to be closed.",
                upstream,
            )?,
            ejections: counters(
                registry,
                "upstream_ejections_total",
                "Times an endpoint was left out for a while because of what requests met there.",
                upstream,
            )?,
        })
    }

    pub(super) fn handles(&self, lease: Arc<SeriesGuard>, name: &str) -> UpstreamMetrics {
        UpstreamMetrics(Arc::new(UpstreamHandles {
            connected: self.connects.with_label_values(&[name, "ok"]),
            failed: self.connects.with_label_values(&[name, "failed"]),
            failures: FAILURE_WORDS.map(|reason| self.errors.with_label_values(&[name, reason])),
            connect_seconds: self.connect_seconds.with_label_values(&[name]),
            active: self.connections.with_label_values(&[name, "active"]),
            idle: self.connections.with_label_values(&[name, "idle"]),
            requests: CLASSES.map(|class| self.requests.with_label_values(&[name, class])),
            seconds: self.seconds.with_label_values(&[name]),
            waits: self.waits.with_label_values(&[name]),
            queued: self.queued.with_label_values(&[name]),
            reused: self.reused.with_label_values(&[name]),
            retries: self.retries.with_label_values(&[name]),
            ejected: self.ejections.with_label_values(&[name]),
            lease,
        }))
    }

    /// Whether a connection is open.
    pub(super) fn is_used(&self, name: &str) -> bool {
        ["active", "idle"]
            .iter()
            .any(|state| self.connections.with_label_values(&[name, state]).get() != 0)
    }

    pub(super) fn forget(&self, name: &str) {
        // What is not there need not go.
        for result in ["ok", "failed"] {
            let _ = self.connects.remove_label_values(&[name, result]);
        }
        for reason in FAILURE_WORDS {
            let _ = self.errors.remove_label_values(&[name, reason]);
        }
        for state in ["active", "idle"] {
            let _ = self.connections.remove_label_values(&[name, state]);
        }
        for class in CLASSES {
            let _ = self.requests.remove_label_values(&[name, class]);
        }
        for family in [&self.connect_seconds, &self.seconds] {
            let _ = family.remove_label_values(&[name]);
        }
        for family in [&self.waits, &self.queued, &self.reused, &self.retries, &self.ejections] {
            let _ = family.remove_label_values(&[name]);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::Metrics;

    #[test]
    fn a_connection_is_either_at_work_or_idle_and_then_gone() {
        let metrics = Metrics::new(std::iter::empty()).unwrap();
        let upstream = metrics.upstream("u");
        let states = || (upstream.active.get(), upstream.idle.get());
        let mut seat = upstream.seat();
        assert_eq!(states(), (1, 0));
        seat.rest();
        seat.rest();
        assert_eq!(states(), (0, 1));
        seat.work();
        assert_eq!(states(), (1, 0));
        let other = upstream.seat();
        drop(seat);
        assert_eq!(states(), (1, 0));
        drop(other);
        assert_eq!(states(), (0, 0));
    }
}
