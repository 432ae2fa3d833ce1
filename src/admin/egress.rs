//! What is told about the forward proxy: open tunnels, and what report mode has let through.

use serde_json::Value;

/// How it is found out; in the words of whoever serves the forward proxy.
pub struct EgressViews {
    /// The open tunnels.
    pub tunnels: Box<dyn Fn() -> Value>,
    /// How many tunnels are open, and the oldest of them, so many at most.
    pub oldest: Box<dyn Fn(usize) -> (usize, Value)>,
    /// What was let through, as `egress suggest` reads it.
    pub seen: Box<dyn Fn() -> Value>,
}

/// Where tunnels are told about.
pub const TUNNELS_PATH: &str = "/egress/tunnels";
/// Where it is told what was let through.
pub const OBSERVED_PATH: &str = "/egress/seen";

impl EgressViews {
    /// What is told at this path.
    pub(super) fn told(&self, path: &str) -> Option<Value> {
        match path {
            TUNNELS_PATH => Some((self.tunnels)()),
            OBSERVED_PATH => Some((self.seen)()),
            _ => None,
        }
    }
}
