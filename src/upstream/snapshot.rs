//! Snapshots of upstreams as plain values, for the admin API and the status page.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::eject::CircuitState;
use super::{AdminState, Upstream, resolve};

/// An upstream.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Snapshot {
    /// Its name.
    pub upstream: String,
    /// The backups are used, and not the primary endpoints.
    pub on_backup: bool,
    /// When it last changed sides, in seconds since 1970; 0: never.
    pub since: i64,
    /// Why it did.
    pub why: String,
    /// Socket.IO sessions whose endpoint is known.
    pub sessions: usize,
    /// Its endpoints, primary ones first, in the order of the configuration.
    pub endpoints: Vec<EndpointSnapshot>,
}

/// An endpoint.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EndpointSnapshot {
    /// Host and port.
    pub endpoint: String,
    /// `up`, `down` (by checks), `ejected` (left out for a while), `drain` or `maintenance` (by the
    /// operator).
    pub state: String,
    /// Whether the endpoint is a backup.
    pub backup: bool,
    /// Whether the endpoint has health checks.
    pub checked: bool,
    /// When checks last changed the state, in seconds since 1970; 0: never.
    pub since: i64,
    /// Why they did.
    pub why: String,
    /// Failure of the latest check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// When its name was resolved last, in seconds since 1970; 0: never. Nothing for an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<i64>,
    /// Open requests and WebSockets; counted where there are several endpoints.
    pub open: usize,
}

impl Upstream {
    /// Takes a snapshot. Takes locks: not for the request path.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (since, why) = self.upstream_state.tiers.last();
        let one = |(index, endpoint): (usize, &std::sync::Arc<super::Endpoint>)| {
            let health = &endpoint.health;
            let told = health.told().clone();
            let state = match (self.duty(index), health.is_up(), health.circuit.circuit_state()) {
                (AdminState::Drain | AdminState::Maintenance, ..) => self.duty(index).word(),
                (_, false, _) => "down",
                (_, true, CircuitState::Open) => "ejected",
                (_, true, CircuitState::Closed | CircuitState::HalfOpen) => "up",
            };
            EndpointSnapshot {
                endpoint: endpoint.label.to_string(),
                state: state.to_owned(),
                backup: self.ranks.get(index).is_some_and(|role| role.backup),
                checked: self.check.is_some(),
                since: told.since,
                why: told.why,
                fault: told.fault,
                resolved: resolve::is_name(endpoint)
                    .then(|| endpoint.resolved.load(Ordering::Relaxed)),
                open: health.open(),
            }
        };
        Snapshot {
            upstream: self.name.to_string(),
            on_backup: self.upstream_state.tiers.on_backup(),
            since,
            why,
            sessions: self.upstream_state.sessions.len(),
            endpoints: self.endpoints.iter().enumerate().map(one).collect(),
        }
    }
}
