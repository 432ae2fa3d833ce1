//! Views of the forward proxy: open tunnels, and destinations observed in report mode.

use serde_json::Value;

/// Callbacks into the forward proxy, injected by the supervisor.
pub struct EgressViews {
    /// The open tunnels.
    pub tunnels: Box<dyn Fn() -> Value>,
    /// Returns the number of open tunnels, and the oldest ones up to the given number.
    pub oldest: Box<dyn Fn(usize) -> (usize, Value)>,
    /// Returns the observed destinations, as `egress suggest` reads them.
    pub seen: Box<dyn Fn() -> Value>,
}

/// Path of the list of open tunnels.
pub const TUNNELS_PATH: &str = "/egress/tunnels";
/// Path of the destinations observed in report mode.
pub const OBSERVED_PATH: &str = "/egress/seen";

impl EgressViews {
    /// The document at this path.
    pub(super) fn told(&self, path: &str) -> Option<Value> {
        match path {
            TUNNELS_PATH => Some((self.tunnels)()),
            OBSERVED_PATH => Some((self.seen)()),
            _ => None,
        }
    }
}
