//! `self-test` of a route, checked.

use std::time::Duration;

/// A page that tries the way from a browser to the gateway.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SelfTest {
    /// How long a WebSocket and a long poll are left silent. Default 30 s, 5 s to 2 min.
    pub idle: Duration,
    /// The path of a Socket.IO route of the profile, which is tried too.
    pub socket_io: Option<String>,
}
