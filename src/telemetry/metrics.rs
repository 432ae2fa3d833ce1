//! Metrics, on handles resolved when a configuration is compiled.
//!
//! Labels come from configuration names and closed word lists only, never from the network, so
//! their number is bounded by the configuration.

use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::egress::EgressMetrics;
use super::endpoints::Endpoints;

/// Seconds; up to a minute, because long polls last that long.
const REQUEST_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Seconds, for tunnels that last for hours.
const TUNNEL_BUCKETS: &[f64] = &[1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 28800.0];

/// Status classes in the order of their handles; the last is "no status".
pub const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

/// All metric families of the process.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGaugeVec,
    request_bytes: IntCounterVec,
    response_bytes: IntCounterVec,
    report_only: IntCounterVec,
    websockets_active: IntGaugeVec,
    websockets_opened: IntCounterVec,
    websocket_seconds: HistogramVec,
    connections_active: IntGaugeVec,
    connections: IntCounterVec,
    handshakes: IntCounterVec,
    upstream_connects: IntCounterVec,
    upstream_reused: IntCounterVec,
    upstream_ejected: IntCounterVec,
    unverified: IntGaugeVec,
    not_after: IntGaugeVec,
    reloads: IntCounterVec,
    last_reload_successful: IntGauge,
    last_reload_success: IntGauge,
    config: IntGaugeVec,
    generation: IntGauge,
    /// By the index of the reason in the list given to [`Metrics::new`].
    reasons: Vec<IntCounter>,
    /// Of endpoints.
    pub endpoints: Endpoints,
    /// Of the forward proxy.
    pub egress: EgressMetrics,
    /// Access-log lines lost.
    pub log_dropped: IntCounter,
    /// Generations of which something is in use.
    pub generations_alive: IntGauge,
}

/// Handles of one route.
#[derive(Clone)]
pub struct RouteMetrics {
    /// Requests by class, in the order of [`CLASSES`].
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
    /// Open WebSockets.
    pub websockets_active: IntGauge,
    /// WebSockets opened.
    pub websockets_opened: IntCounter,
    /// How long they lasted.
    pub websocket_seconds: Histogram,
}

/// Handles of one listener.
#[derive(Clone)]
pub struct ListenerMetrics {
    /// Open connections.
    pub active: IntGauge,
    /// Accepted connections.
    pub accepted: IntCounter,
    /// Finished handshakes: TLS 1.2, TLS 1.3.
    pub handshakes: [IntCounter; 2],
}

/// Handles of one upstream.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    /// Connections made.
    pub connected: IntCounter,
    /// Connections that could not be made.
    pub failed: IntCounter,
    /// Requests sent on a connection that had carried others.
    pub reused: IntCounter,
    /// Times an endpoint was left out.
    pub ejected: IntCounter,
}

