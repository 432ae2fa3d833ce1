//! Metrics of Socket.IO sessions, by profile and upstream.
//!
//! Routes with sessions hold guards for the counters; the control runtime updates the gauges when
//! metrics are scraped.

use std::sync::{Arc, LazyLock};

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};

use super::families::FamilyRegistry;
use super::metrics::{counters, gauges};
use super::series_guard::SeriesGuard;

/// Transports with which a session may start.
pub const TRANSPORTS: [&str; 2] = ["polling", "websocket"];

/// Causes of the end of a session.
pub const SESSION_ENDS: [&str; 3] = ["closed", "lost", "idle_timer"];

/// Kinds of data dropped because a table was full.
pub const DROPPED_KINDS: [&str; 2] = ["sessions", "events"];

/// Metric families of Socket.IO sessions.
pub struct SocketIoFamilies {
    sessions: IntGaugeVec,
    stuck: IntGaugeVec,
    opened: IntCounterVec,
    upgrades: IntCounterVec,
    ended: IntCounterVec,
    not_upgraded: IntCounterVec,
    dropped: [IntCounter; 2],
}

/// Metrics of one profile and upstream.
pub struct SocketIoMetrics {
    profile: String,
    upstream: String,
    opened: [IntCounter; 2],
    /// Sessions that upgraded from polling to a WebSocket.
    pub upgrades: IntCounter,
    ended: IntCounterVec,
    not_upgraded: IntCounterVec,
    _guard: Arc<SeriesGuard>,
}

/// Labels of a route's sessions, and their counters.
pub struct SocketIoLabels {
    /// Name of the profile.
    pub profile: Arc<str>,
    /// Name of the route.
    pub route: Arc<str>,
    /// Name of the upstream.
    pub upstream: Arc<str>,
    /// Counters, shared by all routes of the profile to the upstream. They are created with the
    /// first session, because most upstreams have none.
    pub metrics: Arc<LazyLock<SocketIoMetrics, MakeCounters>>,
}

/// Function that creates the counters of one profile and upstream.
pub type MakeCounters = Box<dyn FnOnce() -> SocketIoMetrics + Send + Sync>;

/// State of one session, for the gauges.
pub struct SessionGauges<'a> {
    /// Metrics to which the session belongs.
    pub of: &'a SocketIoMetrics,
    /// `polling`, `stuck`, `upgraded` or `direct`.
    pub state: &'static str,
    /// Cause of a stuck session.
    pub cause: Option<&'static str>,
}

impl SocketIoMetrics {
    /// Counts an opened session. `false`: opened by polling; `true`: by a WebSocket.
    pub fn opened(&self, by_websocket: bool) {
        self.opened[usize::from(by_websocket)].inc();
    }

    /// Counts an ended session; `end` is one of [`SESSION_ENDS`].
    pub fn ended(&self, on_websocket: bool, end: &str) {
        let labels = [&self.profile, &self.upstream, TRANSPORTS[usize::from(on_websocket)], end];
        self.ended.with_label_values(&labels).inc();
    }

    /// Counts a session that ended without an upgrade; `cause` is from a closed list.
    pub fn not_upgraded(&self, cause: &str) {
        self.not_upgraded.with_label_values(&[&self.profile, &self.upstream, cause]).inc();
    }
}

impl SocketIoFamilies {
    pub(super) fn new(registry: &FamilyRegistry) -> prometheus::Result<Self> {
        let dropped = counters(
            registry,
            "socketio_dropped_total",
            "Socket.IO sessions and events dropped because the tracking table or its queue was full; no other Socket.IO metric contains them.",
            &["kind"],
        )?;
        let labels = &["profile", "upstream"];
        Ok(Self {
            sessions: gauges(
                registry,
                "socketio_sessions",
                "Socket.IO sessions, by state: `polling` (too young to be stuck), `stuck` on polling, `upgraded` to a WebSocket, `direct` (a WebSocket from the start).",
                &["profile", "upstream", "state"],
            )?,
            stuck: gauges(
                registry,
                "socketio_stuck_sessions",
                "Socket.IO sessions that stay on polling, by cause.",
                &["profile", "upstream", "cause"],
            )?,
            opened: counters(
                registry,
                "socketio_opened_total",
                "Socket.IO sessions opened, by their first transport.",
                &["profile", "upstream", "transport"],
            )?,
            upgrades: counters(
                registry,
                "socketio_upgrades_total",
                "Socket.IO sessions upgraded from polling to a WebSocket.",
                labels,
            )?,
            ended: counters(
                registry,
                "socketio_ended_total",
                "Socket.IO sessions that have ended, by their last transport and cause: `closed`, `lost`, or cut by an `idle_timer`.",
                &["profile", "upstream", "transport", "end"],
            )?,
            not_upgraded: counters(
                registry,
                "socketio_not_upgraded_total",
                "Socket.IO sessions that have ended without a WebSocket, by cause.",
                &["profile", "upstream", "cause"],
            )?,
            dropped: DROPPED_KINDS.map(|kind| dropped.with_label_values(&[kind])),
        })
    }

