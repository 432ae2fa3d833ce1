//! State of one session, computed from the events of the workers.
//!
//! Workers hand over their events at different times, so events arrive in any order. The resulting
//! state does not depend on the order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::message::{Reason, Version};
use crate::telemetry::socketio::SocketIoLabels;
use crate::telemetry::websockets::WebSocketClose;

use super::cause::{Cause, TimerSide};
use super::event::{
    EventKind, PollEnded, SessionEvent, SessionOpened, SocketEnded, UpgradeFailed, UpgradePath,
};
use super::idle_timers::IdleTimers;

/// Time within which a client requests a WebSocket after it opened a session, if it wants one.
pub(super) const UPGRADE_GRACE: Duration = Duration::from_secs(5);

/// Longest silence of a session with an unknown heartbeat: the defaults of Engine.IO, with a
/// margin.
const DEFAULT_SILENCE: Duration = Duration::from_secs(60);

/// Margin added to the heartbeat for requests in transit.
const HEARTBEAT_SLACK: Duration = Duration::from_secs(5);

/// Requests of one session overlap, so others may end this long after the one that ended the
/// session.
const OVERLAP_GRACE: Duration = Duration::from_secs(2);

/// Limit on the events kept for the timeline.
pub(super) const MAX_TIMELINE: usize = 16;

/// Facts about one session.
pub(super) struct TrackedSession {
    pub(super) place: Arc<SocketIoLabels>,
    pub(super) client: SocketAddr,
    pub(super) version: Version,
    first: Instant,
    /// Time of the last event that shows the session alive.
    last: Instant,
    pub(super) opened: Option<(Instant, SessionOpened)>,
    /// Whether the session was opened by a WebSocket.
    direct: bool,
    pub(super) polls: u32,
    pub(super) posts: u32,
    /// Endpoint of the first request, and the time of that request.
    first_endpoint: Option<(Instant, Arc<str>)>,
    /// Another endpoint that got a request of the session.
    other_endpoint: Option<Arc<str>>,
    tried: Option<(Instant, UpgradeFailed)>,
    switched: Option<Instant>,
    upgraded: Option<Instant>,
    cut: Option<(Instant, SocketEnded)>,
    /// The last request that ended the session with an error.
    fatal: Option<(Instant, PollEnded)>,
    goodbye: Option<Instant>,
    pub(super) timeline: Vec<SessionEvent>,
    /// Whether its end has been counted in the metrics.
    pub(super) counted: bool,
}

/// State of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SessionState {
    /// On polling, too new to be judged.
    Polling,
    /// On polling, without a prospect of a WebSocket.
    Stuck(Cause),
    /// On a WebSocket, after polling.
    Upgraded,
    /// On a WebSocket from the start.
    Direct,
    /// Ended.
    Ended(SessionEnd),
}

/// End of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SessionEnd {
    pub(super) at: Instant,
    pub(super) on_websocket: bool,
    pub(super) how: EndKind,
    /// Cause for which it never had a WebSocket; `None` if it had one or did not live long enough.
    pub(super) cause: Option<Cause>,
}

/// Kind of end: intended, unexpected, or by an idle timer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum EndKind {
    Closed,
    Lost,
    IdleTimer,
}

impl EndKind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Lost => "lost",
            Self::IdleTimer => "idle_timer",
        }
    }
}

impl TrackedSession {
    /// A session of which `event` is the first known event. The event itself is not added.
    pub(super) fn new(event: &SessionEvent) -> Self {
        Self {
            place: Arc::clone(&event.place),
            client: event.client,
            version: event.version,
            first: event.at,
            last: event.at,
            opened: None,
            direct: false,
            polls: 0,
            posts: 0,
            first_endpoint: None,
            other_endpoint: None,
            tried: None,
            switched: None,
            upgraded: None,
            cut: None,
            fatal: None,
            goodbye: None,
            timeline: Vec::new(),
            counted: false,
        }
    }

    /// Adds an event.
    pub(super) fn apply(&mut self, event: SessionEvent) {
        let at = event.at;
        self.first = self.first.min(at);
        if let Some(endpoint) = &event.endpoint {
            self.record_endpoint(at, endpoint);
        }
        let mut lives = true;
        match event.what {
            EventKind::Opened(opened) => self.opened = Some((at, opened)),
            EventKind::Polled(polled) => {
                let count = if polled.post { &mut self.posts } else { &mut self.polls };
                *count = count.saturating_add(1);
                if polled.goodbye {
                    self.goodbye = self.goodbye.max(Some(at));
                    lives = false;
                } else if is_fatal(&polled) {
                    set_latest(&mut self.fatal, at, polled);
                    lives = false;
                }
            }
            EventKind::Tried(tried) => {
                self.direct |= tried.direct;
                set_latest(&mut self.tried, at, tried);
            }
            EventKind::Switched { direct } => {
                self.direct |= direct;
                self.switched = self.switched.max(Some(at));
            }
            EventKind::Upgraded => self.upgraded = self.upgraded.max(Some(at)),
            EventKind::Cut(cut) => {
                self.direct |= cut.direct;
                set_latest(&mut self.cut, at, cut);
                lives = false;
            }
        }
        if lives {
            self.last = self.last.max(at);
            self.client = event.client;
        }
        self.add_to_timeline(event);
    }

