//! Table of all sessions, kept by the control runtime from the events of the workers.
//!
//! The requests of one session may arrive at different workers. Workers therefore only record
//! events, and the session table combines them. Its size is bounded; sessions and events beyond the
//! bounds are counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::message::Reason;
use crate::telemetry::Metrics;
use crate::telemetry::socketio::SessionGauges;

use super::cause::{Cause, TimerSide, too_short};
use super::event::{EventKind, SessionEvent, SessionOpened};
use super::idle_timers::IdleTimers;
use super::key::SessionKey;
use super::report::{
    CauseReport, IdleTimerReport, SessionCounts, SessionReport, SessionRow, Timeline, TimelineEntry,
};
use super::session::{SessionState, TrackedSession, describe_failure, poll_side};

/// Limit on sessions, ended ones included.
const MAX_SESSIONS: usize = 16_384;

/// How long an ended session is kept for reports.
const ENDED_RETENTION: Duration = Duration::from_secs(600);

/// Limits on the rows of a report.
const MAX_STUCK_ROWS: usize = 100;
const MAX_ENDED_ROWS: usize = 50;

/// Limit on warnings.
const MAX_WARNINGS: usize = 100;

/// All tracked sessions, the idle timers that were detected, and warnings.
pub struct SessionTable {
    metrics: Arc<Metrics>,
    sessions: HashMap<SessionKey, TrackedSession>,
    timers: IdleTimers,
    /// Subject and sentence of each warning.
    warnings: Vec<(String, String)>,
    most: usize,
    /// Whether the table was full of open sessions when it was last swept, so that sweeping again
    /// before the next interval is useless.
    full: bool,
}

