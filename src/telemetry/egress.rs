//! Metrics of the forward proxy. Labels are rule names and words of closed lists, never client
//! data.

use std::sync::OnceLock;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};

use super::families::FamilyRegistry;
use super::metrics::{counters, gauges, named, single};

/// Bucket bounds for name resolution and connecting, in seconds.
const BUCKETS: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Label value for requests to which no rule applies.
pub const NO_RULE: &str = "none";

/// Metric families of the forward proxy.
pub struct EgressMetrics {
    requests: IntCounterVec,
    active: IntGaugeVec,
    bytes: IntCounterVec,
    connect: HistogramVec,
    reported: IntCounterVec,
    /// Duration of name resolutions, including failed ones.
    pub resolve: Histogram,
}

/// Metrics of one rule.
pub struct RuleMetrics {
    /// Served requests and opened tunnels.
    pub served: IntCounter,
    /// Open tunnels and requests in progress.
    pub active: IntGauge,
    /// Bytes to destinations.
    pub sent: IntCounter,
    /// Bytes from destinations.
    pub received: IntCounter,
    /// Time from the request to the connection, including name resolution.
    pub connect: Histogram,
    /// Requests allowed only because of report mode.
    pub reported: IntCounter,
    rule: String,
    requests: IntCounterVec,
    /// Counters by reason index, created on first use, so that only reasons that occurred are
    /// exposed.
    refused: Vec<OnceLock<IntCounter>>,
}

impl EgressMetrics {
    pub(super) fn new(registry: &FamilyRegistry) -> prometheus::Result<Self> {
        let connect = HistogramOpts::new(
            named("egress_connect_duration_seconds"),
            "Time from a request to the forward proxy until its destination was connected.",
        );
        let resolve = HistogramOpts::new(
            named("egress_resolve_duration_seconds"),
            "Duration of name resolutions for destinations.",
        );
        Ok(Self {
            requests: counters(
                registry,
                "egress_requests_total",
                "Requests to the forward proxy, by rule and result: `ok`, or a reason word.",
                &["rule", "result"],
            )?,
            active: gauges(
                registry,
                "egress_tunnels_active",
                "Open tunnels through the forward proxy, and requests it is serving.",
                &["rule"],
            )?,
            bytes: counters(
                registry,
                "egress_bytes_total",
                "Bytes through the forward proxy, by direction: `sent` to destinations, `received` from them.",
                &["rule", "direction"],
            )?,
            connect: single(
                registry,
                HistogramVec::new(connect.buckets(BUCKETS.to_vec()), &["rule"])?,
            )?,
            reported: counters(
                registry,
                "egress_report_only_total",
                "Requests allowed only because of report mode.",
                &["rule"],
            )?,
            resolve: single(registry, Histogram::with_opts(resolve.buckets(BUCKETS.to_vec()))?)?,
        })
    }

    /// Metrics of a rule; `reasons` is the length of the list of reasons.
    #[must_use]
    pub fn rule(&self, rule: &str, reasons: usize) -> RuleMetrics {
        RuleMetrics {
            served: self.requests.with_label_values(&[rule, "ok"]),
            active: self.active.with_label_values(&[rule]),
            sent: self.bytes.with_label_values(&[rule, "sent"]),
            received: self.bytes.with_label_values(&[rule, "received"]),
            connect: self.connect.with_label_values(&[rule]),
            reported: self.reported.with_label_values(&[rule]),
            rule: rule.to_owned(),
            requests: self.requests.clone(),
            refused: (0..reasons).map(|_| OnceLock::new()).collect(),
        }
    }
}

impl RuleMetrics {
    /// Counts a rejection, by the index and the word of its reason.
    pub fn refused(&self, index: usize, word: &'static str) {
        if let Some(slot) = self.refused.get(index) {
            let make = || self.requests.with_label_values(&[self.rule.as_str(), word]);
            slot.get_or_init(make).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reasons_that_happen_are_shown() {
        let registry = FamilyRegistry::default();
        let metrics = EgressMetrics::new(&registry).unwrap();
        let rule = metrics.rule("viber", 3);
        rule.refused(1, "one");
        rule.refused(1, "one");
        rule.refused(9, "nine");
        let results = || {
            let families = registry.gather();
            let family = families.iter().find(|f| f.name().ends_with("egress_requests_total"));
            family.unwrap().get_metric().len()
        };
        assert_eq!(results(), 2);
        assert_eq!(metrics.requests.with_label_values(&["viber", "one"]).get(), 2);
    }
}
