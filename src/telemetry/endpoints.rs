//! Metrics of endpoints: availability and results of health checks.
//!
//! The control runtime updates most of them when metrics are scraped, so labels are looked up then.

use prometheus::{IntCounterVec, IntGaugeVec};

use super::families::FamilyRegistry;
use super::metrics::{counters, gauges};

/// Metric families of endpoints.
#[derive(Debug)]
pub struct EndpointFamilies {
    up: IntGaugeVec,
    last_change: IntGaugeVec,
    open: IntGaugeVec,
    resolved: IntGaugeVec,
    on_backup: IntGaugeVec,
    sessions: IntGaugeVec,
    checks: IntCounterVec,
}

/// Current values of one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct EndpointSample<'a> {
    /// Name of the upstream.
    pub upstream: &'a str,
    /// Host and port.
    pub endpoint: &'a str,
    /// The endpoint is up.
    pub up: bool,
    /// Time of the last change of `up`, in seconds since 1970; 0 if it never changed.
    pub since: i64,
    /// Open requests and WebSockets.
    pub open: usize,
    /// Time of the last resolution, in seconds since 1970, if the host is a name.
    pub resolved: Option<i64>,
}

/// Current values of one upstream.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamSample<'a> {
    /// Name of the upstream.
    pub name: &'a str,
    /// The backups of the upstream are in use.
    pub on_backup: bool,
    /// Socket.IO sessions with a known endpoint.
    pub sessions: usize,
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl EndpointFamilies {
    pub(super) fn new(registry: &FamilyRegistry) -> prometheus::Result<Self> {
        let endpoint = &["upstream", "endpoint"];
        Ok(Self {
            up: gauges(
                registry,
                "upstream_endpoint_up",
                "1 for endpoints that requests are sent to, 0 for those that are down, draining, ejected or in maintenance.",
                endpoint,
            )?,
            last_change: gauges(
                registry,
                "upstream_endpoint_last_change_timestamp_seconds",
                "Time of the last change of an endpoint's state by a health check, in seconds since 1970; 0: never.",
                endpoint,
            )?,
            open: gauges(
                registry,
                "upstream_endpoint_open",
                "Open requests and WebSockets, of upstreams with several endpoints.",
                endpoint,
            )?,
            resolved: gauges(
                registry,
                "upstream_endpoint_resolved_timestamp_seconds",
                "When the name of an endpoint was last resolved, in seconds since 1970; 0: never.",
                endpoint,
            )?,
            on_backup: gauges(
                registry,
                "upstream_on_backup",
                "1 while the backups of an upstream are used, and not its primary endpoints.",
                &["upstream"],
            )?,
            sessions: gauges(
                registry,
                "upstream_sessions",
                "Socket.IO sessions with a known endpoint, of upstreams with several endpoints.",
                &["upstream"],
            )?,
            checks: counters(
                registry,
                "upstream_checks_total",
                "Health checks of endpoints, by result: good, or the kind of failure.",
                &["upstream", "result"],
            )?,
        })
    }

    /// Replaces the gauges by those of the given upstreams and endpoints.
    pub fn update_gauges<'a>(
        &self,
        upstreams: impl Iterator<Item = UpstreamSample<'a>>,
        all: impl Iterator<Item = EndpointSample<'a>>,
    ) {
        let families = [
            &self.up,
            &self.last_change,
            &self.open,
            &self.resolved,
            &self.on_backup,
            &self.sessions,
        ];
        for family in families {
            family.reset();
        }
        for UpstreamSample { name, on_backup, sessions } in upstreams {
            self.on_backup.with_label_values(&[name]).set(i64::from(on_backup));
            self.sessions.with_label_values(&[name]).set(number(sessions));
        }
        for told in all {
            let labels = &[told.upstream, told.endpoint];
            self.up.with_label_values(labels).set(i64::from(told.up));
            self.last_change.with_label_values(labels).set(told.since);
            if let Some(resolved) = told.resolved {
                self.resolved.with_label_values(labels).set(resolved);
            }
            self.open.with_label_values(labels).set(number(told.open));
        }
    }

    /// Counts a health check; `result` is a word from a closed list.
    pub fn checked(&self, upstream: &str, result: &str) {
        self.checks.with_label_values(&[upstream, result]).inc();
    }

    /// Removes the check counters of removed upstreams; `results` are all result words.
    pub fn forget<'a>(&self, gone: impl Iterator<Item = &'a str>, results: &[&str]) {
        for upstream in gone {
            for result in results {
                // Ignores the error: most results never occurred.
                let _ = self.checks.remove_label_values(&[upstream, result]);
            }
        }
    }
}