impl SessionTable {
    /// An empty table.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            sessions: HashMap::new(),
            timers: IdleTimers::default(),
            warnings: Vec::new(),
            most: MAX_SESSIONS,
            full: false,
        }
    }

    /// Whether no sessions are tracked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Adds events.
    pub fn record(&mut self, events: Vec<SessionEvent>, now: Instant) {
        for event in events {
            self.apply(event, now);
        }
    }

    fn apply(&mut self, event: SessionEvent, now: Instant) {
        if self.sessions.len() >= self.most && !self.sessions.contains_key(&event.key) {
            self.make_room(now);
            if self.sessions.len() >= self.most {
                match event.what {
                    EventKind::Opened(_) | EventKind::Switched { direct: true } => {
                        self.metrics.socketio.count_dropped_session();
                    }
                    _ => self.metrics.socketio.count_dropped_events(1),
                }
                return;
            }
        }
        let metrics = &event.place.metrics;
        match event.what {
            EventKind::Opened(opened) => {
                metrics.opened(false);
                self.warn(&event, &opened);
            }
            EventKind::Switched { direct: true } => metrics.opened(true),
            EventKind::Upgraded => metrics.upgrades.inc(),
            _ => {}
        }
        let session = match self.sessions.entry(event.key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(TrackedSession::new(&event)),
        };
        let cut = match event.what {
            EventKind::Polled(polled) => poll_side(&polled)
                .filter(|_| session.is_within(polled.waited))
                .map(|side| (side, polled.waited)),
            EventKind::Cut(cut) => session.cut_side(&cut).map(|side| (side, cut.silent)),
            _ => None,
        };
        if let Some((side, waited)) = cut {
            let place = &event.place;
            self.timers.note((&place.profile, &place.upstream), side, (event.at, waited));
        }
        session.apply(event);
    }

    /// Warns once for each timeout of the gateway that is shorter than the heartbeat needs.
    fn warn(&mut self, event: &SessionEvent, opened: &SessionOpened) {
        let Some(heartbeat) = opened.heartbeat else { return };
        let place = &event.place;
        let about = format!(
            "profile {}, route {}, upstream {}",
            place.profile, place.route, place.upstream
        );
        let timers =
            [("first-byte-timeout", opened.first_byte), ("tunnel-idle", opened.tunnel_idle)];
        for (key, set) in timers {
            let name = format!("{about}: {key}");
            let Some(sentence) = too_short(heartbeat, key, set) else {
                self.warnings.retain(|(known, _)| *known != name);
                continue;
            };
            let known = self.warnings.iter().any(|(known, _)| *known == name);
            if !known && self.warnings.len() < MAX_WARNINGS {
                let (profile, upstream) = (&*place.profile, &*place.upstream);
                tracing::warn!(profile, route = &*place.route, upstream, "{sentence}");
                self.warnings.push((name, format!("{about}: {sentence}")));
            }
        }
    }

    /// Counts sessions that have ended, and removes those that ended long ago.
    pub fn sweep(&mut self, now: Instant) {
        self.timers.forget(now);
        let timers = &self.timers;
        let mut forgotten = false;
        self.sessions.retain(|_, session| {
            let SessionState::Ended(end) = session.state(now, timers) else { return true };
            if !std::mem::replace(&mut session.counted, true) {
                let metrics = &session.place.metrics;
                metrics.ended(end.on_websocket, end.how.word());
                if let Some(cause) = end.cause {
                    metrics.not_upgraded(cause.word());
                }
            }
            let kept = now.saturating_duration_since(end.at) < ENDED_RETENTION;
            forgotten |= !kept;
            kept
        });
        self.full = false;
        if forgotten && self.sessions.len() < self.sessions.capacity() / 4 {
            self.sessions.shrink_to_fit();
        }
    }

    /// Removes all ended sessions.
    fn make_room(&mut self, now: Instant) {
        if self.full {
            return;
        }
        self.sweep(now);
        let timers = &self.timers;
        self.sessions
            .retain(|_, session| !matches!(session.state(now, timers), SessionState::Ended(_)));
        self.full = self.sessions.len() >= self.most;
    }

    /// Sets the gauges of session states.
    pub fn update_gauges(&self, now: Instant) {
        self.metrics.socketio.update_gauges(self.sessions.values().filter_map(|session| {
            let (state, cause) = match session.state(now, &self.timers) {
                SessionState::Polling => ("polling", None),
                SessionState::Stuck(cause) => ("stuck", Some(cause.word())),
                SessionState::Upgraded => ("upgraded", None),
                SessionState::Direct => ("direct", None),
                SessionState::Ended(_) => return None,
            };
            Some(SessionGauges { of: &session.place.metrics, state, cause })
        }));
    }

    /// Number of sessions in each state.
    #[must_use]
    pub fn counts(&self, now: Instant) -> SessionCounts {
        let mut counts = SessionCounts::default();
        for session in self.sessions.values() {
            *match session.state(now, &self.timers) {
                SessionState::Polling => &mut counts.polling,
                SessionState::Stuck(_) => &mut counts.stuck,
                SessionState::Upgraded => &mut counts.upgraded,
                SessionState::Direct => &mut counts.direct,
                SessionState::Ended(_) => &mut counts.ended,
            } += 1;
        }
        counts
    }

    /// Warnings about timeouts of the gateway that are too short.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.iter().map(|(_, sentence)| sentence.clone()).collect()
    }

    /// Report about all sessions.
    #[must_use]
    pub fn report(&self, now: Instant) -> SessionReport {
        let mut by_cause: HashMap<Cause, (usize, usize)> = HashMap::new();
        let (mut stuck, mut ended) = (Vec::new(), Vec::new());
        for (key, session) in &self.sessions {
            match session.state(now, &self.timers) {
                SessionState::Stuck(cause) => {
                    by_cause.entry(cause).or_default().0 += 1;
                    stuck.push((session.since(), *key, session));
                }
                SessionState::Ended(end) if let Some(cause) = end.cause => {
                    by_cause.entry(cause).or_default().1 += 1;
                    ended.push((std::cmp::Reverse(end.at), *key, session));
                }
                _ => {}
            }
        }
        stuck.sort_unstable_by_key(|(since, key, _)| (*since, *key));
        ended.sort_unstable_by_key(|(at, key, _)| (*at, *key));
        let mut causes: Vec<_> = by_cause.into_iter().collect();
        causes.sort_unstable_by_key(|(cause, (stuck, ended))| {
            (std::cmp::Reverse(stuck + ended), *cause)
        });
        let [dropped_sessions, dropped_events] = self.metrics.socketio.dropped();
        SessionReport {
            counts: self.counts(now),
            causes: causes
                .into_iter()
                .map(|(cause, (stuck, ended))| cause_report(cause, stuck, ended))
                .collect(),
            stuck: stuck
                .iter()
                .take(MAX_STUCK_ROWS)
                .map(|(_, key, one)| self.row(*key, one, now))
                .collect(),
            ended: ended
                .iter()
                .take(MAX_ENDED_ROWS)
                .map(|(_, key, one)| self.row(*key, one, now))
                .collect(),
            timers: self.timers.found().into_iter().map(timer_report).collect(),
            warnings: self.warnings(),
            dropped_sessions,
            dropped_events,
        }
    }

    /// Timeline of one session.
    #[must_use]
    pub fn timeline(&self, key: SessionKey, now: Instant) -> Option<Timeline> {
        let session = self.sessions.get(&key)?;
        let cause = self.cause(session, now);
        let opened = session.opened.map(|(_, opened)| opened);
        let heartbeat = opened.and_then(|opened| opened.heartbeat);
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Some(Timeline {
            session: self.row(key, session, now),
            meaning: cause.map(|cause| cause.sentence().to_owned()),
            next: cause.map(|cause| cause.next().to_owned()),
            engine: opened.map(|opened| opened.engine),
            ping_interval_ms: heartbeat.map(|heartbeat| milliseconds(heartbeat.interval)),
            ping_timeout_ms: heartbeat.map(|heartbeat| milliseconds(heartbeat.timeout)),
            moments: session
                .timeline
                .iter()
                .map(|event| timeline_entry(event, session, now))
                .collect(),
        })
    }

    fn cause(&self, session: &TrackedSession, now: Instant) -> Option<Cause> {
        match session.state(now, &self.timers) {
            SessionState::Stuck(cause) => Some(cause),
            SessionState::Ended(end) => end.cause,
            SessionState::Polling | SessionState::Upgraded | SessionState::Direct => None,
        }
    }

    fn row(&self, key: SessionKey, session: &TrackedSession, now: Instant) -> SessionRow {
        let (state, until) = match session.state(now, &self.timers) {
            SessionState::Polling => ("polling", now),
            SessionState::Stuck(_) => ("stuck", now),
            SessionState::Upgraded => ("upgraded", now),
            SessionState::Direct => ("direct", now),
            SessionState::Ended(end) => (end.how.word(), end.at),
        };
        let cause = self.cause(session, now);
        // Requests to show: the first, the last attempt to use a WebSocket, and the latest.
        let (first, last) = (session.timeline.first(), session.timeline.last());
        let tried = session.timeline.iter().rev().find(|event| {
            matches!(
                event.what,
                EventKind::Tried(_) | EventKind::Switched { .. } | EventKind::Cut(_)
            )
        });
        let mut requests: Vec<String> = Vec::new();
        for event in [first, tried, last].into_iter().flatten() {
            if !requests.iter().any(|request| **request == *event.request) {
                requests.push(event.request.to_string());
            }
        }
        let place = &session.place;
        SessionRow {
            session: key.to_string(),
            client: session.client.to_string(),
            profile: place.profile.to_string(),
            route: place.route.to_string(),
            upstream: place.upstream.to_string(),
            endpoint: session.first_endpoint().map(ToString::to_string),
            protocol: session.version.as_str().to_owned(),
            state: state.to_owned(),
            since: time(session.since(), now),
            seconds: until.saturating_duration_since(session.since()).as_secs(),
            polls: session.polls,
            posts: session.posts,
            evidence: cause.map(|cause| session.evidence(cause, until)),
            cause: cause.map(|cause| cause.word().to_owned()),
            requests,
        }
    }
}

