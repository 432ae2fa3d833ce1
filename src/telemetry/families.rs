//! Registry of metric families that remembers how each family is described.
//!
//! A family without series is missing in a scrape, so the reference cannot be made of one.

use std::sync::{Mutex, PoisonError};

use prometheus::Registry;
use prometheus::core::Collector;
use prometheus::proto::{MetricFamily, MetricType};

/// Description of a metric family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FamilyDescription {
    /// Full name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels, in the order of their registration.
    pub labels: Vec<String>,
    /// Help text.
    pub help: String,
}

/// A registry and the descriptions of its families.
#[derive(Default)]
pub(super) struct FamilyRegistry {
    registry: Registry,
    families: Mutex<Vec<FamilyDescription>>,
}

impl FamilyRegistry {
    /// Registers the families of a collector.
    pub(super) fn register(&self, collector: Box<dyn Collector>) -> prometheus::Result<()> {
        let kinds = collector.collect();
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        for description in collector.desc() {
            let known = kinds.iter().find(|family| family.name() == description.fq_name);
            families.push(FamilyDescription {
                name: description.fq_name.clone(),
                kind: match known.map(MetricFamily::get_field_type) {
                    Some(MetricType::COUNTER) => "counter",
                    Some(MetricType::HISTOGRAM) => "histogram",
                    _ => "gauge",
                },
                labels: description.variable_labels.clone(),
                help: description.help.clone(),
            });
        }
        drop(families);
        self.registry.register(collector)
    }

    /// All families with series.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// All families, with and without series, in the order of their registration.
    pub(super) fn descriptions(&self) -> Vec<FamilyDescription> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
