//! One session, put together from what the workers have noticed, and judged.
//!
//! Workers tell what they notice at different moments, so facts come in any order; what they come to
//! is the same in all of them.

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

/// A client that wants a WebSocket asks for it as soon as its session is open.
pub(super) const UPGRADE_GRACE: Duration = Duration::from_secs(5);

/// How long a session whose heartbeat is not known may be silent: the defaults of Engine.IO, with
/// time to spare.
const DEFAULT_SILENCE: Duration = Duration::from_secs(60);

/// Beyond the heartbeat, for what is on its way.
const HEARTBEAT_SLACK: Duration = Duration::from_secs(5);

/// Requests of one session are side by side: what ends after the one that ended it.
const OVERLAP_GRACE: Duration = Duration::from_secs(2);

/// Most moments remembered of a session.
pub(super) const MAX_TIMELINE: usize = 16;

/// See the module.
pub(super) struct TrackedSession {
    pub(super) place: Arc<SocketIoLabels>,
    pub(super) client: SocketAddr,
    pub(super) version: Version,
    first: Instant,
    /// The last time that it showed life.
    last: Instant,
    pub(super) opened: Option<(Instant, SessionOpened)>,
    /// By WebSocket, from the start.
    direct: bool,
    pub(super) polls: u32,
    pub(super) posts: u32,
    /// The endpoint that was asked first, and when.
    home: Option<(Instant, Arc<str>)>,
    /// Another one that was asked.
    away: Option<Arc<str>>,
    tried: Option<(Instant, UpgradeFailed)>,
    switched: Option<Instant>,
    upgraded: Option<Instant>,
    cut: Option<(Instant, SocketEnded)>,
    /// A request that ended the session: the last one.
    fatal: Option<(Instant, PollEnded)>,
    goodbye: Option<Instant>,
    pub(super) story: Vec<SessionEvent>,
    /// Its end has been counted.
    pub(super) counted: bool,
}

/// How a session is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SessionState {
    /// On polling, too young to say.
    Polling,
    /// On polling, and it stays there.
    Stuck(Cause),
    /// On a WebSocket, after polling.
    Upgraded,
    /// On a WebSocket from the start.
    Direct,
    /// Over.
    Ended(SessionEnd),
}

/// How a session ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SessionEnd {
    pub(super) at: Instant,
    pub(super) on_websocket: bool,
    pub(super) how: EndKind,
    /// Why it never had a WebSocket, if it should have had one.
    pub(super) cause: Option<Cause>,
}

