//! Documents of the admin API, as the gateway writes and the commands read them.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::generation::drift::DriftPeer;
use crate::socketio::report::{CauseReport, SessionCounts};
use crate::upstream::snapshot::Snapshot;

/// Most attempts that are remembered.
const MAX_ATTEMPTS: usize = 50;

/// Maximum length in bytes of the problem text kept for each attempt. The client that requested the
/// reload receives all of it.
const MAX_PROBLEMS_LEN: usize = 8 * 1024;

/// Result of an attempt to change the configuration.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadResult {
    /// The configuration is in force.
    Applied,
    /// There was nothing to do.
    Unchanged,
    /// The configuration was rejected, and nothing has changed.
    Refused,
    /// It was in force already, and stays.
    Confirmed,
}

impl ReloadResult {
    /// The word for it, as in the metric.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Confirmed => "confirmed",
        }
    }
}

/// Result and details of an attempt, for the client that requested it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ReloadOutcome {
    /// Result of the attempt.
    pub result: ReloadResult,
    /// Number of the generation that serves.
    pub generation: u64,
    /// Hash of the configuration that serves.
    pub config: String,
    /// One line per change.
    pub changes: Vec<String>,
    /// Problems and warnings, drawn.
    pub problems: String,
    /// Pending confirmation, after whose deadline the reload is reverted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingConfirmation>,
}

/// Result of a binary upgrade.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct UpgradeOutcome {
    /// The process that serves now; `None` if everything is as it was.
    pub pid: Option<u32>,
    /// Why it is as it was.
    pub problems: String,
}

/// A configuration that waits for its confirmation.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PendingConfirmation {
    /// When it is undone, as RFC 3339 writes it.
    pub until: String,
    /// The generation that serves then.
    pub back_to: u64,
}

/// An attempt that is remembered.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ReloadAttempt {
    /// When it ended, as RFC 3339 writes it.
    pub time: String,
    /// Trigger: `start`, `files`, `HUP`, `command`, `confirm`, `rollback`.
    pub trigger: String,
    /// Result of the attempt.
    pub result: ReloadResult,
    /// Number of the generation that serves since.
    pub generation: u64,
    /// Hash of the configuration that serves since.
    pub config: String,
    /// Duration of the attempt.
    pub milliseconds: u64,
    /// One line per change.
    pub changes: Vec<String>,
    /// Problems and warnings, drawn; the first 8 KiB.
    pub problems: String,
}

/// State of the gateway.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process id of the gateway.
    pub pid: u32,
    /// When it started, as RFC 3339 writes it.
    pub started: String,
    /// `starting`, `serving` or `draining`.
    pub phase: String,
    /// The configuration directory.
    pub directory: String,
    /// Number of the generation that serves.
    pub generation: u64,
    /// Hash of the configuration that serves.
    pub config: String,
    /// It waits for its confirmation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingConfirmation>,
    /// Keys whose new values only a restart can set.
    pub needs_restart: Vec<String>,
    /// The latest attempts to change the configuration, oldest first.
    pub reloads: VecDeque<ReloadAttempt>,
    /// Snapshots of the upstreams.
    #[serde(default)]
    pub upstreams: Vec<Snapshot>,
    /// Gateways this one is compared with.
    #[serde(default)]
    pub peers: Vec<DriftPeer>,
    /// Summary of the Socket.IO sessions.
    #[serde(default)]
    pub socket_io: Option<SocketIoSummary>,
    /// Routes in which something happened in the last hour.
    #[serde(default)]
    pub hours: Vec<RouteHour>,
    /// Rejections of each route since it was configured.
    #[serde(default)]
    pub rejected: Vec<RejectionCount>,
    /// Rejections by reason since the start, including those without a route.
    #[serde(default)]
    pub rejected_in_all: BTreeMap<String, u64>,
    /// Passthrough traffic by route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_through: Vec<PassthroughSummary>,
    /// Tunnels of the forward proxy, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnels: Option<TunnelList>,
}

/// Summary of the Socket.IO sessions.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SocketIoSummary {
    /// Number of sessions in each state.
    pub sessions: SessionCounts,
    /// Causes that keep sessions from a WebSocket, most frequent first.
    #[serde(default)]
    pub causes: Vec<CauseReport>,
    /// Timers of the gateway that their heartbeat does not fit into.
    pub warnings: Vec<String>,
}

/// The last hour of a route, minute by minute, the oldest first.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RouteHour {
    /// Profile of the route.
    pub profile: String,
    /// Name of the route.
    pub route: String,
    /// Requests per second.
    pub requests: Vec<f32>,
    /// Those of them answered with 5xx, per second.
    pub errors: Vec<f32>,
}

/// Number of rejections of a route for one reason.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RejectionCount {
    /// The word for it.
    pub reason: String,
    /// The route's profile.
    pub profile: String,
    /// The route's name.
    pub route: String,
    /// Number of rejections.
    pub count: u64,
}

/// Connections that are passed through, of one route.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct PassthroughSummary {
    /// Name of its table.
    pub profile: String,
    /// Name of the route; `none` stands for connections without a route.
    pub route: String,
    /// Upstream of the route; `None` if it has none.
    pub upstream: Option<String>,
    /// Connections that are open.
    pub open: u64,
    /// Forwarded connections since the route was configured.
    pub passed: u64,
    /// Rejected connections, by reason.
    pub rejected: BTreeMap<String, u64>,
}

/// The open tunnels of the forward proxy.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct TunnelList {
    /// Number of open tunnels.
    pub open: usize,
    /// The oldest of them, 100 at most.
    pub shown: Vec<TunnelStatus>,
}

