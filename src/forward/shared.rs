//! State that all listeners of the forward proxy share and keep over reloads.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::egress::{Observations, observed::ObservationReport};
use crate::telemetry::Metrics;

use super::ForwardRuntime;
use super::dns_cache::DnsCache;
use super::limits::ClientLimits;
use super::logins::Logins;
use super::registry::EgressTunnels;

/// See the module.
pub struct ForwardShared {
    /// Open tunnels.
    pub live: Arc<EgressTunnels>,
    /// Destinations that report mode let through, for the current configuration.
    seen: ArcSwapOption<Observations>,
    pub(super) names: Arc<DnsCache>,
    pub(super) usage: Arc<ClientLimits>,
    pub(super) logins: Logins,
}

impl ForwardShared {
    /// For the whole process.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            live: Arc::default(),
            seen: ArcSwapOption::empty(),
            names: DnsCache::new(metrics.egress.resolve.clone()),
            usage: Arc::default(),
            logins: Logins::new(),
        })
    }

    /// Sets the state of the current generation.
    pub fn follow(&self, way: Option<&Arc<ForwardRuntime>>) {
        if let Some(way) = way {
            self.seen.store(Some(Arc::clone(&way.forward_proxy.seen)));
        }
    }

    /// Destinations that report mode let through.
    #[must_use]
    pub fn seen(&self) -> ObservationReport {
        self.seen.load().as_ref().map(|seen| seen.report()).unwrap_or_default()
    }
}
