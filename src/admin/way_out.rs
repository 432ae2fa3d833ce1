//! What is told about the forward proxy: open tunnels, and what report mode has let through.

use serde_json::Value;

/// How it is found out; in the words of whoever serves the forward proxy.
pub struct WayOut {
    /// The open tunnels.
    pub tunnels: Box<dyn Fn() -> Value>,
    /// How many tunnels are open, and the oldest of them, so many at most.
    pub oldest: Box<dyn Fn(usize) -> (usize, Value)>,
    /// What was let through, as `egress suggest` reads it.
    pub seen: Box<dyn Fn() -> Value>,
}

/// Where tunnels are told about.
pub const TUNNELS: &str = "/egress/tunnels";
/// Where it is told what was let through.
pub const SEEN: &str = "/egress/seen";

impl WayOut {
    /// What is told at this path.
    pub(super) fn told(&self, path: &str) -> Option<Value> {
        match path {
            TUNNELS => Some((self.tunnels)()),
            SEEN => Some((self.seen)()),
            _ => None,
        }
    }
}
