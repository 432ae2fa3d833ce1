//! Checked form of `self-test` of a route.

use std::time::Duration;

/// Settings of the page that tests the path from a browser to the gateway.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SelfTest {
    /// Time for which a WebSocket and a long poll are left without data. Default 30 s, 5 s to 2
    /// min.
    pub idle: Duration,
    /// Path of a Socket.IO route of the profile to test, if any.
    pub socket_io: Option<String>,
}