/// Whether it was meant.
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
    /// Of which this is known first.
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
            home: None,
            away: None,
            tried: None,
            switched: None,
            upgraded: None,
            cut: None,
            fatal: None,
            goodbye: None,
            story: Vec::new(),
            counted: false,
        }
    }

    /// Takes note.
    pub(super) fn learn(&mut self, event: SessionEvent) {
        let at = event.at;
        self.first = self.first.min(at);
        if let Some(endpoint) = &event.endpoint {
            self.asked(at, endpoint);
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
        self.remember(event);
    }

    fn asked(&mut self, at: Instant, endpoint: &Arc<str>) {
        match &mut self.home {
            None => self.home = Some((at, Arc::clone(endpoint))),
            Some((_, home)) if home == endpoint => {}
            Some((since, home)) if at < *since => {
                self.away = Some(std::mem::replace(home, Arc::clone(endpoint)));
                *since = at;
            }
            Some(_) => self.away = Some(Arc::clone(endpoint)),
        }
        if let Some((since, _)) = &mut self.home {
            *since = (*since).min(at);
        }
    }

    /// Keeps what is worth telling: all but polls that went well, of which the last one.
    fn remember(&mut self, event: SessionEvent) {
        let is_plain =
            |what: &EventKind| matches!(what, EventKind::Polled(p) if !is_fatal(p) && !p.goodbye);
        let at = self.story.partition_point(|one| one.at <= event.at);
        let plain = is_plain(&event.what);
        self.story.insert(at, event);
        if plain {
            let mut plain = self.story.iter().rposition(|one| is_plain(&one.what));
            if let Some(last) = plain.take() {
                let mut index = 0;
                self.story.retain(|one| {
                    index += 1;
                    index - 1 == last || !is_plain(&one.what)
                });
            }
        }
        if self.story.len() > MAX_TIMELINE {
            // How it began is worth more than what came in between.
            self.story.remove(MAX_TIMELINE / 2);
        }
    }

    /// How it is. `timers` are those that are known of.
    pub(super) fn judge(&self, now: Instant, timers: &IdleTimers) -> SessionState {
        if let Some(at) = self.on_websocket() {
            let ended = self.cut.filter(|(cut, _)| *cut >= at);
            return match ended {
                None if self.direct => SessionState::Direct,
                None => SessionState::Upgraded,
                Some((at, cut)) => SessionState::Ended(SessionEnd {
                    at,
                    on_websocket: true,
                    how: self.how_cut(&cut, timers),
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

    /// Since when it is on a WebSocket.
    fn on_websocket(&self) -> Option<Instant> {
        if self.direct { self.switched } else { self.upgraded }
    }

    fn how_cut(&self, cut: &SocketEnded, timers: &IdleTimers) -> EndKind {
        match self.cut_side(cut) {
            Some(side) if self.explained(side, cut.silent, timers) => EndKind::IdleTimer,
            _ if cut.close_sent => EndKind::Closed,
            _ => EndKind::Lost,
        }
    }

    /// When its polling ended, and how.
    fn ended(&self, now: Instant, timers: &IdleTimers) -> Option<(Instant, EndKind)> {
        if self.direct {
            // What was to be a WebSocket from the start, and is none, is nothing.
            return self.tried.map(|(at, _)| (at, EndKind::Lost));
        }
        if let Some(at) = self.goodbye {
            return Some((at, EndKind::Closed));
        }
        if let Some((at, fatal)) = self.fatal() {
            let side = poll_side(&fatal);
            let timer = side.is_some_and(|side| self.explained(side, fatal.waited, timers));
            return Some((at, if timer { EndKind::IdleTimer } else { EndKind::Lost }));
        }
        let patience = self.opened.and_then(|(_, opened)| opened.heartbeat);
        let patience =
            patience.map_or(DEFAULT_SILENCE, |heartbeat| heartbeat.need() + HEARTBEAT_SLACK);
        let silent = now.saturating_duration_since(self.last);
        (silent > patience).then_some((self.last, EndKind::Lost))
    }

    /// Why it is not on a WebSocket at this moment; `None`: it may still be on its way to one.
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

    /// The request that ended it, if nothing came after it but what was on its way already.
    fn fatal(&self) -> Option<(Instant, PollEnded)> {
        self.fatal.filter(|(at, _)| *at + OVERLAP_GRACE >= self.last)
    }

    fn fatal_cause(&self, fatal: &PollEnded, timers: &IdleTimers) -> Option<Cause> {
        if fatal.reason == Some(Reason::SessionLost) {
            return Some(Cause::EndpointChanged);
        }
        if fatal.code == Some(1) {
            return Some(self.unknown_there());
        }
        let side = poll_side(fatal)?;
        self.explained(side, fatal.waited, timers).then_some(Cause::IdleTimer)
    }

    /// Of a server that did not know the session.
    fn unknown_there(&self) -> Cause {
        if self.away.is_some() { Cause::EndpointChanged } else { Cause::SessionUnknown }
    }

    /// Of a WebSocket that came about, and when that was.
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
                Some(1) => self.unknown_there(),
                Some(3) => Cause::BadRequest,
                _ => Cause::UpstreamRefused,
            },
        }
    }

    /// What the end of a WebSocket says about idle timers.
    pub(super) fn cut_side(&self, cut: &SocketEnded) -> Option<TimerSide> {
        match cut.how {
            WebSocketClose::Idle => Some(TimerSide::Ours),
            _ if cut.close_sent || !self.is_within(cut.silent) => None,
            WebSocketClose::ByClient | WebSocketClose::ClientBroke => Some(TimerSide::Front),
            WebSocketClose::ByUpstream | WebSocketClose::UpstreamBroke => Some(TimerSide::Behind),
            WebSocketClose::Draining | WebSocketClose::Policy | WebSocketClose::Unknown => None,
        }
    }

    /// Whether a wait was shorter than the heartbeat's: then nothing of the heartbeat was missing.
    pub(super) fn is_within(&self, waited: Duration) -> bool {
        let heartbeat = self.opened.and_then(|(_, opened)| opened.heartbeat);
        heartbeat.is_none_or(|heartbeat| waited < heartbeat.interval)
    }

    fn explained(&self, side: TimerSide, waited: Duration, timers: &IdleTimers) -> bool {
        let within = side == TimerSide::Ours || self.is_within(waited);
        within && timers.explains(&self.place.profile, &self.place.upstream, side, waited)
    }

    /// Since when it is known.
    pub(super) fn since(&self) -> Instant {
        self.first
    }

    /// The endpoint it was opened on.
    pub(super) fn home(&self) -> Option<&Arc<str>> {
        self.home.as_ref().map(|(_, home)| home)
    }

    /// What supports the cause, in a sentence.
    pub(super) fn evidence(&self, cause: Cause, now: Instant) -> String {
        let age = now.saturating_duration_since(self.first).as_secs();
        match cause {
            Cause::NeverTried => {
                format!("no request for a WebSocket in {age} s; {} polls", self.polls)
            }
            Cause::NotOffered => "the open packet's `upgrades` has no `websocket`".to_owned(),
            Cause::Unknown => format!("known for {age} s, without its open packet"),
            Cause::NoFrames => match self.cut {
                Some((_, cut)) => no_frames(cut.messages),
                None => "answered with 101, and still not agreed on".to_owned(),
            },
            Cause::EndpointChanged | Cause::SessionUnknown => self.where_it_went(),
            Cause::IdleTimer => self.fatal.map_or(String::new(), |(_, fatal)| {
                let side = poll_side(&fatal).unwrap_or(TimerSide::Front).words();
                format!("a poll was cut after {:.1} s, {side}", fatal.waited.as_secs_f64())
            }),
            Cause::UpgradeStripped
            | Cause::Http2
            | Cause::GatewayRefused
            | Cause::BadRequest
            | Cause::UpstreamRefused => {
                self.tried.map_or(String::new(), |(_, tried)| tried_words(&tried))
            }
        }
    }

    fn where_it_went(&self) -> String {
        let home = self.home().map_or("an endpoint that is not known", |home| home);
        match &self.away {
            Some(away) => format!("opened on {home}, then asked for at {away}"),
            None if self.fatal.is_some_and(|(_, p)| p.reason == Some(Reason::SessionLost)) => {
                format!("opened on {home}, which is gone")
            }
            None => format!("{home} does not know it any more"),
        }
    }
}

fn set_latest<T>(slot: &mut Option<(Instant, T)>, at: Instant, value: T) {
    if slot.as_ref().is_none_or(|(before, _)| *before <= at) {
        *slot = Some((at, value));
    }
}

/// Whether a poll that ended like this has ended the session: Engine.IO forgives none.
fn is_fatal(polled: &PollEnded) -> bool {
    polled.reason.is_some() || !(200..300).contains(&polled.status)
}

/// What the end of a poll says about idle timers: who cut it.
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

fn no_frames([client, upstream]: [u8; 2]) -> String {
    match (client, upstream) {
        (0, 0) => "101, and then no message from either side: the client's probe did not get here",
        (0, _) => "101, and then messages of the chat server only: the client's probe did not get here",
        (_, 0) => "the client's probe went to the chat server, and nothing came back",
        (1, _) => "the probe was answered, and the client did not go on: the answer did not get to it, or its last poll is held up on the way",
        _ => "both sides sent messages, and the WebSocket was not agreed on",
    }
    .to_owned()
}

/// A WebSocket that was asked for in vain, in words.
pub(super) fn tried_words(tried: &UpgradeFailed) -> String {
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
                (true, true) => "a version that has upgrades",
            };
            let key = if stripped.key {
                "; Sec-WebSocket-Key is there, so the client had asked properly"
            } else {
                ""
            };
            format!("GET transport=websocket as {version} without {lacks}{key}; answered {answer}")
        }
    }
}