fn cause_report(cause: Cause, stuck: usize, ended: usize) -> CauseReport {
    CauseReport {
        cause: cause.word().to_owned(),
        stuck,
        ended,
        meaning: cause.sentence().to_owned(),
        next: cause.next().to_owned(),
    }
}

fn timer_report(
    (profile, upstream, side, waited): (&str, &str, TimerSide, Duration),
) -> IdleTimerReport {
    IdleTimerReport {
        profile: profile.to_owned(),
        upstream: upstream.to_owned(),
        place: side.words().to_owned(),
        seconds: (waited.as_secs_f64() * 10.0).round() / 10.0,
    }
}

/// A time in the past in RFC 3339 format, with milliseconds.
fn time(at: Instant, now: Instant) -> String {
    let ago = SignedDuration::try_from(now.saturating_duration_since(at)).unwrap_or_default();
    let then = Timestamp::now().checked_sub(ago).unwrap_or_default();
    format!("{then:.3}")
}

fn timeline_entry(event: &SessionEvent, session: &TrackedSession, now: Instant) -> TimelineEntry {
    TimelineEntry {
        time: time(event.at, now),
        what: describe(event, session),
        request: event.request.to_string(),
        client: event.client.to_string(),
        endpoint: event.endpoint.as_ref().map(ToString::to_string),
    }
}

/// Description of an event.
fn describe(event: &SessionEvent, session: &TrackedSession) -> String {
    match event.what {
        EventKind::Opened(opened) => {
            let heartbeat = opened.heartbeat.map_or("not readable".to_owned(), |heartbeat| {
                format!("{:?} + {:?}", heartbeat.interval, heartbeat.timeout)
            });
            let offers = match opened.offers {
                Some(true) => "offers a WebSocket",
                Some(false) => "offers no WebSocket",
                None => "does not say whether it offers a WebSocket",
            };
            format!("opened by polling (EIO={}); {offers}; heartbeat {heartbeat}", opened.engine)
        }
        EventKind::Polled(polled) => {
            let what = if polled.post { "a post" } else { "a poll" };
            let answer = answer(polled.status, polled.reason.map(Reason::word), polled.code);
            let bye = if polled.goodbye { "; one side sent a close packet" } else { "" };
            let count = if polled.post { session.posts } else { session.polls };
            format!(
                "{what} ended after {:.1} s, {answer}{bye} (of {count})",
                polled.waited.as_secs_f64()
            )
        }
        EventKind::Tried(tried) => {
            format!("requested a WebSocket without success: {}", describe_failure(&tried))
        }
        EventKind::Switched { direct: true } => "opened by WebSocket".to_owned(),
        EventKind::Switched { direct: false } => "requested a WebSocket: 101".to_owned(),
        EventKind::Upgraded => "on the WebSocket: probe and upgrade completed".to_owned(),
        EventKind::Cut(cut) => {
            let close = if cut.close_sent { "after a Close" } else { "without a Close" };
            format!(
                "the WebSocket ended ({}), {close}, silent for {:.1} s",
                cut.how.word(),
                cut.silent.as_secs_f64()
            )
        }
    }
}

fn answer(status: u16, reason: Option<impl Display>, code: Option<u8>) -> String {
    let code = code.map_or(String::new(), |code| format!(", Engine.IO code {code}"));
    match reason {
        Some(reason) => format!("{status} {reason}{code}"),
        None => format!("{status}{code}"),
    }
}

#[cfg(test)]
mod tests;
