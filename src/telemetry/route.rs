//! Metrics of one route.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use prometheus::{Histogram, IntCounter, IntGauge};

use super::Metrics;
use super::rejections::RouteRejections;
use super::series_guard::SeriesGuard;
use super::websockets::WebSocketMetrics;

/// Handles of one route.
#[derive(Clone)]
pub struct RouteMetrics {
    /// Requests by class, in the order of `CLASSES` of the metrics.
    pub requests: [IntCounter; 6],
    /// From the end of the request head to the end of the answer.
    pub seconds: Histogram,
    /// Requests being served.
    pub in_flight: IntGauge,
    /// Request body bytes.
    pub request_bytes: IntCounter,
    /// Response body bytes.
    pub response_bytes: IntCounter,
    /// Requests served by a route that only reports.
    pub report_only: IntCounter,
    /// What it refused.
    pub refusals: Arc<RouteRejections>,
    /// Of its WebSockets, if it carries any.
    pub websockets: Option<Arc<WebSocketMetrics>>,
    pub(super) lease: Arc<SeriesGuard>,
}

/// Handles of a route that are made when they are first asked for: there may be thousands of routes,
/// most of them never asked for.
pub struct LazyRouteMetrics {
    pub(super) made: OnceLock<Box<RouteMetrics>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) profile: Arc<str>,
    pub(super) route: Arc<str>,
    pub(super) websockets: bool,
}

impl LazyRouteMetrics {
    /// The same, for a route that carries WebSockets.
    #[must_use]
    pub fn with_websockets(self) -> Self {
        Self { websockets: true, ..self }
    }
}

impl Deref for LazyRouteMetrics {
    type Target = RouteMetrics;

    fn deref(&self) -> &RouteMetrics {
        self.made.get_or_init(|| {
            let made = self.metrics.route(&self.profile, &self.route);
            Box::new(if self.websockets { made.with_websockets() } else { made })
        })
    }
}

impl RouteMetrics {
    /// The same, for a route that carries WebSockets.
    #[must_use]
    pub fn with_websockets(self) -> Self {
        Self { websockets: self.lease.websockets().map(Arc::new), ..self }
    }
}
