//! Observation of one request of a Socket.IO session, from its head to its end.
//!
//! In: a head, and the bodies as they pass. Out: [`SessionEvent`]s. Never: changes or delays a
//! byte.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;

use crate::message::field::tokens;
use crate::message::{KnownField, Reason, RequestHead, Version};
use crate::telemetry::socketio::SocketIoLabels;
use crate::upstream::{BodyTap, engine_io};

use super::event::{
    EventKind, PollEnded, SessionEvent, SessionOpened, SocketEnded, StrippedFields, UpgradeFailed,
    UpgradePath,
};
use super::key::SessionKey;
use super::packet::{BodyHead, BodyTail, OpenPacket};

/// Messages from client and server that complete an upgrade: the client's probe and upgrade
/// packets, and the server's answer to the probe.
const UPGRADE_MESSAGES: [u8; 2] = [2, 1];

/// Observes one request and creates its events.
pub struct RequestProbe {
    kind: RequestKind,
    engine: u8,
    version: Version,
    key: Cell<Option<SessionKey>>,
    place: OnceCell<(Arc<SocketIoLabels>, Duration)>,
    open: RefCell<Option<OpenPacket>>,
    code: Cell<Option<u8>>,
    goodbye: Cell<bool>,
    sent: Cell<BodyTail>,
    upgraded: Cell<bool>,
    messages: Cell<[u8; 2]>,
}

/// Purpose of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum RequestKind {
    /// Opens a session.
    Open,
    /// Receives messages of a session, or sends some if `post`.
    Poll { post: bool },
    /// Requests a WebSocket for an existing session, or for a new one if `direct`.
    WebSocket { way: UpgradePath, direct: bool },
}

/// Result of a request, as input for its events.
pub struct RequestOutcome<'a> {
    /// Request id.
    pub request: &'a str,
    /// TCP peer.
    pub client: SocketAddr,
    /// Selected endpoint.
    pub endpoint: Option<&'a Arc<str>>,
    /// Response status.
    pub status: u16,
    /// Reason word, if the gateway ended the request.
    pub reason: Option<Reason>,
    /// Time until the response began, or until the request ended without one.
    pub waited: Duration,
    /// Whether the response had begun.
    pub answered: bool,
}

impl RequestProbe {
    /// A probe for this request; `None` if it is not an Engine.IO request.
    #[must_use]
    pub fn new(head: &RequestHead) -> Option<Rc<Self>> {
        let parameters = engine_io::parameters(&head.target)?;
        let kind = match (&head.method, parameters.sid, parameters.is_websocket()) {
            // A WebSocket over HTTP/2 is an extended CONNECT.
            (&Method::GET | &Method::CONNECT, sid, true) => {
                RequestKind::WebSocket { way: way(head), direct: sid.is_none() }
            }
            (&Method::GET, None, false) => RequestKind::Open,
            (&Method::GET, Some(_), false) => RequestKind::Poll { post: false },
            (&Method::POST, Some(_), false) => RequestKind::Poll { post: true },
            _ => return None,
        };
        let digits = std::str::from_utf8(parameters.version).ok();
        Some(Rc::new(Self {
            kind,
            engine: digits.and_then(|digits| digits.parse().ok()).unwrap_or(0),
            version: head.version,
            key: Cell::new(parameters.sid.map(SessionKey::of)),
            place: OnceCell::new(),
            open: RefCell::default(),
            code: Cell::default(),
            goodbye: Cell::default(),
            sent: Cell::default(),
            upgraded: Cell::default(),
            messages: Cell::default(),
        }))
    }

    /// Sets the labels of the route, and its limit on the wait for the first byte of a response.
    pub fn set_route(&self, place: &Arc<SocketIoLabels>, first_byte: Duration) {
        // The value is set once, because a request has one route.
        let _ = self.place.set((Arc::clone(place), first_byte));
    }

    /// Key of the session, once it is known.
    #[must_use]
    pub fn key(&self) -> Option<SessionKey> {
        self.key.get()
    }

    /// A body tap for a response with this status, if the body can contain information.
    #[must_use]
    pub fn body_tap(self: &Rc<Self>, status: u16) -> Option<Box<dyn BodyTap>> {
        let probe = Rc::clone(self);
        match self.kind {
            RequestKind::Poll { post: false } if status == 200 => {
                Some(Box::new(TailScan { probe, end: BodyTail::default() }))
            }
            RequestKind::Open if status == 200 => {
                Some(Box::new(HeadScan { probe, begun: BodyHead::default() }))
            }
            _ if status >= 400 => Some(Box::new(HeadScan { probe, begun: BodyHead::default() })),
            _ => None,
        }
    }

    /// Adds a piece of the request body.
    pub fn read_request(&self, piece: &[u8]) {
        let mut sent = self.sent.get();
        sent.read(piece);
        self.sent.set(sent);
    }

