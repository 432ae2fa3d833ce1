//! Metrics of peer gateways, with which the configuration is compared.

use prometheus::IntGaugeVec;

use super::families::FamilyRegistry;
use super::metrics::gauges;

/// Metric families of peer gateways.
#[derive(Debug)]
pub struct PeerFamilies {
    reachable: IntGaugeVec,
    differences: IntGaugeVec,
    compared: IntGaugeVec,
}

impl PeerFamilies {
    pub(super) fn new(registry: &FamilyRegistry) -> prometheus::Result<Self> {
        Ok(Self {
            reachable: gauges(
                registry,
                "peer_reachable",
                "1 if the last comparison with another gateway succeeded, 0 if not.",
                &["peer"],
            )?,
            differences: gauges(
                registry,
                "peer_differences",
                "Differences from another gateway at the last comparison, by class.",
                &["peer", "class"],
            )?,
            compared: gauges(
                registry,
                "peer_compared_timestamp_seconds",
                "Time of the last comparison with another gateway, in seconds since 1970; 0: never.",
                &["peer"],
            )?,
        })
    }

    /// Removes the series of a gateway that is no longer compared. `classes` are all classes.
    pub fn forget(&self, peer: &str, classes: &[&str]) {
        // Removal ignores errors: a missing series is already removed.
        let _ = self.reachable.remove_label_values(&[peer]);
        let _ = self.compared.remove_label_values(&[peer]);
        for class in classes {
            let _ = self.differences.remove_label_values(&[peer, class]);
        }
    }

    /// Updates the gauges of a gateway. `differences`: class and number, empty before a first
    /// comparison.
    pub fn update_gauges<'a>(
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

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::core::Collector as _;

    #[test]
    fn who_is_compared_no_more_has_no_series_and_others_keep_theirs() {
        let peers = PeerFamilies::new(&FamilyRegistry::default()).unwrap();
        let shown = || {
            let families = [&peers.reachable, &peers.differences, &peers.compared];
            families.map(|family| family.collect()[0].get_metric().len())
        };
        for peer in ["10.0.0.2:443", "10.0.0.3:443"] {
            peers.update_gauges(
                peer,
                (true, 1_700_000_000),
                [("users", 0), ("version", 1)].into_iter(),
            );
        }
        assert_eq!(shown(), [2, 4, 2]);
        peers.forget("10.0.0.2:443", &["users", "version"]);
        peers.forget("10.0.0.4:443", &["users", "version"]);
        assert_eq!(shown(), [1, 2, 1]);
        assert_eq!(peers.differences.with_label_values(&["10.0.0.3:443", "version"]).get(), 1);
    }
}
