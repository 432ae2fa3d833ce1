//! What is told of sessions, as the admin listener sends it and `why-polling` and the status page
//! show it. No id of a session is in here, only its short form.

use serde::{Deserialize, Serialize};

/// All sessions at one moment.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct SessionReport {
    /// How many are followed, by state.
    pub counts: SessionCounts,
    /// The causes that there are, most frequent first.
    pub causes: Vec<CauseReport>,
    /// Those that are stuck on polling, oldest first; at most 100.
    pub stuck: Vec<SessionRow>,
    /// Those that ended lately and had a cause, latest first; at most 50.
    pub ended: Vec<SessionRow>,
    /// Idle timers on the way that were found by what they cut.
    pub timers: Vec<IdleTimerReport>,
    /// Timers of the gateway that a heartbeat does not fit into.
    pub warnings: Vec<String>,
    /// Sessions that found no room.
    pub skipped_sessions: u64,
    /// What was noticed and found no room.
    pub skipped_events: u64,
}

/// How many sessions are in which state.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SessionCounts {
    /// On polling, too young to say.
    pub polling: usize,
    /// On polling, and they stay there.
    pub stuck: usize,
    /// On a WebSocket, after polling.
    pub upgraded: usize,
    /// On a WebSocket from the start.
    pub direct: usize,
    /// Over, of late.
    pub ended: usize,
}

impl SessionCounts {
    /// Those that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.polling + self.stuck + self.upgraded + self.direct
    }
}

/// One cause.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CauseReport {
    /// The word for it.
    pub cause: String,
    /// Sessions stuck because of it.
    pub stuck: usize,
    /// Sessions that ended of late without a WebSocket because of it.
    pub ended: usize,
    /// What it means.
    pub meaning: String,
    /// What to do.
    pub next: String,
}

/// One session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SessionRow {
    /// The short form of its id: the first 16 digits of its SHA-256.
    pub session: String,
    /// The TCP peer.
    pub client: String,
    /// Name of the profile.
    pub profile: String,
    /// Name of the route.
    pub route: String,
    /// Name of the upstream.
    pub upstream: String,
    /// Host and port of the endpoint it was opened on.
    pub endpoint: Option<String>,
    /// Of the latest request, on the client's side.
    pub protocol: String,
    /// `polling`, `stuck`, `upgraded`, `direct`, `closed`, `lost` or `idle_timer`.
    pub state: String,
    /// Since when it is known, as RFC 3339 writes it.
    pub since: String,
    /// For how long it has been, or was, there.
    pub seconds: u64,
    /// Polls that are over.
    pub polls: u32,
    /// Messages that were posted.
    pub posts: u32,
    /// Why it has no WebSocket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What supports that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Ids of the requests to look for in the access log, in their order.
    pub requests: Vec<String>,
}

/// An idle timer that was found.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct IdleTimerReport {
    /// Name of the profile.
    pub profile: String,
    /// Name of the upstream.
    pub upstream: String,
    /// Where it is.
    pub place: String,
    /// What it is set to, about.
    pub seconds: f64,
}

/// One session and what happened to it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Timeline {
    /// The session.
    pub session: SessionRow,
    /// What the cause means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Version of Engine.IO.
    pub engine: Option<u8>,
    /// `pingInterval`, in milliseconds; `None`: not known.
    pub ping_interval_ms: Option<u64>,
    /// `pingTimeout`, in milliseconds; `None`: not known.
    pub ping_timeout_ms: Option<u64>,
    /// What happened, in its order.
    pub moments: Vec<TimelineEntry>,
}

/// One thing that happened.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TimelineEntry {
    /// When, as RFC 3339 writes it.
    pub time: String,
    /// What, in words.
    pub what: String,
    /// Id of the request.
    pub request: String,
    /// The TCP peer.
    pub client: String,
    /// Who was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}