    fn record_endpoint(&mut self, at: Instant, endpoint: &Arc<str>) {
        match &mut self.first_endpoint {
            None => self.first_endpoint = Some((at, Arc::clone(endpoint))),
            Some((_, first_endpoint)) if first_endpoint == endpoint => {}
            Some((since, first_endpoint)) if at < *since => {
                self.other_endpoint = Some(std::mem::replace(first_endpoint, Arc::clone(endpoint)));
                *since = at;
            }
            Some(_) => self.other_endpoint = Some(Arc::clone(endpoint)),
        }
        if let Some((since, _)) = &mut self.first_endpoint {
            *since = (*since).min(at);
        }
    }

    /// Adds an event to the timeline. Of the successful polls, only the last is kept.
    fn add_to_timeline(&mut self, event: SessionEvent) {
        let is_plain =
            |what: &EventKind| matches!(what, EventKind::Polled(p) if !is_fatal(p) && !p.goodbye);
        let at = self.timeline.partition_point(|one| one.at <= event.at);
        let plain = is_plain(&event.what);
        self.timeline.insert(at, event);
        if plain {
            let mut plain = self.timeline.iter().rposition(|one| is_plain(&one.what));
            if let Some(last) = plain.take() {
                let mut index = 0;
                self.timeline.retain(|one| {
                    index += 1;
                    index - 1 == last || !is_plain(&one.what)
                });
            }
        }
        if self.timeline.len() > MAX_TIMELINE {
            // The beginning is kept, because it explains more than the middle.
            self.timeline.remove(MAX_TIMELINE / 2);
        }
    }

    /// Current state of the session, given the idle timers that were detected.
    pub(super) fn state(&self, now: Instant, timers: &IdleTimers) -> SessionState {
        if let Some(at) = self.on_websocket() {
            let ended = self.cut.filter(|(cut, _)| *cut >= at);
            return match ended {
                None if self.direct => SessionState::Direct,
                None => SessionState::Upgraded,
                Some((at, cut)) => SessionState::Ended(SessionEnd {
                    at,
                    on_websocket: true,
                    how: self.socket_end_kind(&cut, timers),
                    cause: None,
                }),
            };
        }
        match self.ended(now, timers) {
            Some((at, how)) => SessionState::Ended(SessionEnd {
                at,
                on_websocket: false,
                how,
                cause: self.cause(at, timers).filter(|cause| *cause != Cause::Unknown),
            }),
            None => self.cause(now, timers).map_or(SessionState::Polling, SessionState::Stuck),
        }
    }

    /// Time at which the session changed to a WebSocket, or was opened on one.
    fn on_websocket(&self) -> Option<Instant> {
        if self.direct { self.switched } else { self.upgraded }
    }

    fn socket_end_kind(&self, cut: &SocketEnded, timers: &IdleTimers) -> EndKind {
        match self.cut_side(cut) {
            Some(side) if self.is_idle_timer(side, cut.silent, timers) => EndKind::IdleTimer,
            _ if cut.close_sent => EndKind::Closed,
            _ => EndKind::Lost,
        }
    }

    /// Time and kind of the end of polling; `None` while it continues.
    fn ended(&self, now: Instant, timers: &IdleTimers) -> Option<(Instant, EndKind)> {
        if self.direct {
            // A failed WebSocket that would have opened the session leaves nothing to continue.
            return self.tried.map(|(at, _)| (at, EndKind::Lost));
        }
        if let Some(at) = self.goodbye {
            return Some((at, EndKind::Closed));
        }
        if let Some((at, fatal)) = self.fatal() {
            let side = poll_side(&fatal);
            let timer = side.is_some_and(|side| self.is_idle_timer(side, fatal.waited, timers));
            return Some((at, if timer { EndKind::IdleTimer } else { EndKind::Lost }));
        }
        let longest_silence = self.opened.and_then(|(_, opened)| opened.heartbeat);
        let longest_silence =
            longest_silence.map_or(DEFAULT_SILENCE, |heartbeat| heartbeat.need() + HEARTBEAT_SLACK);
        let silent = now.saturating_duration_since(self.last);
        (silent > longest_silence).then_some((self.last, EndKind::Lost))
    }

