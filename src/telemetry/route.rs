//! Metrics of routes.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use prometheus::{Histogram, IntCounter, IntGauge};

use super::Metrics;
use super::rejections::RouteRejections;
use super::series_guard::SeriesGuard;
use super::websockets::WebSocketMetrics;

/// Metrics of one route.
#[derive(Clone)]
pub struct RouteMetrics {
    /// Requests by status class, in the order of `CLASSES`.
    pub requests: [IntCounter; 6],
    /// Duration from the end of the request head to the end of the response.
    pub seconds: Histogram,
    /// Requests being served.
    pub in_flight: IntGauge,
    /// Request body bytes.
    pub request_bytes: IntCounter,
    /// Response body bytes.
    pub response_bytes: IntCounter,
    /// Requests that the route served only because of report mode.
    pub report_only: IntCounter,
    /// Rejections by this route.
    pub refusals: Arc<RouteRejections>,
    /// Metrics of its WebSockets, if it accepts any.
    pub websockets: Option<Arc<WebSocketMetrics>>,
    pub(super) guard: Arc<SeriesGuard>,
}

/// Metrics of a route that are created on first use: there may be thousands of routes, most of them
/// without any requests.
pub struct LazyRouteMetrics {
    pub(super) made: OnceLock<Box<RouteMetrics>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) profile: Arc<str>,
    pub(super) route: Arc<str>,
    pub(super) websockets: bool,
}

impl LazyRouteMetrics {
    /// Metrics of a route that accepts WebSockets.
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
    /// Metrics of a route that accepts WebSockets.
    #[must_use]
    pub fn with_websockets(self) -> Self {
        Self { websockets: self.guard.websockets().map(Arc::new), ..self }
    }
}
