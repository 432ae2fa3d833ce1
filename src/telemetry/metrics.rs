//! Metrics of the process, with handles resolved when a configuration is compiled.
//!
//! Label values are names of the configuration and words of closed lists, never data from the
//! network; [`LabelLimits`] bounds the number of names.

mod series;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::proto::LabelPair;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};

use super::cardinality::{KINDS, LabelLimits, OTHER_LABEL};
use super::egress::EgressMetrics;
use super::endpoints::EndpointFamilies;
use super::exposition::{self, ExpositionFormat};
use super::families::{FamilyDescription, FamilyRegistry};
use super::listeners::{ListenerFamilies, ListenerMetrics};
use super::peers::PeerFamilies;
use super::process::ProcessCollector;
use super::rejections::{RejectionFamilies, RejectionTotal};
use super::route::RouteMetrics;
use super::series_guard::{SeriesCounts, SeriesGuard, SeriesKind};
use super::socketio::{SocketIoFamilies, SocketIoMetrics};
use super::tcp::PassthroughFamilies;
use super::upstreams::{UpstreamFamilies, UpstreamMetrics};
use super::websockets::WebSocketFamilies;

/// Bucket bounds in seconds; up to a minute, because long polls last that long.
pub(super) const REQUEST_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Status classes in the order of their counters; the last one means "no status".
pub const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

/// Index of a status code's class in [`CLASSES`].
#[must_use]
pub fn class(status: u16) -> usize {
    match status / 100 {
        class @ 1..=5 => usize::from(class) - 1,
        _ => 5,
    }
}

/// All metric families of the process.
pub struct Metrics {
    registry: FamilyRegistry,
    pub(super) series_counts: SeriesCounts,
    requests: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGaugeVec,
    request_bytes: IntCounterVec,
    response_bytes: IntCounterVec,
    report_only: IntCounterVec,
    pub(super) websockets: WebSocketFamilies,
    pub(super) tcp: PassthroughFamilies,
    listeners: ListenerFamilies,
    upstreams: UpstreamFamilies,
    overflow: IntGaugeVec,
    /// Series of the active configuration; `None` before the first one.
    serving: Mutex<Option<Arc<HashSet<SeriesKind>>>>,
    unverified: IntGaugeVec,
    not_after: IntGaugeVec,
    reloads: IntCounterVec,
    last_reload_successful: IntGauge,
    last_reload_success: IntGauge,
    config: IntGaugeVec,
    generation: IntGauge,
    /// Counters by reason index, in the list given to [`Metrics::new`].
    reasons: Vec<IntCounter>,
    /// The list of reason words.
    pub(super) words: Vec<&'static str>,
    pub(super) refusals: RejectionFamilies,
    /// Families of endpoints.
    pub endpoints: EndpointFamilies,
    /// Families of peer gateways for drift comparison.
    pub peers: PeerFamilies,
    /// Families of the forward proxy.
    pub egress: EgressMetrics,
    /// Families of Socket.IO sessions.
    pub socketio: SocketIoFamilies,
    /// Access-log lines written.
    pub log_written: IntCounter,
    /// Access-log lines dropped.
    pub log_dropped: IntCounter,
    /// Bytes of responses in memory that HTTP/2 clients have not read yet.
    pub http2_send_buffer: IntGauge,
    /// Lines of the operational log dropped.
    pub operational_log_dropped: IntCounter,
    /// Generations that are still in use.
    pub generations_alive: IntGauge,
}

impl Metrics {
    /// Registers all families. `reasons` is the closed list of reason words.
    ///
    /// # Errors
    ///
    /// Only if two families have the same name, which tests exclude.
    pub fn new(reasons: impl Iterator<Item = &'static str>) -> prometheus::Result<Arc<Self>> {
        Self::of(reasons.collect())
    }