    /// The event for a request that ended without becoming a WebSocket; `None` if there is nothing
    /// to record.
    #[must_use]
    pub fn ended(
        &self,
        outcome: &RequestOutcome<'_>,
        tunnel_idle: Duration,
    ) -> Option<SessionEvent> {
        let what = match self.kind {
            RequestKind::Open => {
                let open = self.open.borrow();
                let open = open.as_ref()?;
                EventKind::Opened(SessionOpened {
                    engine: self.engine,
                    offers: open.offers,
                    heartbeat: open.heartbeat,
                    first_byte: self.place.get()?.1,
                    tunnel_idle,
                })
            }
            RequestKind::Poll { post } => EventKind::Polled(PollEnded {
                post,
                status: outcome.status,
                reason: outcome.reason,
                code: self.code.get(),
                waited: outcome.waited,
                answered: outcome.answered,
                goodbye: self.goodbye.get() || (post && self.sent.get().sends_close(self.engine)),
            }),
            RequestKind::WebSocket { way, direct } => EventKind::Tried(UpgradeFailed {
                way,
                direct,
                status: outcome.status,
                // Clients disconnect as soon as they get a response other than 101, which is not
                // the cause.
                reason: outcome
                    .reason
                    .filter(|reason| !outcome.answered || *reason != Reason::ClientGone),
                code: self.code.get(),
            }),
        };
        self.event(outcome, what)
    }

    /// The event for a request that became a WebSocket.
    #[must_use]
    pub fn switched(&self, outcome: &RequestOutcome<'_>) -> Option<SessionEvent> {
        let RequestKind::WebSocket { direct, .. } = self.kind else { return None };
        self.event(outcome, EventKind::Switched { direct })
    }

    /// Sets the number of messages on the WebSocket, from client and upstream. Returns true once,
    /// when they complete the upgrade.
    pub fn count_messages(&self, messages: [u8; 2]) -> bool {
        self.messages.set(messages);
        let agreed = messages[0] >= UPGRADE_MESSAGES[0] && messages[1] >= UPGRADE_MESSAGES[1];
        let waits = matches!(self.kind, RequestKind::WebSocket { direct: false, .. });
        waits && agreed && !self.upgraded.replace(true)
    }

    /// The event for a completed upgrade.
    #[must_use]
    pub fn upgraded(&self, outcome: &RequestOutcome<'_>) -> Option<SessionEvent> {
        self.event(outcome, EventKind::Upgraded)
    }

    /// The event for a WebSocket that ended.
    #[must_use]
    pub fn cut(&self, outcome: &RequestOutcome<'_>, mut cut: SocketEnded) -> Option<SessionEvent> {
        let RequestKind::WebSocket { direct, .. } = self.kind else { return None };
        (cut.direct, cut.messages) = (direct, self.messages.get());
        self.event(outcome, EventKind::Cut(cut))
    }

    fn event(&self, outcome: &RequestOutcome<'_>, what: EventKind) -> Option<SessionEvent> {
        let (place, _) = self.place.get()?;
        // Without a session id, the request id identifies the session.
        let key = self.key.get().unwrap_or_else(|| SessionKey::of(outcome.request.as_bytes()));
        self.key.set(Some(key));
        Some(SessionEvent {
            key,
            at: Instant::now(),
            place: Arc::clone(place),
            client: outcome.client,
            version: self.version,
            endpoint: outcome.endpoint.cloned(),
            request: outcome.request.into(),
            what,
        })
    }
}

/// Form of a request for a WebSocket.
fn way(head: &RequestHead) -> UpgradePath {
    if head.upgrade {
        return UpgradePath::Upgrade;
    }
    if head.version == Version::Http2 {
        return UpgradePath::Http2;
    }
    let has = |known, token: &[u8]| {
        tokens(head.fields.all(known)).any(|one| one.eq_ignore_ascii_case(token))
    };
    UpgradePath::Stripped(StrippedFields {
        http10: head.version == Version::Http10,
        upgrade: has(KnownField::Upgrade, b"websocket"),
        connection: has(KnownField::Connection, b"upgrade"),
        key: head.fields.first(KnownField::WebSocketKey).is_some(),
    })
}

/// Tap that reads the beginning of a response.
struct HeadScan {
    probe: Rc<RequestProbe>,
    begun: BodyHead,
}

impl BodyTap for HeadScan {
    fn read(&mut self, piece: &[u8]) -> bool {
        if !self.begun.read(piece) {
            return false;
        }
        if self.probe.kind == RequestKind::Open
            && let Some(open) = self.begun.open()
        {
            self.probe.key.set(Some(SessionKey::of(open.sid.as_bytes())));
            self.probe.open.replace(Some(OpenPacket { sid: String::new(), ..open }));
        }
        self.probe.code.set(self.begun.code());
        true
    }
}

/// Tap that reads the end of a response.
struct TailScan {
    probe: Rc<RequestProbe>,
    end: BodyTail,
}

impl BodyTap for TailScan {
    fn read(&mut self, piece: &[u8]) -> bool {
        self.end.read(piece);
        self.probe.goodbye.set(self.end.sends_close(self.probe.engine));
        false
    }
}