    /// Cause for which the session is not on a WebSocket at `now`; `None` while it may still change
    /// to one.
    fn cause(&self, now: Instant, timers: &IdleTimers) -> Option<Cause> {
        if let Some((_, fatal)) = self.fatal()
            && let Some(cause) = self.fatal_cause(&fatal, timers)
        {
            return Some(cause);
        }
        if let Some((at, cause)) = self.switch_cause(now)
            && self.tried.is_none_or(|(tried, _)| tried <= at)
        {
            return cause;
        }
        if let Some((_, tried)) = self.tried {
            return Some(self.tried_cause(&tried));
        }
        let age = now.saturating_duration_since(self.first);
        match self.opened {
            Some((_, opened)) if opened.offers == Some(false) => Some(Cause::NotOffered),
            _ if age < UPGRADE_GRACE => None,
            Some(_) => Some(Cause::NeverTried),
            None => Some(Cause::Unknown),
        }
    }

    /// The request that ended the session with an error, unless later requests show the session
    /// alive. Requests that were already in progress do not count.
    fn fatal(&self) -> Option<(Instant, PollEnded)> {
        self.fatal.filter(|(at, _)| *at + OVERLAP_GRACE >= self.last)
    }

    fn fatal_cause(&self, fatal: &PollEnded, timers: &IdleTimers) -> Option<Cause> {
        if fatal.reason == Some(Reason::SessionLost) {
            return Some(Cause::EndpointChanged);
        }
        if fatal.code == Some(1) {
            return Some(self.unknown_session_cause());
        }
        let side = poll_side(fatal)?;
        self.is_idle_timer(side, fatal.waited, timers).then_some(Cause::IdleTimer)
    }

    /// Cause for a response that the session is unknown.
    fn unknown_session_cause(&self) -> Cause {
        if self.other_endpoint.is_some() { Cause::EndpointChanged } else { Cause::SessionUnknown }
    }

    /// Time of the last 101 response, with its cause: `None` while the WebSocket is open and
    /// recent.
    fn switch_cause(&self, now: Instant) -> Option<(Instant, Option<Cause>)> {
        let at = self.switched?;
        let open = self.cut.is_none_or(|(cut, _)| cut < at);
        let young = now.saturating_duration_since(at) < UPGRADE_GRACE;
        Some((at, (!open || !young).then_some(Cause::NoFrames)))
    }

    fn tried_cause(&self, tried: &UpgradeFailed) -> Cause {
        match (tried.way, tried.reason) {
            (UpgradePath::Stripped(_), _) => Cause::UpgradeStripped,
            (UpgradePath::Http2, _) => Cause::Http2,
            (_, Some(Reason::SessionLost)) => Cause::EndpointChanged,
            (_, Some(_)) => Cause::GatewayRefused,
            (..) => match tried.code {
                Some(1) => self.unknown_session_cause(),
                Some(3) => Cause::BadRequest,
                _ => Cause::UpstreamRefused,
            },
        }
    }

    /// Side of the idle timer that may have cut a WebSocket; `None` if it ended for another reason.
    pub(super) fn cut_side(&self, cut: &SocketEnded) -> Option<TimerSide> {
        match cut.how {
            WebSocketClose::Idle => Some(TimerSide::Ours),
            _ if cut.close_sent || !self.is_within(cut.silent) => None,
            WebSocketClose::ByClient | WebSocketClose::ClientBroke => Some(TimerSide::Front),
            WebSocketClose::ByUpstream | WebSocketClose::UpstreamBroke => Some(TimerSide::Behind),
            WebSocketClose::Draining | WebSocketClose::Policy | WebSocketClose::Unknown => None,
        }
    }

    /// Whether a wait was shorter than the ping interval. A longer silence is a missed ping, not an
    /// idle timer.
    pub(super) fn is_within(&self, waited: Duration) -> bool {
        let heartbeat = self.opened.and_then(|(_, opened)| opened.heartbeat);
        heartbeat.is_none_or(|heartbeat| waited < heartbeat.interval)
    }

    fn is_idle_timer(&self, side: TimerSide, waited: Duration, timers: &IdleTimers) -> bool {
        let within = side == TimerSide::Ours || self.is_within(waited);
        within && timers.explains(&self.place.profile, &self.place.upstream, side, waited)
    }

    /// Time of the first event.
    pub(super) fn since(&self) -> Instant {
        self.first
    }

    /// The endpoint that the session was opened on.
    pub(super) fn first_endpoint(&self) -> Option<&Arc<str>> {
        self.first_endpoint.as_ref().map(|(_, first_endpoint)| first_endpoint)
    }

