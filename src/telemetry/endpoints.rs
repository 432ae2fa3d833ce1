//! Metrics of endpoints: whether they are well, and what checks say.
//!
//! Written by the control runtime, so labels are looked up where something happens.

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::metrics::{counters, gauges};

/// The families.
#[derive(Debug)]
pub struct Endpoints {
    up: IntGaugeVec,
    last_change: IntGaugeVec,
    checks: IntCounterVec,
}

/// An endpoint, as it is told.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Name of the upstream.
    pub upstream: &'a str,
    /// Host and port.
    pub endpoint: &'a str,
    /// It is used.
    pub up: bool,
    /// When that changed, in seconds since 1970; 0: never.
    pub since: i64,
}

impl Endpoints {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let endpoint = &["upstream", "endpoint"];
        Ok(Self {
            up: gauges(
                registry,
                "upstream_endpoint_up",
                "1 for endpoints that requests are sent to, 0 for those that are down.",
                endpoint,
            )?,
            last_change: gauges(
                registry,
                "upstream_endpoint_last_change_timestamp_seconds",
                "When a check last took an endpoint for up or down, in seconds since 1970; 0: never.",
                endpoint,
            )?,
            checks: counters(
                registry,
                "upstream_checks_total",
                "Checks of endpoints, by result: good, or what was wrong.",
                &["upstream", "result"],
            )?,
        })
    }

    /// Tells of all endpoints there are, in place of those told before.
    pub fn tell<'a>(&self, all: impl Iterator<Item = Told<'a>>) {
        self.up.reset();
        self.last_change.reset();
        for told in all {
            self.changed(&told);
        }
    }

    /// Tells of one.
    pub fn changed(&self, told: &Told<'_>) {
        let labels = &[told.upstream, told.endpoint];
        self.up.with_label_values(labels).set(i64::from(told.up));
        self.last_change.with_label_values(labels).set(told.since);
    }

    /// Counts a check; `result` is a word from a closed list.
    pub fn checked(&self, upstream: &str, result: &str) {
        self.checks.with_label_values(&[upstream, result]).inc();
    }

    /// Forgets the checks of upstreams that are gone; `results` are all words.
    pub fn forget<'a>(&self, gone: impl Iterator<Item = &'a str>, results: &[&str]) {
        for upstream in gone {
            for result in results {
                // Most of them never happened.
                let _ = self.checks.remove_label_values(&[upstream, result]);
            }
        }
    }
}
