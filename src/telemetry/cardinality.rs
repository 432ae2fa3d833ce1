//! Label cardinality limits: the names of a configuration that get series of their own.
//!
//! The first `most` routes, listeners, upstreams, certificates and egress rules of a configuration
//! have series under their names. All others are counted together under [`OTHER_LABEL`], and a
//! gauge shows their number. Equal configurations get equal series, independent of earlier
//! configurations.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::egress::NO_RULE;
use super::series_guard::SeriesKind;
use super::socketio::SocketIoMetrics;
use super::{
    LazyRouteMetrics, ListenerMetrics, Metrics, PassthroughMetrics, RouteMetrics, RuleMetrics,
    UpstreamMetrics,
};

/// Label value for names without series of their own.
pub const OTHER_LABEL: &str = "other";

/// Kinds of names with a limit, in the order of [`LabelLimits::over`].
pub const KINDS: [&str; 5] = ["route", "listener", "upstream", "rule", "certificate"];

/// Names with series, for one configuration.
pub struct LabelLimits {
    metrics: Arc<Metrics>,
    most: usize,
    other: Arc<str>,
    names: Mutex<LabelNames>,
}

#[derive(Default)]
struct LabelNames {
    /// Names with series of their own.
    own: [HashSet<SeriesKind>; 4],
    /// Hashes of the names without series, for counting. There may be thousands.
    over: [HashSet<u64>; 4],
    hasher: RandomState,
    /// A passthrough route has no series of its own.
    tcp_is_over: bool,
}