/// An open tunnel of the forward proxy.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TunnelStatus {
    /// Id of the request that opened it.
    pub id: String,
    /// When it was opened, as RFC 3339 writes it.
    pub since: String,
    /// Address of the client.
    pub client: String,
    /// The user it had logged in as.
    pub user: Option<String>,
    /// Host and port asked for.
    pub destination: String,
    /// Name of the rule.
    pub rule: String,
    /// Bytes to the destination.
    pub request_bytes: u64,
    /// Bytes from it.
    pub response_bytes: u64,
}

impl Status {
    /// Remembers an attempt, and forgets the oldest if there are too many.
    pub fn remember(&mut self, mut attempt: ReloadAttempt) {
        if attempt.problems.len() > MAX_PROBLEMS_LEN {
            let mut end = MAX_PROBLEMS_LEN;
            while !attempt.problems.is_char_boundary(end) {
                end -= 1;
            }
            attempt.problems.truncate(end);
            attempt.problems.push_str("…\n");
        }
        if self.reloads.len() == MAX_ATTEMPTS {
            self.reloads.pop_front();
        }
        self.reloads.push_back(attempt);
    }
}

/// Changes that a directory would make in the running gateway.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Plan {
    /// The directory.
    pub directory: String,
    /// Why it would be refused, drawn; or the warnings it would be applied with.
    pub problems: String,
    /// It would be refused, and nothing would change.
    pub refused: bool,
    /// Number of the generation that serves.
    pub generation: u64,
    /// Hash of the configuration that serves.
    pub config: String,
    /// Hash of the directory's; empty if it would be refused.
    pub new_config: String,
    /// Differences.
    pub items: Vec<ItemDiff>,
    /// Number of unchanged items of each kind.
    pub kept: BTreeMap<String, usize>,
    /// Open connections now.
    pub open: OpenCounts,
    /// Requests of late that would be answered differently.
    pub requests: ReplayedRequests,
}

/// Method by which a change takes effect.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApplyMode {
    /// The configuration is replaced; sockets and connections stay.
    Swap,
    /// A socket is bound, or closed to new connections.
    Rebind,
    /// Only a restart can do it; until then the old value counts.
    NeedsRestart,
}

/// Kind of difference of an item.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiffKind {
    /// The item is new.
    Added,
    /// The item is removed.
    Removed,
    /// Some of its keys are different.
    Changed,
}

/// An item that is different.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ItemDiff {
    /// Method by which the change takes effect.
    pub means: ApplyMode,
    /// Kind of difference.
    pub how: DiffKind,
    /// Name of the item, such as `route /ccm/ GET (internet)`.
    pub what: String,
    /// Present location as `file:line`; empty if the item is new.
    pub old_place: String,
    /// Future location as `file:line`; empty if the item is removed.
    pub new_place: String,
    /// Its keys that are different, if it is changed.
    pub keys: Vec<KeyDiff>,
    /// Open connections of the item.
    pub open: OpenCounts,
}

/// A key that is different.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct KeyDiff {
    /// Name of the key.
    pub key: String,
    /// Its value now, as TOML; `None`: the default.
    pub old: Option<String>,
    /// Its value then, as TOML; `None`: the default.
    pub new: Option<String>,
    /// Present location as `file:line`; empty if absent.
    pub old_place: String,
    /// Future location as `file:line`; empty if absent.
    pub new_place: String,
}

/// Open connections, in total or of one item.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct OpenCounts {
    /// Client connections.
    pub connections: u64,
    /// Those of them, at most, that would end after their answer, because the listener asks more of
    /// clients in the TLS handshake.
    #[serde(default)]
    pub outdated: u64,
    /// Requests being served. They end as they began.
    pub requests: u64,
    /// WebSockets.
    pub websockets: u64,
    /// Connections that are passed through.
    #[serde(default)]
    pub passed_through: u64,
    /// Those of them that would be closed, because they would not be allowed any more.
    #[serde(default)]
    pub passed_closing: u64,
    /// WebSockets that would be closed, because they would not be allowed any more.
    pub closing: u64,
}

impl OpenCounts {
    /// Whether there is anything.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self != Self::default()
    }
}

/// Requests of late, asked again.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ReplayedRequests {
    /// Number of recent requests compared.
    pub looked_at: usize,
    /// Number of requests that would be answered differently.
    pub different: usize,
    /// Those, most frequent first; at most 100 kinds.
    pub kinds: Vec<RerouteGroup>,
}

/// Equal requests that would be answered differently.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RerouteGroup {
    /// Number of requests.
    pub count: usize,
    /// The method; `WS` for a WebSocket.
    pub method: String,
    /// The path, without query.
    pub path: String,
    /// Present decision.
    pub old: String,
    /// Future decision.
    pub new: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_bounded() {
        let mut status = Status::default();
        for number in 0..120 {
            status.remember(ReloadAttempt {
                time: String::new(),
                trigger: "files".to_owned(),
                result: ReloadResult::Refused,
                generation: number,
                config: String::new(),
                milliseconds: 0,
                changes: Vec::new(),
                problems: "ä".repeat(5000),
            });
        }
        assert_eq!(status.reloads.len(), MAX_ATTEMPTS);
        assert_eq!(status.reloads[0].generation, 70);
        let problems = &status.reloads[0].problems;
        assert!(problems.len() < MAX_PROBLEMS_LEN + 8 && problems.ends_with("…\n"));
    }
}