    /// Not generic: the function is long, and each iterator type would get its own copy.
    #[expect(clippy::too_many_lines, reason = "one entry per metric family, and nothing else")]
    fn of(words: Vec<&'static str>) -> prometheus::Result<Arc<Self>> {
        let registry = FamilyRegistry::default();
        let route = &["profile", "route"];
        let reason_counts = counters(
            &registry,
            "rejected_total",
            "Requests and connections that the gateway rejected or ended early, by reason.",
            &["reason"],
        )?;
        let build =
            gauges(&registry, "build_info", "Version of the gateway; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let reloads = counters(
            &registry,
            "config_reloads_total",
            "Attempts to reload the configuration, by result.",
            &["result"],
        )?;
        for result in ["applied", "unchanged", "refused"] {
            let _there_from_the_start = reloads.with_label_values(&[result]);
        }
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
                "Time from the end of a request's head to the end of its response.",
                REQUEST_BUCKETS,
                route,
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
                "Requests that a route served only because of report mode.",
                route,
            )?,
            websockets: WebSocketFamilies::new(&registry)?,
            listeners: ListenerFamilies::new(&registry)?,
            upstreams: UpstreamFamilies::new(&registry)?,
            overflow: gauges(
                &registry,
                "metrics_overflow",
                "Names of the configuration without series of their own, counted together as `other`.",
                &["kind"],
            )?,
            serving: Mutex::default(),
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
            reloads,
            last_reload_successful: single(
                &registry,
                IntGauge::new(
                    named("config_last_reload_successful"),
                    "1 if the last attempt to load the configuration succeeded, 0 if it failed.",
                )?,
            )?,
            last_reload_success: single(
                &registry,
                IntGauge::new(
                    named("config_last_reload_success_timestamp_seconds"),
                    "Time at which the active configuration was loaded, in seconds since 1970.",
                )?,
            )?,
            endpoints: EndpointFamilies::new(&registry)?,
            peers: PeerFamilies::new(&registry)?,
            reasons: words.iter().map(|word| reason_counts.with_label_values(&[word])).collect(),
            words,
            log_written: single(
                &registry,
                IntCounter::new(named("access_log_lines_total"), "Access-log lines written.")?,
            )?,
            egress: EgressMetrics::new(&registry)?,
            socketio: SocketIoFamilies::new(&registry)?,
            tcp: PassthroughFamilies::new(&registry)?,
            log_dropped: single(
                &registry,
                IntCounter::new(
                    named("access_log_dropped_total"),
                    "Access-log lines dropped because the disk was full or slow.",
                )?,
            )?,
            operational_log_dropped: single(
                &registry,
                IntCounter::new(
                    named("operational_log_dropped_total"),
                    "Operational log lines dropped because standard error was full or slow.",
                )?,
            )?,
            config: gauges(
                &registry,
                "config_info",
                "Hash of the active configuration; always 1. Equal for gateways with the same behaviour.",
                &["hash"],
            )?,
            generation: single(
                &registry,
                IntGauge::new(
                    named("config_generation"),
                    "Number of the active configuration generation.",
                )?,
            )?,
            http2_send_buffer: single(
                &registry,
                IntGauge::new(
                    named("http2_send_buffer_bytes"),
                    "Bytes of responses in memory that HTTP/2 clients have not read yet.",
                )?,
            )?,
            generations_alive: single(
                &registry,
                IntGauge::new(
                    named("config_generations_alive"),
                    "Configuration generations in memory: the active one, the previous one (for `rollback`), and those that requests still use.",
                )?,
            )?,
            registry: {
                registry.register(Box::new(ProcessCollector::new()?))?;
                registry
            },
            series_counts: SeriesCounts::default(),
            refusals: RejectionFamilies::default(),
        }))
    }

    /// Creates the label limits of one configuration: the first `most` names of each kind have
    /// series of their own.
    #[must_use]
    pub fn allot(self: &Arc<Self>, most: usize) -> LabelLimits {
        LabelLimits::new(self, most)
    }

    /// Metrics of a route.
    #[must_use]
    pub fn route(self: &Arc<Self>, profile: &str, route: &str) -> RouteMetrics {
        let guard =
            SeriesGuard::acquire(self, SeriesKind::Route(profile.to_owned(), route.to_owned()));
        let labels = &[profile, route];
        RouteMetrics {
            requests: CLASSES
                .map(|class| self.requests.with_label_values(&[profile, route, class])),
            seconds: self.seconds.with_label_values(labels),
            in_flight: self.in_flight.with_label_values(labels),
            request_bytes: self.request_bytes.with_label_values(labels),
            response_bytes: self.response_bytes.with_label_values(labels),
            report_only: self.report_only.with_label_values(labels),
            refusals: self.refusals.handles(profile, route, self.reasons.len()),
            websockets: None,
            guard,
        }
    }

    /// Metrics of a listener.
    #[must_use]
    pub fn listener(self: &Arc<Self>, profile: &str, listener: &str) -> ListenerMetrics {
        let series = SeriesKind::Listener(profile.to_owned(), listener.to_owned());
        self.listeners.handles(SeriesGuard::acquire(self, series), profile, listener)
    }

    /// Metrics of a listener with `proxy-protocol`.
    #[must_use]
    pub fn listener_for_balancers(
        self: &Arc<Self>,
        profile: &str,
        listener: &str,
    ) -> ListenerMetrics {
        let handles = self.listener(profile, listener);
        self.listeners.for_balancers(handles, profile, listener)
    }

    /// Metrics of an upstream.
    #[must_use]
    pub fn upstream(self: &Arc<Self>, name: &str) -> UpstreamMetrics {
        self.upstreams
            .handles(SeriesGuard::acquire(self, SeriesKind::Upstream(name.to_owned())), name)
    }

    /// Metrics of the Socket.IO sessions that a profile sends to an upstream.
    #[must_use]
    pub fn socketio(self: &Arc<Self>, profile: &str, upstream: &str) -> SocketIoMetrics {
        let guard = SeriesGuard::acquire(self, SeriesKind::Upstream(upstream.to_owned()));
        self.socketio.handles(guard, profile, upstream)
    }

    /// Series that are not exposed: those of a configuration that is not active, because it is kept
    /// for a rollback or still in preparation, and that are not in use.
    fn hidden(&self, serving: &HashSet<SeriesKind>) -> HashSet<SeriesKind> {
        // Held during the checks, so that no series ends meanwhile.
        let series_counts = self.series_counts.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = series_counts.keys().filter(|series| !serving.contains(series));
        gone.filter(|series| !self.is_used(series)).cloned().collect()
    }

    /// Replaces the series of the active configuration: its names, the expiry of its certificates
    /// (name, pair index, seconds since 1970), and whether its upstreams are verified.
    pub fn set_active_configuration(
        &self,
        names: &LabelLimits,
        certificates: &[(String, usize, i64)],
        upstreams: &[(String, bool)],
    ) {
        self.not_after.reset();
        let mut ends = BTreeMap::new();
        let mut known: Vec<&str> = Vec::new();
        let mut over = HashSet::new();
        for (name, pair, not_after) in certificates {
            let is_known = known.contains(&name.as_str());
            if is_known || known.len() < names.most() {
                known.extend((!is_known).then_some(name.as_str()));
                ends.insert((name.as_str(), *pair), *not_after);
            } else {
                over.insert(name.as_str());
                let earliest = ends.entry((OTHER_LABEL, 0)).or_insert(*not_after);
                *earliest = (*earliest).min(*not_after);
            }
        }
        for ((name, pair), not_after) in ends {
            self.not_after.with_label_values(&[name, &pair.to_string()]).set(not_after);
        }
        self.unverified.reset();
        for (name, verified) in upstreams {
            let gauge = self.unverified.with_label_values(&[names.upstream_name(name)]);
            gauge.set(gauge.get().max(i64::from(!verified)));
        }
        let over = names.over().into_iter().chain([over.len()]);
        for (kind, count) in KINDS.iter().zip(over) {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.overflow.with_label_values(&[kind]).set(count);
        }
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        *serving = Some(Arc::new(names.series()));
    }

    /// Sets number and hash of the active configuration.
    pub fn set_generation(&self, number: u64, hash: &str) {
        self.generation.set(i64::try_from(number).unwrap_or(i64::MAX));
        self.config.reset();
        self.config.with_label_values(&[hash]).set(1);
    }

    /// Records that the first configuration was loaded, or that the active one is the one in the
    /// files.
    pub fn record_load(&self) {
        self.last_reload_successful.set(1);
        self.last_reload_success.set(jiff::Timestamp::now().as_second());
    }

    /// Counts a reload that was not attempted.
    pub fn record_skipped_reload(&self, result: &str) {
        self.reloads.with_label_values(&[result]).inc();
    }

    /// Counts a reload with its result.
    pub fn record_reload(&self, result: &str, good: bool) {
        self.reloads.with_label_values(&[result]).inc();
        self.last_reload_successful.set(i64::from(good));
        if good {
            self.last_reload_success.set(jiff::Timestamp::now().as_second());
        }
    }

    /// Counts a rejection; `reason` is its index in the list given to [`Metrics::new`].
    pub fn refused(&self, reason: usize) {
        if let Some(counter) = self.reasons.get(reason) {
            counter.inc();
        }
    }

    /// Rejections since the start: reason index and count.
    #[must_use]
    pub fn rejections(&self) -> Vec<(usize, u64)> {
        let all = self.reasons.iter().map(IntCounter::get).enumerate();
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// Rejections of each route, by reason.
    #[must_use]
    pub fn rejections_by_route(&self) -> Vec<RejectionTotal> {
        self.refusals.totals()
    }

    /// Descriptions of all metric families.
    #[must_use]
    pub fn families(&self) -> Vec<FamilyDescription> {
        self.registry.descriptions()
    }

    /// Renders all metrics as text. Takes milliseconds for thousands of series, and no lock that a
    /// request would wait for.
    #[must_use]
    pub fn render(&self, format: ExpositionFormat) -> Vec<u8> {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let hidden = serving.as_ref().map(|serving| self.hidden(serving)).unwrap_or_default();
        let shown = |labels: &[LabelPair]| match &serving {
            // Series of rules have no guard.
            Some(serving) if labels.iter().any(|label| label.name() == "rule") => {
                SeriesKind::from_labels(labels).is_none_or(|series| serving.contains(&series))
            }
            _ if hidden.is_empty() => true,
            _ => SeriesKind::from_labels(labels).is_none_or(|series| !hidden.contains(&series)),
        };
        exposition::write(&self.registry.gather(), format, &shown)
    }
}