impl LabelLimits {
    pub(super) fn new(metrics: &Arc<Metrics>, most: usize) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            most,
            other: OTHER_LABEL.into(),
            names: Mutex::default(),
        }
    }

    /// Metrics of a route.
    #[must_use]
    pub fn route(&self, profile: &str, route: &str) -> RouteMetrics {
        RouteMetrics::clone(&self.begin(&profile.into(), &route.into()))
    }

    /// Decides now which series a route has, and creates them on first use.
    #[must_use]
    pub fn begin(&self, profile: &Arc<str>, route: &Arc<str>) -> LazyRouteMetrics {
        let own = self.admits(0, SeriesKind::Route(profile.to_string(), route.to_string()));
        let (profile, route) = if own { (profile, route) } else { (&self.other, &self.other) };
        LazyRouteMetrics {
            made: OnceLock::new(),
            metrics: Arc::clone(&self.metrics),
            profile: Arc::clone(profile),
            route: Arc::clone(route),
            websockets: false,
        }
    }

    /// Metrics of a passthrough route.
    #[must_use]
    pub fn tcp(&self, profile: &str, route: &str) -> PassthroughMetrics {
        let own = self.admits(0, SeriesKind::Tcp(profile.to_owned(), route.to_owned()));
        let (profile, route) = if own { (profile, route) } else { (OTHER_LABEL, OTHER_LABEL) };
        self.metrics.tcp(profile, route)
    }

    /// Metrics of a listener.
    #[must_use]
    pub fn listener(&self, profile: &str, listener: &str) -> ListenerMetrics {
        let (profile, listener) = self.listener_names(profile, listener);
        self.metrics.listener(profile, listener)
    }

    /// Metrics of a listener with `proxy-protocol`.
    #[must_use]
    pub fn listener_for_balancers(&self, profile: &str, listener: &str) -> ListenerMetrics {
        let (profile, listener) = self.listener_names(profile, listener);
        self.metrics.listener_for_balancers(profile, listener)
    }

    fn listener_names<'a>(&self, profile: &'a str, listener: &'a str) -> (&'a str, &'a str) {
        let own = self.admits(1, SeriesKind::Listener(profile.to_owned(), listener.to_owned()));
        if own { (profile, listener) } else { (OTHER_LABEL, OTHER_LABEL) }
    }

    /// Metrics of an upstream.
    #[must_use]
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        self.metrics.upstream(self.upstream_name(name))
    }

    /// Decides now under which name the Socket.IO sessions of an upstream are counted. The returned
    /// function creates the counters.
    pub fn socketio(
        &self,
        profile: &str,
        upstream: &str,
    ) -> impl FnOnce() -> SocketIoMetrics + Send + Sync + use<> {
        let (profile, upstream) = (profile.to_owned(), self.upstream_name(upstream).to_owned());
        let metrics = Arc::clone(&self.metrics);
        move || metrics.socketio(&profile, &upstream)
    }

    /// Label value for an upstream.
    #[must_use]
    pub fn upstream_name<'a>(&self, name: &'a str) -> &'a str {
        if self.admits(2, SeriesKind::Upstream(name.to_owned())) { name } else { OTHER_LABEL }
    }

    /// Metrics of a rule of the forward proxy; `reasons` as in [`super::EgressMetrics::rule`].
    #[must_use]
    pub fn rule(&self, name: &str, reasons: usize) -> RuleMetrics {
        let own = name == NO_RULE || self.admits(3, SeriesKind::Rule(name.to_owned()));
        self.metrics.egress.rule(if own { name } else { OTHER_LABEL }, reasons)
    }

    fn admits(&self, kind: usize, series: SeriesKind) -> bool {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let LabelNames { own, over, hasher, tcp_is_over } = &mut *names;
        let (own, over) = (&mut own[kind], &mut over[kind]);
        if own.contains(&series) {
            return true;
        }
        if own.len() < self.most {
            return own.insert(series);
        }
        over.insert(hasher.hash_one(&series));
        *tcp_is_over |= matches!(series, SeriesKind::Tcp(..));
        false
    }

    /// Limit for certificate names with series of their own.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Number of routes, listeners, upstreams and rules without series of their own.
    #[must_use]
    pub fn over(&self) -> [usize; 4] {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        [0, 1, 2, 3].map(|kind| names.over[kind].len())
    }

    /// All series in use.
    pub(super) fn series(&self) -> HashSet<SeriesKind> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: HashSet<_> = names.own.iter().flatten().cloned().collect();
        let other = || OTHER_LABEL.to_owned();
        let others = [
            SeriesKind::Route(other(), other()),
            SeriesKind::Listener(other(), other()),
            SeriesKind::Upstream(other()),
            SeriesKind::Rule(other()),
        ];
        for (over, series) in names.over.iter().zip(others) {
            if !over.is_empty() {
                all.insert(series);
            }
        }
        if names.tcp_is_over {
            all.insert(SeriesKind::Tcp(other(), other()));
        }
        all.insert(SeriesKind::Rule(NO_RULE.to_owned()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::exposition::ExpositionFormat;

    fn rendered(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render(ExpositionFormat::Text)).unwrap()
    }

    #[test]
    fn what_is_over_the_limit_is_counted_together_and_said() {
        let metrics = Metrics::new(std::iter::empty()).unwrap();
        let allotment = metrics.allot(10);
        let routes: Vec<_> =
            (0..10_000).map(|n| allotment.route("internet", &format!("/{n}/"))).collect();
        // The same name again, as the component's own ports configure it.
        let _again = allotment.route("internet", "/9999/");
        for route in &routes {
            route.requests[1].inc();
        }
        metrics.set_active_configuration(&allotment, &[], &[]);
        let text = rendered(&metrics);
        let of = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(of("app_gateway_http_request_duration_seconds_count"), 11);
        assert!(text.contains(
            "app_gateway_http_requests_total{class=\"2xx\",profile=\"other\",route=\"other\"} 9990\n"
        ));
        assert!(text.contains("app_gateway_metrics_overflow{kind=\"route\"} 9990\n"), "{text}");
        assert!(text.contains("app_gateway_metrics_overflow{kind=\"upstream\"} 0\n"));
    }

    #[test]
    fn the_earliest_end_of_the_other_certificates_is_told() {
        let metrics = Metrics::new(std::iter::empty()).unwrap();
        let allotment = metrics.allot(1);
        let certificates = [("a", 0, 9), ("a", 1, 8), ("b", 0, 7), ("c", 0, 5), ("d", 0, 6)]
            .map(|(n, p, at)| (n.to_owned(), p, at));
        metrics.set_active_configuration(&allotment, &certificates, &[]);
        let text = rendered(&metrics);
        let line =
            "tls_certificate_not_after_timestamp_seconds{certificate=\"other\",pair=\"0\"} 5\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("{certificate=\"a\",pair=\"1\"} 8\n"), "{text}");
        assert!(text.contains("app_gateway_metrics_overflow{kind=\"certificate\"} 3\n"), "{text}");
    }

    #[test]
    fn what_is_not_served_is_not_shown_unless_somebody_uses_it() {
        let metrics = Metrics::new(std::iter::empty()).unwrap();
        let before = metrics.allot(10);
        let (old, used) = (before.route("p", "/old/"), before.route("p", "/used/"));
        old.requests[1].inc();
        used.in_flight.inc();
        metrics.set_active_configuration(&before, &[], &[]);
        assert!(rendered(&metrics).contains("/old/"));
        // A reload; the previous configuration is kept for a rollback.
        let after = metrics.allot(10);
        let _new = after.route("p", "/new/");
        assert!(!rendered(&metrics).contains("/new/"), "it does not serve yet");
        metrics.set_active_configuration(&after, &[], &[]);
        let text = rendered(&metrics);
        assert!(text.contains("/new/") && text.contains("/used/") && !text.contains("/old/"));
        used.in_flight.dec();
        assert!(!rendered(&metrics).contains("/used/"));
        // The rollback.
        metrics.set_active_configuration(&before, &[], &[]);
        let text = rendered(&metrics);
        assert!(text.contains("{class=\"2xx\",profile=\"p\",route=\"/old/\"} 1\n"), "{text}");
        assert!(!text.contains("/new/"));
    }
}
