//! Events that workers record about sessions: plain facts, each with its time and request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::message::{Reason, Version};
use crate::telemetry::socketio::SocketIoLabels;
use crate::telemetry::websockets::WebSocketClose;

use super::key::SessionKey;
use super::packet::Heartbeat;

/// One recorded event.
#[derive(Clone)]
pub struct SessionEvent {
    /// The session.
    pub key: SessionKey,
    /// Time of the event.
    pub at: Instant,
    /// Labels of the route.
    pub place: Arc<SocketIoLabels>,
    /// TCP peer.
    pub client: SocketAddr,
    /// HTTP version on the client's side.
    pub version: Version,
    /// Endpoint of the request; `None` if none was selected.
    pub endpoint: Option<Arc<str>>,
    /// Request id, as in the access log.
    pub request: Box<str>,
    /// Kind and details.
    pub what: EventKind,
}

/// Kind of a [`SessionEvent`].
#[derive(Clone, Copy, Debug)]
pub enum EventKind {
    /// A session was opened by polling.
    Opened(SessionOpened),
    /// A poll or post ended.
    Polled(PollEnded),
    /// A request for a WebSocket failed, for this session or for a new one.
    Tried(UpgradeFailed),
    /// A request for a WebSocket was answered with 101.
    Switched {
        /// Whether the WebSocket opens a new session.
        direct: bool,
    },
    /// Probe and upgrade messages were exchanged on the WebSocket.
    Upgraded,
    /// The WebSocket ended.
    Cut(SocketEnded),
}

/// Content of the open packet, and the gateway's timeouts that apply to the session.
#[derive(Clone, Copy, Debug)]
pub struct SessionOpened {
    /// Engine.IO version.
    pub engine: u8,
    /// Whether the open packet offers a WebSocket; `None` if it lists no upgrades.
    pub offers: Option<bool>,
    /// Heartbeat of the session.
    pub heartbeat: Option<Heartbeat>,
    /// The gateway's limit on the wait for the first byte of a response, such as that of a poll.
    pub first_byte: Duration,
    /// The gateway's idle timeout for WebSockets.
    pub tunnel_idle: Duration,
}

/// End of a poll or post.
#[derive(Clone, Copy, Debug)]
pub struct PollEnded {
    /// Whether it was a POST, which sends messages and does not wait.
    pub post: bool,
    /// Response status.
    pub status: u16,
    /// Reason word, if the gateway ended the request.
    pub reason: Option<Reason>,
    /// Engine.IO error code in the response.
    pub code: Option<u8>,
    /// Time until the response began, or until the request ended without one.
    pub waited: Duration,
    /// Whether the response had begun.
    pub answered: bool,
    /// Whether one side sent a close packet.
    pub goodbye: bool,
}

/// A failed request for a WebSocket.
#[derive(Clone, Copy, Debug)]
pub struct UpgradeFailed {
    /// Form of the request.
    pub way: UpgradePath,
    /// Whether the WebSocket would have opened a new session.
    pub direct: bool,
    /// Response status.
    pub status: u16,
    /// Reason word, if the gateway ended the request.
    pub reason: Option<Reason>,
    /// Engine.IO error code in the response.
    pub code: Option<u8>,
}

/// Form of a request for a WebSocket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UpgradePath {
    /// A valid upgrade.
    Upgrade,
    /// A plain GET over HTTP/2, without the `:protocol` of RFC 8441.
    Http2,
    /// An HTTP/1 request in which fields of the upgrade are missing.
    Stripped(StrippedFields),
}

/// The upgrade fields that an incomplete request still has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one head")]
pub struct StrippedFields {
    /// Whether it is HTTP/1.0, which has no upgrades.
    pub http10: bool,
    /// Whether it has `Upgrade: websocket`.
    pub upgrade: bool,
    /// Whether it has `Connection: upgrade`.
    pub connection: bool,
    /// Whether it has `Sec-WebSocket-Key`.
    pub key: bool,
}

/// End of a WebSocket.
#[derive(Clone, Copy, Debug)]
pub struct SocketEnded {
    /// Side that ended it, or the gateway's reason.
    pub how: WebSocketClose,
    /// Time since the last byte in either direction.
    pub silent: Duration,
    /// Whether either side had sent a Close frame.
    pub close_sent: bool,
    /// Whether the WebSocket had opened the session.
    pub direct: bool,
    /// Number of messages from the client and from the upstream, saturating at 255.
    pub messages: [u8; 2],
}

impl SocketEnded {
    /// The part that the tunnel knows. [`RequestProbe`](super::RequestProbe) adds the other fields.
    #[must_use]
    pub fn new(how: WebSocketClose, silent: Duration, close_sent: bool) -> Self {
        Self { how, silent, close_sent, direct: false, messages: [0, 0] }
    }
}
