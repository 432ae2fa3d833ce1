//! Figures of the status page, parsed from the text of `/metrics`, so that both always agree.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::telemetry::Metrics;
use crate::telemetry::exposition::ExpositionFormat;

/// Common prefix of the metric names.
const METRIC_PREFIX: &str = "app_gateway_";

/// Two names that stand for something: profile and route, profile and listener, rule and result.
type LabelPair = (String, String);

/// The metrics at one moment, as far as the page shows them.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    /// When they were read.
    pub at: Instant,
    /// Figures of each route, by profile and route.
    pub routes: BTreeMap<LabelPair, RouteFigures>,
    /// Figures of each listener, by its address.
    pub listeners: BTreeMap<String, ListenerFigures>,
    /// Name, number of the pair, end of validity in seconds since 1970.
    pub certificates: Vec<(String, String, f64)>,
    /// Requests to the forward proxy by rule and result.
    pub egress: BTreeMap<LabelPair, f64>,
    /// Requests and connections that the gateway ended itself, by reason.
    pub refused: BTreeMap<String, f64>,
    /// Access-log lines lost.
    pub log_lost: f64,
}

/// Figures of a route.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteFigures {
    /// Requests answered.
    pub requests: f64,
    /// Those of them answered with 5xx.
    pub errors: f64,
    /// Requests being served.
    pub in_flight: f64,
    /// Open WebSockets.
    pub websockets: f64,
    /// Upper bound in seconds, and how many requests took at most that long.
    pub buckets: Vec<(f64, f64)>,
}

/// Figures of a listener.
#[derive(Clone, Debug, Default)]
pub(super) struct ListenerFigures {
    /// Open connections.
    pub open: f64,
    /// Handshakes that ended well.
    pub good: f64,
    /// Those that did not.
    pub failed: f64,
    /// Connections not let in.
    pub rejected: f64,
}

/// Sums over everything.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TrafficTotals {
    /// Requests answered.
    pub requests: f64,
    /// Answered with 5xx.
    pub errors: f64,
    /// Requests being served.
    pub in_flight: f64,
    /// Open client connections.
    pub connections: f64,
    /// Open WebSockets.
    pub websockets: f64,
}

impl Figures {
    /// Reads them, on another thread: it takes milliseconds where there are thousands of series.
    pub(super) async fn read(metrics: &Arc<Metrics>) -> Option<Self> {
        let metrics = Arc::clone(metrics);
        let read =
            move || Self::of(&String::from_utf8_lossy(&metrics.render(ExpositionFormat::Text)));
        tokio::task::spawn_blocking(read).await.ok()
    }

    /// Those of a text.
    pub(super) fn of(text: &str) -> Self {
        let mut figures = Self {
            at: Instant::now(),
            routes: BTreeMap::new(),
            listeners: BTreeMap::new(),
            certificates: Vec::new(),
            egress: BTreeMap::new(),
            refused: BTreeMap::new(),
            log_lost: 0.0,
        };
        for line in text.lines() {
            if let Some((name, labels, value)) = sample(line) {
                figures.take(name, &labels, value);
            }
        }
        figures
    }

