//! Metrics of upstreams: connections, requests and responses.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::families::FamilyRegistry;
use super::metrics::{CLASSES, REQUEST_BUCKETS, class, counters, gauges, histograms};
use super::series_guard::SeriesGuard;

/// Bucket bounds for connecting, TLS included, in seconds.
const CONNECT_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Cause of a failed connection attempt to an upstream; the words are reason words of the access
/// log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConnectFailure {
    /// The endpoint refused the connection or is unreachable.
    Refused,
    /// The attempt timed out.
    TimedOut,
    /// The certificate was not accepted, or TLS failed for another reason.
    Tls,
    /// The name has no address.
    Unresolved,
    /// The process has no free file descriptor.
    Descriptors,
    /// The host has no free local port.
    Ports,
    /// The host has no memory for sockets.
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

/// Metric families of upstreams.
pub(super) struct UpstreamFamilies {
    connects: IntCounterVec,
    errors: IntCounterVec,
    connect_seconds: HistogramVec,
    connections: IntGaugeVec,
    requests: IntCounterVec,
    seconds: HistogramVec,
    connect_queued: IntCounterVec,
    queued: IntCounterVec,
    reused: IntCounterVec,
    retries: IntCounterVec,
    ejections: IntCounterVec,
}

/// Metrics of one upstream. Clones share them; each route to the upstream has one.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics(Arc<UpstreamHandles>);

/// Shared part of [`UpstreamMetrics`].
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
    /// Requests that waited in the connect queue.
    pub connect_queued: IntCounter,
    /// Requests that waited because `max-connections` were in use.
    pub queued: IntCounter,
    /// Requests sent on a reused connection.
    pub reused: IntCounter,
    /// Requests repeated because a pooled connection turned out to be closed.
    pub retries: IntCounter,
    /// Ejections of endpoints.
    pub ejected: IntCounter,
    guard: Arc<SeriesGuard>,
}

impl Deref for UpstreamMetrics {
    type Target = UpstreamHandles;

    fn deref(&self) -> &UpstreamHandles {
        &self.0
    }
}

impl UpstreamHandles {
    /// Counts an established connection.
    pub fn connected(&self, took: Duration) {
        self.connected.inc();
        self.connect_seconds.observe(took.as_secs_f64());
    }

    /// Counts a failed connection attempt.
    pub fn connect_failed(&self, why: ConnectFailure) {
        self.failed.inc();
        self.failures[why as usize].inc();
    }

    /// Counts a request with a response.
    pub fn answered(&self, status: u16, took: Duration) {
        self.requests[class(status)].inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts a request without a response.
    pub fn unanswered(&self) {
        self.requests[class(0)].inc();
    }

    /// Counts an open connection for as long as the result exists. Its initial state is active.
    #[must_use]
    pub fn open_connection(&self) -> ConnGauge {
        self.active.inc();
        ConnGauge {
            active: self.active.clone(),
            idle: self.idle.clone(),
            rests: false,
            _guard: Arc::clone(&self.guard),
        }
    }
}

/// Gauge entry of an open connection to an upstream: active or idle.
#[derive(Debug)]
pub struct ConnGauge {
    active: IntGauge,
    idle: IntGauge,
    rests: bool,
    _guard: Arc<SeriesGuard>,
}

impl ConnGauge {
    /// Marks the connection as idle.
    pub fn mark_idle(&mut self) {
        if !std::mem::replace(&mut self.rests, true) {
            self.active.dec();
            self.idle.inc();
        }
    }

    /// Marks the connection as active.
    pub fn mark_active(&mut self) {
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
    pub(super) fn new(registry: &FamilyRegistry) -> prometheus::Result<Self> {
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
                "Failed connection attempts to upstreams, by reason.",
                &["upstream", "reason"],
            )?,
            connect_seconds: histograms(
                registry,
                "upstream_connect_duration_seconds",
                "Duration of connecting to an upstream, TLS included.",
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
                "Requests sent to upstreams, by class of the response's status code; `none` without a response.",
                &["upstream", "class"],
            )?,
            seconds: histograms(
                registry,
                "upstream_request_duration_seconds",
                "Time from a connection with the upstream to the head of its response.",
                REQUEST_BUCKETS,
                upstream,
            )?,
            connect_queued: counters(
                registry,
                "upstream_connect_queued_total",
                "Requests that waited in the connect queue of an endpoint.",
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
                "Requests sent on a reused upstream connection.",
                upstream,
            )?,
            retries: counters(
                registry,
                "upstream_retries_total",
                "Requests repeated because a pooled upstream connection turned out to be closed.",
                upstream,
            )?,
            ejections: counters(
                registry,
                "upstream_ejections_total",
                "Ejections of endpoints because of failed requests.",
                upstream,
            )?,
        })
    }

    pub(super) fn handles(&self, guard: Arc<SeriesGuard>, name: &str) -> UpstreamMetrics {
        UpstreamMetrics(Arc::new(UpstreamHandles {
            connected: self.connects.with_label_values(&[name, "ok"]),
            failed: self.connects.with_label_values(&[name, "failed"]),
            failures: FAILURE_WORDS.map(|reason| self.errors.with_label_values(&[name, reason])),
            connect_seconds: self.connect_seconds.with_label_values(&[name]),
            active: self.connections.with_label_values(&[name, "active"]),
            idle: self.connections.with_label_values(&[name, "idle"]),
            requests: CLASSES.map(|class| self.requests.with_label_values(&[name, class])),
            seconds: self.seconds.with_label_values(&[name]),
            connect_queued: self.connect_queued.with_label_values(&[name]),
            queued: self.queued.with_label_values(&[name]),
            reused: self.reused.with_label_values(&[name]),
            retries: self.retries.with_label_values(&[name]),
            ejected: self.ejections.with_label_values(&[name]),
            guard,
        }))
    }

    /// Returns `true` if a connection is open.
    pub(super) fn is_used(&self, name: &str) -> bool {
        ["active", "idle"]
            .iter()
            .any(|state| self.connections.with_label_values(&[name, state]).get() != 0)
    }

    pub(super) fn forget(&self, name: &str) {
        // Removal ignores errors: a missing series is already removed.
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
        for family in
            [&self.connect_queued, &self.queued, &self.reused, &self.retries, &self.ejections]
        {
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
        let mut gauge = upstream.open_connection();
        assert_eq!(states(), (1, 0));
        gauge.mark_idle();
        gauge.mark_idle();
        assert_eq!(states(), (0, 1));
        gauge.mark_active();
        assert_eq!(states(), (1, 0));
        let other = upstream.open_connection();
        drop(gauge);
        assert_eq!(states(), (1, 0));
        drop(other);
        assert_eq!(states(), (0, 0));
    }
}