pub(super) fn named(name: &str) -> String {
    format!("app_gateway_{name}")
}

pub(super) fn single<C: Collector + Clone + 'static>(
    registry: &FamilyRegistry,
    metric: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

pub(super) fn counters(
    registry: &FamilyRegistry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    single(registry, IntCounterVec::new(Opts::new(named(name), help), labels)?)
}

pub(super) fn gauges(
    registry: &FamilyRegistry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntGaugeVec> {
    single(registry, IntGaugeVec::new(Opts::new(named(name), help), labels)?)
}

pub(super) fn histograms(
    registry: &FamilyRegistry,
    name: &str,
    help: &str,
    buckets: &[f64],
    labels: &[&str],
) -> prometheus::Result<HistogramVec> {
    let options = HistogramOpts::new(named(name), help).buckets(buckets.to_vec());
    single(registry, HistogramVec::new(options, labels)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_what_was_counted() {
        let metrics = Metrics::new(["a", "b"].into_iter()).unwrap();
        metrics.refused(1);
        metrics.refused(9);
        assert_eq!(metrics.rejections(), [(1, 1)]);
        let names = metrics.allot(1);
        let route = names.route("internet", "/x/");
        route.requests[1].inc();
        metrics.set_active_configuration(&names, &[], &[("u".to_owned(), false)]);
        let text = String::from_utf8(metrics.render(ExpositionFormat::Text)).unwrap();
        assert!(text.contains("app_gateway_rejected_total{reason=\"b\"} 1\n"));
        assert!(text.contains(
            "app_gateway_http_requests_total{class=\"2xx\",profile=\"internet\",route=\"/x/\"} 1\n"
        ));
        assert!(text.contains("app_gateway_upstream_unverified{upstream=\"u\"} 1\n"));
    }
}