    fn take(&mut self, name: &str, labels: &BTreeMap<&str, String>, value: f64) {
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let is = |name: &str, wanted: &str| labels.get(name).is_some_and(|found| found == wanted);
        match name {
            "tls_certificate_not_after_timestamp_seconds" => {
                self.certificates.push((label("certificate"), label("pair"), value));
            }
            "egress_requests_total" => {
                *self.egress.entry((label("rule"), label("result"))).or_default() += value;
            }
            "rejected_total" if value > 0.0 => {
                self.refused.insert(label("reason"), value);
            }
            "access_log_dropped_total" => self.log_lost = value,
            _ if labels.contains_key("route") => {
                let route = self.routes.entry((label("profile"), label("route"))).or_default();
                match name {
                    "http_requests_total" => {
                        route.requests += value;
                        route.errors += if is("class", "5xx") { value } else { 0.0 };
                    }
                    "http_requests_in_flight" => route.in_flight = value,
                    "websocket_active" => route.websockets = value,
                    "http_request_duration_seconds_bucket" => {
                        let bound = label("le").parse().unwrap_or(f64::INFINITY);
                        route.buckets.push((bound, value));
                    }
                    _ => {}
                }
            }
            _ if labels.contains_key("listener") => {
                let listener = self.listeners.entry(label("listener")).or_default();
                match name {
                    "connections_active" => listener.open += value,
                    "connections_rejected_total" => listener.rejected += value,
                    "tls_handshakes_total" if is("result", "ok") => listener.good += value,
                    "tls_handshakes_total" => listener.failed += value,
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// Sums.
    pub(super) fn totals(&self) -> TrafficTotals {
        let mut totals = TrafficTotals::default();
        for route in self.routes.values() {
            totals.requests += route.requests;
            totals.errors += route.errors;
            totals.in_flight += route.in_flight;
            totals.websockets += route.websockets;
        }
        totals.connections = self.listeners.values().map(|listener| listener.open).sum();
        totals
    }
}

impl RouteFigures {
    /// Difference to `before`, or all figures if `before` is `None`.
    pub(super) fn since(&self, before: Option<&Self>) -> Self {
        let Some(before) = before else { return self.clone() };
        let earlier = |index: usize| before.buckets.get(index).map_or(0.0, |bucket| bucket.1);
        let buckets = self.buckets.iter().enumerate();
        Self {
            requests: (self.requests - before.requests).max(0.0),
            errors: (self.errors - before.errors).max(0.0),
            buckets: buckets.map(|(i, b)| (b.0, (b.1 - earlier(i)).max(0.0))).collect(),
            ..self.clone()
        }
    }

    /// Upper bound of the duration of this share of the requests, in seconds, interpolated within
    /// its histogram bucket.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let all = self.buckets.last()?.1;
        if all <= 0.0 {
            return None;
        }
        let (mut below, mut low) = (0.0, 0.0);
        for &(bound, count) in &self.buckets {
            if count >= all * share {
                if bound.is_infinite() {
                    return Some(low);
                }
                let inside = (count - below).max(f64::MIN_POSITIVE);
                return Some(
                    low + (bound - low) * ((all * share - below) / inside).clamp(0.0, 1.0),
                );
            }
            (below, low) = (count, bound);
        }
        None
    }
}

/// Name without prefix, labels and value of a line.
fn sample(line: &str) -> Option<(&str, BTreeMap<&str, String>, f64)> {
    let line = line.strip_prefix(METRIC_PREFIX)?;
    let (head, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = head.split_once('{') else {
        return Some((head, BTreeMap::new(), value));
    };
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    while let Some((key, after)) = rest.split_once("=\"") {
        let (text, length) = unquoted(after);
        labels.insert(key, text);
        rest = after.get(length..).unwrap_or_default().trim_start_matches(',');
    }
    Some((name, labels, value))
}

/// The text before the closing quote, and the length of both in bytes.
fn unquoted(text: &str) -> (String, usize) {
    let mut out = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (out, index + 1),
            '\\' => match characters.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, other)) => out.push(other),
                None => {}
            },
            other => out.push(other),
        }
    }
    (out, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP x y\n\
        app_gateway_http_requests_total{class=\"2xx\",profile=\"p\",route=\"/a,{\\\"}\"} 8\n\
        app_gateway_http_requests_total{class=\"5xx\",profile=\"p\",route=\"/a,{\\\"}\"} 2\n\
        app_gateway_http_request_duration_seconds_bucket{profile=\"p\",route=\"/a,{\\\"}\",le=\"0.1\"} 5\n\
        app_gateway_http_request_duration_seconds_bucket{profile=\"p\",route=\"/a,{\\\"}\",le=\"1\"} 10\n\
        app_gateway_http_request_duration_seconds_bucket{profile=\"p\",route=\"/a,{\\\"}\",le=\"+Inf\"} 10\n\
        app_gateway_connections_active{profile=\"p\",listener=\"[::]:1\"} 3\n\
        app_gateway_egress_requests_total{rule=\"none\",result=\"denied\"} 4\n\
        process_threads 5\n";

    #[test]
    fn reads_what_scrapers_read() {
        let figures = Figures::of(TEXT);
        let route = &figures.routes[&("p".to_owned(), "/a,{\"}".to_owned())];
        let counts = |numbers: &[f64]| numbers.iter().map(|n| format!("{n}")).collect::<Vec<_>>();
        assert_eq!(counts(&[route.requests, route.errors]), ["10", "2"]);
        assert_eq!(route.quantile(0.5), Some(0.1));
        assert_eq!(route.quantile(0.9).map(|s| (s * 100.0).round()), Some(82.0));
        assert_eq!(route.since(Some(route)).quantile(0.5), None);
        let denied = figures.egress[&("none".to_owned(), "denied".to_owned())];
        assert_eq!(counts(&[figures.totals().connections, denied]), ["3", "4"]);
    }
}