impl Metrics {
    /// Registers all families. `reasons` is the closed list of words for refusals.
    ///
    /// # Errors
    ///
    /// Only if two families were given one name, which the tests would have noticed.
    #[expect(clippy::too_many_lines, reason = "one entry per metric family, and nothing else")]
    pub fn new(reasons: impl Iterator<Item = &'static str>) -> prometheus::Result<Arc<Self>> {
        let registry = Registry::new();
        let route = &["profile", "route"];
        let listener = &["profile", "listener"];
        let reason_counts = counters(
            &registry,
            "refused_total",
            "Requests and connections that the gateway ended itself, by reason.",
            &["reason"],
        )?;
        let build =
            gauges(&registry, "build_info", "Version of the gateway; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let start = single(
            &registry,
            IntGauge::new(
                named("start_time_seconds"),
                "When the process started, in seconds since 1970.",
            )?,
        )?;
        start.set(jiff::Timestamp::now().as_second());
        Ok(Arc::new(Self {
            requests: counters(
                &registry,
                "http_requests_total",
                "Requests answered, by class of status code.",
                &["profile", "route", "class"],
            )?,
            seconds: histograms(
                &registry,
                "http_request_duration_seconds",
                "From the end of a request's head to the end of its answer.",
                REQUEST_BUCKETS,
            )?,
            in_flight: gauges(
                &registry,
                "http_requests_in_flight",
                "Requests being served.",
                route,
            )?,
            request_bytes: counters(
                &registry,
                "http_request_bytes_total",
                "Bytes of request bodies.",
                route,
            )?,
            response_bytes: counters(
                &registry,
                "http_response_bytes_total",
                "Bytes of response bodies.",
                route,
            )?,
            report_only: counters(
                &registry,
                "http_report_only_total",
                "Requests served by a route that only reports; without it they would be denied.",
                route,
            )?,
            websockets_active: gauges(&registry, "websocket_active", "Open WebSockets.", route)?,
            websockets_opened: counters(
                &registry,
                "websocket_opened_total",
                "WebSockets opened.",
                route,
            )?,
            websocket_seconds: histograms(
                &registry,
                "websocket_duration_seconds",
                "How long WebSockets lasted.",
                TUNNEL_BUCKETS,
            )?,
            connections_active: gauges(
                &registry,
                "connections_active",
                "Open client connections.",
                listener,
            )?,
            connections: counters(
                &registry,
                "connections_total",
                "Client connections accepted.",
                listener,
            )?,
            handshakes: counters(
                &registry,
                "tls_handshakes_total",
                "Client TLS handshakes finished, by version.",
                &["profile", "listener", "version"],
            )?,
            upstream_connects: counters(
                &registry,
                "upstream_connects_total",
                "Connections to upstreams, by result.",
                &["upstream", "result"],
            )?,
            upstream_reused: counters(
                &registry,
                "upstream_reused_total",
                "Requests sent on a kept upstream connection.",
                &["upstream"],
            )?,
            upstream_ejected: counters(
                &registry,
                "upstream_ejections_total",
                "Times an endpoint was left out for a while because of what requests met there.",
                &["upstream"],
            )?,
            unverified: gauges(
                &registry,
                "upstream_unverified",
                "1 for upstreams whose certificate is not verified (`verify = \"none\"`).",
                &["upstream"],
            )?,
            not_after: gauges(
                &registry,
                "tls_certificate_not_after_timestamp_seconds",
                "End of validity of a configured certificate, in seconds since 1970.",
                &["certificate", "pair"],
            )?,
            reloads: counters(
                &registry,
                "config_reloads_total",
                "Attempts to reload the configuration, by result.",
                &["result"],
            )?,
            last_reload_successful: single(
                &registry,
                IntGauge::new(
                    named("config_last_reload_successful"),
                    "1 if the last attempt to load the configuration succeeded, 0 if it was refused.",
                )?,
            )?,
            last_reload_success: single(
                &registry,
                IntGauge::new(
                    named("config_last_reload_success_timestamp_seconds"),
                    "When the configuration that serves was loaded, in seconds since 1970.",
                )?,
            )?,
            endpoints: Endpoints::new(&registry)?,
            reasons: reasons.map(|word| reason_counts.with_label_values(&[word])).collect(),
            egress: EgressMetrics::new(&registry)?,
            log_dropped: single(
                &registry,
                IntCounter::new(
                    named("access_log_dropped_total"),
                    "Access-log lines lost because the disk was full or slow.",
                )?,
            )?,
            config: gauges(
                &registry,
                "config_info",
                "Hash of the configuration that serves; always 1. Equal for gateways that do the same.",
                &["hash"],
            )?,
            generation: single(
                &registry,
                IntGauge::new(
                    named("config_generation"),
                    "Number of the configuration generation that serves.",
                )?,
            )?,
            generations_alive: single(
                &registry,
                IntGauge::new(
                    named("config_generations_alive"),
                    "Configuration generations in memory: the one that serves, and those that requests still use.",
                )?,
            )?,
            registry,
        }))
    }

    /// Handles of a route.
    #[must_use]
    pub fn route(&self, profile: &str, route: &str) -> RouteMetrics {
        let labels = &[profile, route];
        RouteMetrics {
            requests: CLASSES
                .map(|class| self.requests.with_label_values(&[profile, route, class])),
            seconds: self.seconds.with_label_values(labels),
            in_flight: self.in_flight.with_label_values(labels),
            request_bytes: self.request_bytes.with_label_values(labels),
            response_bytes: self.response_bytes.with_label_values(labels),
            report_only: self.report_only.with_label_values(labels),
            websockets_active: self.websockets_active.with_label_values(labels),
            websockets_opened: self.websockets_opened.with_label_values(labels),
            websocket_seconds: self.websocket_seconds.with_label_values(labels),
        }
    }

