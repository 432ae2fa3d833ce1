//! What a worker notices of a session: plain facts, each with its time and its request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::message::{Reason, Version};
use crate::telemetry::socketio::SocketIoLabels;
use crate::telemetry::websockets::WebSocketClose;

use super::key::SessionKey;
use super::packet::Heartbeat;

/// One thing that was noticed.
#[derive(Clone)]
pub struct SessionEvent {
    /// Of the session.
    pub key: SessionKey,
    /// When.
    pub at: Instant,
    /// The route that took it.
    pub place: Arc<SocketIoLabels>,
    /// The TCP peer.
    pub client: SocketAddr,
    /// Of HTTP, on the client's side.
    pub version: Version,
    /// The endpoint that was asked.
    pub endpoint: Option<Arc<str>>,
    /// Id of the request, as in its log line.
    pub request: Box<str>,
    /// What it was.
    pub what: EventKind,
}

/// See [`SessionEvent`].
#[derive(Clone, Copy, Debug)]
pub enum EventKind {
    /// It was opened by polling.
    Opened(SessionOpened),
    /// A poll, or a message that was posted, is over.
    Polled(PollEnded),
    /// A WebSocket was asked for, for this session or from the start, and none came of it.
    Tried(UpgradeFailed),
    /// A WebSocket was asked for and answered with 101.
    Switched {
        /// It is a session of its own.
        direct: bool,
    },
    /// The client and the upstream have agreed on the WebSocket.
    Upgraded,
    /// Its WebSocket has ended.
    Cut(SocketEnded),
}

/// What the open packet says, and what is set here.
#[derive(Clone, Copy, Debug)]
pub struct SessionOpened {
    /// Version of Engine.IO.
    pub engine: u8,
    /// Whether it may go on by WebSocket.
    pub offers: Option<bool>,
    /// Its heartbeat.
    pub heartbeat: Option<Heartbeat>,
    /// Our limit on the wait for an answer's first byte, which a poll makes use of.
    pub first_byte: Duration,
    /// Our limit on the silence of its WebSocket.
    pub tunnel_idle: Duration,
}

/// How a poll ended.
#[derive(Clone, Copy, Debug)]
pub struct PollEnded {
    /// It brought something (POST), and waited for nothing.
    pub post: bool,
    /// Of the answer.
    pub status: u16,
    /// Why the gateway ended it.
    pub reason: Option<Reason>,
    /// Engine.IO's, of a refusal.
    pub code: Option<u8>,
    /// How long it had waited when its answer began, or when it ended without one.
    pub waited: Duration,
    /// The answer had begun.
    pub answered: bool,
    /// One of the two has said goodbye.
    pub goodbye: bool,
}

/// A WebSocket that was asked for in vain.
#[derive(Clone, Copy, Debug)]
pub struct UpgradeFailed {
    /// In which way it was asked for.
    pub way: UpgradePath,
    /// It was to be a session of its own.
    pub direct: bool,
    /// Of the answer.
    pub status: u16,
    /// Why the gateway ended it.
    pub reason: Option<Reason>,
    /// Engine.IO's.
    pub code: Option<u8>,
}

/// How a WebSocket is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UpgradePath {
    /// As it should be.
    Upgrade,
    /// Over HTTP/2 like a page, without RFC 8441's `:protocol`.
    Http2,
    /// Over HTTP/1 without what makes it an upgrade.
    Stripped(StrippedFields),
}

/// What is there all the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one head")]
pub struct StrippedFields {
    /// It came as HTTP/1.0, which has no upgrades.
    pub http10: bool,
    /// `Upgrade: websocket`.
    pub upgrade: bool,
    /// `PooledConn: upgrade`.
    pub connection: bool,
    /// `Sec-WebSocket-SessionKey`.
    pub key: bool,
}

/// How a WebSocket ended.
#[derive(Clone, Copy, Debug)]
pub struct SocketEnded {
    /// Who ended it.
    pub how: WebSocketClose,
    /// How long nothing had moved.
    pub silent: Duration,
    /// One of the two had said Close.
    pub close_sent: bool,
    /// It was a session of its own.
    pub direct: bool,
    /// From the client, from the upstream; up to 255.
    pub messages: [u8; 2],
}

impl SocketEnded {
    /// As far as its relay knows; the rest is for the ticket to say.
    #[must_use]
    pub fn new(how: WebSocketClose, silent: Duration, close_sent: bool) -> Self {
        Self { how, silent, close_sent, direct: false, messages: [0, 0] }
    }
}
