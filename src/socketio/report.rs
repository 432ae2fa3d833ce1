//! Reports about sessions, which the admin listener sends and `why-polling` and the status page
//! show. They contain the short form of session ids, never the ids.

use serde::{Deserialize, Serialize};

/// All sessions at one time.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct SessionReport {
    /// Number of tracked sessions, by state.
    pub counts: SessionCounts,
    /// Causes that occurred, most frequent first.
    pub causes: Vec<CauseReport>,
    /// Sessions stuck on polling, oldest first; at most 100.
    pub stuck: Vec<SessionRow>,
    /// Recently ended sessions that had a cause, latest first; at most 50.
    pub ended: Vec<SessionRow>,
    /// Idle timers on the path, detected by the connections that they cut.
    pub timers: Vec<IdleTimerReport>,
    /// Warnings about timeouts of the gateway that are shorter than a heartbeat needs.
    pub warnings: Vec<String>,
    /// Sessions dropped because the table was full.
    pub dropped_sessions: u64,
    /// Events dropped because a buffer or the table was full.
    pub dropped_events: u64,
}

/// Number of sessions in each state.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SessionCounts {
    /// On polling, too new to be judged.
    pub polling: usize,
    /// On polling, without a prospect of a WebSocket.
    pub stuck: usize,
    /// On a WebSocket, after polling.
    pub upgraded: usize,
    /// On a WebSocket from the start.
    pub direct: usize,
    /// Ended recently.
    pub ended: usize,
}

impl SessionCounts {
    /// Number of open sessions.
    #[must_use]
    pub fn open(&self) -> usize {
        self.polling + self.stuck + self.upgraded + self.direct
    }
}

/// Number of sessions with one cause.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CauseReport {
    /// The cause, as a stable word.
    pub cause: String,
    /// Open sessions with this cause.
    pub stuck: usize,
    /// Recently ended sessions with this cause.
    pub ended: usize,
    /// Explanation of the cause.
    pub meaning: String,
    /// Remedy.
    pub next: String,
}

/// One session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SessionRow {
    /// Short form of the session id: the first 16 digits of its SHA-256.
    pub session: String,
    /// TCP peer.
    pub client: String,
    /// Name of the profile.
    pub profile: String,
    /// Name of the route.
    pub route: String,
    /// Name of the upstream.
    pub upstream: String,
    /// Host and port of the endpoint it was opened on.
    pub endpoint: Option<String>,
    /// HTTP version of the latest request, on the client's side.
    pub protocol: String,
    /// `polling`, `stuck`, `upgraded`, `direct`, `closed`, `lost` or `idle_timer`.
    pub state: String,
    /// Time of its first event, in RFC 3339 format.
    pub since: String,
    /// Age of an open session, or duration of an ended one.
    pub seconds: u64,
    /// Number of completed polls.
    pub polls: u32,
    /// Number of completed posts.
    pub posts: u32,
    /// Cause for which it has no WebSocket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Evidence for the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Ids of important requests, as in the access log, in chronological order.
    pub requests: Vec<String>,
}

/// A detected idle timer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct IdleTimerReport {
    /// Name of the profile.
    pub profile: String,
    /// Name of the upstream.
    pub upstream: String,
    /// Location of the timer, in words.
    pub place: String,
    /// Approximate timeout.
    pub seconds: f64,
}

/// One session with its events.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Timeline {
    /// The session.
    pub session: SessionRow,
    /// Explanation of the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<String>,
    /// Remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Engine.IO version.
    pub engine: Option<u8>,
    /// `pingInterval`, in milliseconds; `None` if unknown.
    pub ping_interval_ms: Option<u64>,
    /// `pingTimeout`, in milliseconds; `None` if unknown.
    pub ping_timeout_ms: Option<u64>,
    /// Events in chronological order.
    pub moments: Vec<TimelineEntry>,
}

/// One event of a timeline.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TimelineEntry {
    /// Time in RFC 3339 format.
    pub time: String,
    /// Description of the event.
    pub what: String,
    /// Request id.
    pub request: String,
    /// TCP peer.
    pub client: String,
    /// Endpoint of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}
