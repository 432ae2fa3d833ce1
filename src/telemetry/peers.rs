//! Metrics of gateways that this one is compared with.

use prometheus::{IntGaugeVec, Registry};

use super::metrics::gauges;

/// The families.
#[derive(Debug)]
pub struct Peers {
    reachable: IntGaugeVec,
    differences: IntGaugeVec,
    compared: IntGaugeVec,
}

impl Peers {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            reachable: gauges(
                registry,
                "peer_reachable",
                "1 if the last comparison with another gateway came about, 0 if not.",
                &["peer"],
            )?,
            differences: gauges(
                registry,
                "peer_differences",
                "What differed from another gateway when it was last compared, by class.",
                &["peer", "class"],
            )?,
            compared: gauges(
                registry,
                "peer_compared_timestamp_seconds",
                "When another gateway was last compared, in seconds since 1970; 0: never.",
                &["peer"],
            )?,
        })
    }

    /// Forgets all of them.
    pub fn clear(&self) {
        for family in [&self.reachable, &self.differences, &self.compared] {
            family.reset();
        }
    }

    /// Tells of a gateway. `differences`: class and number, none if it could never be compared.
    pub fn tell<'a>(
        &self,
        peer: &str,
        (reachable, compared): (bool, i64),
        differences: impl Iterator<Item = (&'a str, usize)>,
    ) {
        self.reachable.with_label_values(&[peer]).set(i64::from(reachable));
        self.compared.with_label_values(&[peer]).set(compared);
        for (class, count) in differences {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.differences.with_label_values(&[peer, class]).set(count);
        }
    }
}
