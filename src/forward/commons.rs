//! What all listeners of the forward proxy share, and keep over reloads.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::egress::{Seen, seen::Report};
use crate::telemetry::Metrics;

use super::Way;
use super::live::Live;
use super::logins::Logins;
use super::names::Names;
use super::usage::Usage;

/// See the module.
pub struct Commons {
    /// Open tunnels.
    pub live: Arc<Live>,
    /// What report mode has let through, as the present configuration keeps it.
    seen: ArcSwapOption<Seen>,
    pub(super) names: Arc<Names>,
    pub(super) usage: Arc<Usage>,
    pub(super) logins: Logins,
}

impl Commons {
    /// For the whole process.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            live: Arc::default(),
            seen: ArcSwapOption::empty(),
            names: Names::new(metrics.egress.resolve.clone()),
            usage: Arc::default(),
            logins: Logins::new(),
        })
    }

    /// Notes which way is in force.
    pub fn follow(&self, way: Option<&Arc<Way>>) {
        if let Some(way) = way {
            self.seen.store(Some(Arc::clone(&way.outlet.seen)));
        }
    }

    /// What report mode has let through.
    #[must_use]
    pub fn seen(&self) -> Report {
        self.seen.load().as_ref().map(|seen| seen.report()).unwrap_or_default()
    }
}
