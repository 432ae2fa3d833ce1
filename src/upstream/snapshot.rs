//! How upstreams are at one moment, as plain values for whoever shows them.

use serde::{Deserialize, Serialize};

use super::Upstream;

/// An upstream.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Snapshot {
    /// Its name.
    pub upstream: String,
    /// Its endpoints, in the order of the configuration.
    pub endpoints: Vec<EndpointSnapshot>,
}

/// An endpoint.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EndpointSnapshot {
    /// Host and port.
    pub endpoint: String,
    /// `up`, `down`, or `shunned` (it could not be connected to a moment ago).
    pub state: String,
    /// It is checked.
    pub checked: bool,
    /// When the state changed last, in seconds since 1970; 0: never.
    pub since: i64,
    /// Why it did.
    pub why: String,
    /// What the latest check found wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl Upstream {
    /// How it is now. Takes a lock: not for the request path.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let one = |endpoint: &std::sync::Arc<super::Endpoint>| {
            let health = &endpoint.health;
            let told = health.told().clone();
            let state = match (health.is_up(), health.is_shunned()) {
                (false, _) => "down",
                (true, true) => "shunned",
                (true, false) => "up",
            };
            EndpointSnapshot {
                endpoint: endpoint.label.to_string(),
                state: state.to_owned(),
                checked: self.check.is_some(),
                since: told.since,
                why: told.why,
                fault: told.fault,
            }
        };
        Snapshot {
            upstream: self.name.to_string(),
            endpoints: self.endpoints.iter().map(one).collect(),
        }
    }
}