    /// Evidence for the cause, in one sentence.
    pub(super) fn evidence(&self, cause: Cause, now: Instant) -> String {
        let age = now.saturating_duration_since(self.first).as_secs();
        match cause {
            Cause::NeverTried => {
                format!("no request for a WebSocket in {age} s; {} polls", self.polls)
            }
            Cause::NotOffered => "the open packet's `upgrades` has no `websocket`".to_owned(),
            Cause::Unknown => format!("known for {age} s, without its open packet"),
            Cause::NoFrames => match self.cut {
                Some((_, cut)) => no_frames_evidence(cut.messages),
                None => "answered with 101, but the upgrade is not complete".to_owned(),
            },
            Cause::EndpointChanged | Cause::SessionUnknown => self.endpoint_evidence(),
            Cause::IdleTimer => self.fatal.map_or(String::new(), |(_, fatal)| {
                let side = poll_side(&fatal).unwrap_or(TimerSide::Front).words();
                format!("a poll was cut after {:.1} s, {side}", fatal.waited.as_secs_f64())
            }),
            Cause::UpgradeStripped
            | Cause::Http2
            | Cause::GatewayRefused
            | Cause::BadRequest
            | Cause::UpstreamRefused => {
                self.tried.map_or(String::new(), |(_, tried)| describe_failure(&tried))
            }
        }
    }

    fn endpoint_evidence(&self) -> String {
        let first_endpoint =
            self.first_endpoint().map_or("an unknown endpoint", |first_endpoint| first_endpoint);
        match &self.other_endpoint {
            Some(other_endpoint) => {
                format!("opened on {first_endpoint}, then requested from {other_endpoint}")
            }
            None if self.fatal.is_some_and(|(_, p)| p.reason == Some(Reason::SessionLost)) => {
                format!("opened on {first_endpoint}, which is no longer available")
            }
            None => format!("{first_endpoint} no longer knows the session"),
        }
    }
}

fn set_latest<T>(slot: &mut Option<(Instant, T)>, at: Instant, value: T) {
    if slot.as_ref().is_none_or(|(before, _)| *before <= at) {
        *slot = Some((at, value));
    }
}

/// Whether a poll ended the session. Engine.IO closes a session after any failed request.
fn is_fatal(polled: &PollEnded) -> bool {
    polled.reason.is_some() || !(200..300).contains(&polled.status)
}

/// Side of the idle timer that may have cut a poll; `None` if it ended for another reason.
pub(super) fn poll_side(polled: &PollEnded) -> Option<TimerSide> {
    if polled.post || polled.answered && polled.reason.is_some() {
        return None;
    }
    match (polled.reason, polled.status) {
        (Some(Reason::ClientGone), _) => Some(TimerSide::Front),
        (Some(Reason::UpstreamClosed), _) | (None, 502..=504) => Some(TimerSide::Behind),
        (Some(Reason::UpstreamFirstByteTimeout), _) => Some(TimerSide::Ours),
        _ => None,
    }
}

fn no_frames_evidence([client, upstream]: [u8; 2]) -> String {
    match (client, upstream) {
        (0, 0) => "101, then no message from either side: the client's probe did not reach the gateway",
        (0, _) => "101, then only messages of the chat server: the client's probe did not reach the gateway",
        (_, 0) => "the client's probe was sent to the chat server, but no answer came back",
        (1, _) => "the probe was answered, but the client did not continue: the answer did not reach it, or its last poll is delayed on the path",
        _ => "both sides sent messages, but the upgrade is not complete",
    }
    .to_owned()
}

/// Description of a failed request for a WebSocket.
pub(super) fn describe_failure(tried: &UpgradeFailed) -> String {
    let code = tried.code.map_or(String::new(), |code| format!(", Engine.IO code {code}"));
    let answer = match tried.reason {
        Some(reason) => format!("{} {}", tried.status, reason.word()),
        None => format!("{}{code}", tried.status),
    };
    match tried.way {
        UpgradePath::Upgrade => format!("answered {answer}"),
        UpgradePath::Http2 => {
            format!("GET transport=websocket over HTTP/2, without :protocol; answered {answer}")
        }
        UpgradePath::Stripped(stripped) => {
            let version = if stripped.http10 { "HTTP/1.0" } else { "HTTP/1.1" };
            let lacks = match (stripped.upgrade, stripped.connection) {
                (false, false) => "Upgrade and Connection: upgrade",
                (false, true) => "Upgrade",
                (true, false) => "Connection: upgrade",
                (true, true) => "a version with upgrades",
            };
            let key = if stripped.key {
                "; Sec-WebSocket-Key is present, so the client sent a valid upgrade"
            } else {
                ""
            };
            format!("GET transport=websocket as {version} without {lacks}{key}; answered {answer}")
        }
    }
}