    pub(super) fn handles(
        &self,
        guard: Arc<SeriesGuard>,
        profile: &str,
        upstream: &str,
    ) -> SocketIoMetrics {
        let labels = &[profile, upstream];
        SocketIoMetrics {
            opened: TRANSPORTS
                .map(|transport| self.opened.with_label_values(&[profile, upstream, transport])),
            upgrades: self.upgrades.with_label_values(labels),
            ended: self.ended.clone(),
            not_upgraded: self.not_upgraded.clone(),
            profile: profile.to_owned(),
            upstream: upstream.to_owned(),
            _guard: guard,
        }
    }

    /// Replaces the gauges by the given sessions.
    pub fn update_gauges<'a>(&self, sessions: impl Iterator<Item = SessionGauges<'a>>) {
        self.sessions.reset();
        self.stuck.reset();
        for SessionGauges { of, state, cause } in sessions {
            let (profile, upstream) = (of.profile.as_str(), of.upstream.as_str());
            self.sessions.with_label_values(&[profile, upstream, state]).inc();
            if let Some(cause) = cause {
                self.stuck.with_label_values(&[profile, upstream, cause]).inc();
            }
        }
    }

    /// Counts a session dropped because the table was full.
    pub fn count_dropped_session(&self) {
        self.dropped[0].inc();
    }

    /// Counts session events dropped because a queue was full.
    pub fn count_dropped_events(&self, count: u64) {
        self.dropped[1].inc_by(count);
    }

    /// Number of dropped sessions, and of dropped events.
    #[must_use]
    pub fn dropped(&self) -> [u64; 2] {
        [self.dropped[0].get(), self.dropped[1].get()]
    }

    /// Removes the series of an upstream that no longer exists, in all profiles.
    pub(super) fn forget(&self, upstream: &str) {
        for family in [&self.opened, &self.upgrades, &self.ended, &self.not_upgraded] {
            let names: Vec<String> =
                family.desc().first().map(|desc| desc.variable_labels.clone()).unwrap_or_default();
            for metric in family.collect().iter().flat_map(MetricFamily::get_metric) {
                let value = |name: &String| {
                    let mut labels = metric.get_label().iter();
                    labels.find(|label| label.name() == name).map_or("", |label| label.value())
                };
                let values: Vec<_> = names.iter().map(value).collect();
                if names
                    .iter()
                    .zip(&values)
                    .any(|(name, value)| name == "upstream" && *value == upstream)
                {
                    let _ = family.remove_label_values(&values);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;
    use crate::telemetry::exposition::ExpositionFormat;

    #[test]
    fn series_go_with_their_upstream() {
        let metrics = Metrics::new(std::iter::empty()).unwrap();
        let text = || String::from_utf8(metrics.render(ExpositionFormat::Text)).unwrap();
        let names = metrics.allot(1);
        let (chat, other) = (names.socketio("p", "chat")(), names.socketio("q", "second")());
        chat.opened(false);
        chat.ended(true, "closed");
        chat.not_upgraded("never_tried");
        other.upgrades.inc();
        metrics.set_active_configuration(&names, &[], &[]);
        metrics.socketio.update_gauges(
            [SessionGauges { of: &chat, state: "stuck", cause: Some("never_tried") }].into_iter(),
        );
        for line in [
            "socketio_opened_total{profile=\"p\",transport=\"polling\",upstream=\"chat\"} 1",
            "socketio_ended_total{end=\"closed\",profile=\"p\",transport=\"websocket\",upstream=\"chat\"} 1",
            "socketio_not_upgraded_total{cause=\"never_tried\",profile=\"p\",upstream=\"chat\"} 1",
            "socketio_stuck_sessions{cause=\"never_tried\",profile=\"p\",upstream=\"chat\"} 1",
            "socketio_upgrades_total{profile=\"q\",upstream=\"other\"} 1",
        ] {
            assert!(text().contains(&format!("app_gateway_{line}\n")), "{line}:\n{}", text());
        }
        metrics.socketio.update_gauges(std::iter::empty());
        drop((chat, other));
        let left = text();
        assert!(
            !left
                .lines()
                .any(|line| line.starts_with("app_gateway_socketio_") && line.contains("upstream")),
            "{left}"
        );
    }
}