    /// Handles of a listener.
    #[must_use]
    pub fn listener(&self, profile: &str, listener: &str) -> ListenerMetrics {
        ListenerMetrics {
            active: self.connections_active.with_label_values(&[profile, listener]),
            accepted: self.connections.with_label_values(&[profile, listener]),
            handshakes: ["1.2", "1.3"]
                .map(|v| self.handshakes.with_label_values(&[profile, listener, v])),
        }
    }

    /// Handles of an upstream.
    #[must_use]
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        UpstreamMetrics {
            connected: self.upstream_connects.with_label_values(&[name, "ok"]),
            failed: self.upstream_connects.with_label_values(&[name, "failed"]),
            reused: self.upstream_reused.with_label_values(&[name]),
            ejected: self.upstream_ejected.with_label_values(&[name]),
        }
    }

    /// Tells when certificates end (name, number of the pair from 0, seconds since 1970) and which
    /// upstreams are verified, in place of what was told before.
    pub fn tell(&self, certificates: &[(String, usize, i64)], upstreams: &[(String, bool)]) {
        self.not_after.reset();
        for (name, pair, not_after) in certificates {
            self.not_after.with_label_values(&[name, pair.to_string().as_str()]).set(*not_after);
        }
        self.unverified.reset();
        for (name, verified) in upstreams {
            self.unverified.with_label_values(&[name.as_str()]).set(i64::from(!verified));
        }
    }

    /// Says which configuration serves: its number and its hash.
    pub fn serves(&self, number: u64, hash: &str) {
        self.generation.set(i64::try_from(number).unwrap_or(i64::MAX));
        self.config.reset();
        self.config.with_label_values(&[hash]).set(1);
    }

    /// Says that the first configuration was loaded, or that the one that serves is the wanted one.
    pub fn loaded(&self) {
        self.last_reload_successful.set(1);
        self.last_reload_success.set(jiff::Timestamp::now().as_second());
    }

    /// Counts a reload that was not tried.
    pub fn put_off(&self, result: &str) {
        self.reloads.with_label_values(&[result]).inc();
    }

    /// Counts a reload and says how it went.
    pub fn reloaded(&self, result: &str, good: bool) {
        self.reloads.with_label_values(&[result]).inc();
        self.last_reload_successful.set(i64::from(good));
        if good {
            self.last_reload_success.set(jiff::Timestamp::now().as_second());
        }
    }

    /// Counts a refusal; `reason` is its index in the list given to [`Metrics::new`].
    pub fn refused(&self, reason: usize) {
        if let Some(counter) = self.reasons.get(reason) {
            counter.inc();
        }
    }

    /// The Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Writing to a Vec cannot fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        out
    }
}

pub(super) fn named(name: &str) -> String {
    format!("app_gateway_{name}")
}

pub(super) fn single<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

pub(super) fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    single(registry, IntCounterVec::new(Opts::new(named(name), help), labels)?)
}

pub(super) fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntGaugeVec> {
    single(registry, IntGaugeVec::new(Opts::new(named(name), help), labels)?)
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> prometheus::Result<HistogramVec> {
    let options = HistogramOpts::new(named(name), help).buckets(buckets.to_vec());
    single(registry, HistogramVec::new(options, &["profile", "route"])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_what_was_counted() {
        let metrics = Metrics::new(["a", "b"].into_iter()).unwrap();
        metrics.refused(1);
        metrics.refused(9);
        metrics.route("internet", "/x/").requests[1].inc();
        metrics.tell(&[], &[("u".to_owned(), false)]);
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(text.contains("app_gateway_refused_total{reason=\"b\"} 1\n"));
        assert!(text.contains(
            "app_gateway_http_requests_total{class=\"2xx\",profile=\"internet\",route=\"/x/\"} 1\n"
        ));
        assert!(text.contains("app_gateway_upstream_unverified{upstream=\"u\"} 1\n"));
    }
}
