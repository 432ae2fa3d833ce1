//! What one request has to do with a Socket.IO session, from its head to its end.
//!
//! In: a head, and the bodies as they pass. Out: [`SessionEvent`]s. Never: changes or holds back a byte.

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

/// Messages of a client after which its WebSocket is agreed on: the probe and the upgrade.
const UPGRADE_MESSAGES: [u8; 2] = [2, 1];

/// See the module.
pub struct RequestProbe {
    ask: RequestKind,
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

/// What a request asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum RequestKind {
    /// To open a session.
    Open,
    /// What there is for the session, or that it be brought something.
    Poll { post: bool },
    /// A WebSocket: for the session there is, or as one of its own.
    WebSocket { way: UpgradePath, direct: bool },
}

/// What became of the request.
pub struct RequestOutcome<'a> {
    /// Its id.
    pub request: &'a str,
    /// The TCP peer.
    pub client: SocketAddr,
    /// Who was asked.
    pub endpoint: Option<&'a Arc<str>>,
    /// Of the answer.
    pub status: u16,
    /// Why the gateway ended it.
    pub reason: Option<Reason>,
    /// Until the answer began, if it did; until the end otherwise.
    pub waited: Duration,
    /// The answer had begun.
    pub answered: bool,
}

impl RequestProbe {
    /// Of a request; `None` if it is not Engine.IO's.
    #[must_use]
    pub fn of(head: &RequestHead) -> Option<Rc<Self>> {
        let parameters = engine_io::parameters(&head.target)?;
        let ask = match (&head.method, parameters.sid, parameters.is_websocket()) {
            // A WebSocket over HTTP/2 is a CONNECT.
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
            ask,
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

    /// Notes the route that takes it, and the route's limit on the wait for a first byte.
    pub fn at(&self, place: &Arc<SocketIoLabels>, first_byte: Duration) {
        // A request has one route.
        let _ = self.place.set((Arc::clone(place), first_byte));
    }

    /// What the session is called, once that is known.
    #[must_use]
    pub fn key(&self) -> Option<SessionKey> {
        self.key.get()
    }

    /// Somebody to look at an answer with this status, if there is anything to see.
    #[must_use]
    pub fn body_tap(self: &Rc<Self>, status: u16) -> Option<Box<dyn BodyTap>> {
        let probe = Rc::clone(self);
        match self.ask {
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

    /// Looks at a piece of the request's body.
    pub fn sends(&self, piece: &[u8]) {
        let mut sent = self.sent.get();
        sent.read(piece);
        self.sent.set(sent);
    }

    /// What is to be told when the request is over, or has become a WebSocket.
    #[must_use]
    pub fn over(
        &self,
        outcome: &RequestOutcome<'_>,
        tunnel_idle: Duration,
    ) -> Option<SessionEvent> {
        let what = match self.ask {
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
                // Clients hang up as soon as they see that it is no 101.
                reason: outcome
                    .reason
                    .filter(|reason| !outcome.answered || *reason != Reason::ClientGone),
                code: self.code.get(),
            }),
        };
        self.event(outcome, what)
    }

    /// What is to be told when it has become a WebSocket.
    #[must_use]
    pub fn switched(&self, outcome: &RequestOutcome<'_>) -> Option<SessionEvent> {
        let RequestKind::WebSocket { direct, .. } = self.ask else { return None };
        self.event(outcome, EventKind::Switched { direct })
    }

    /// Notes how many messages the two of a WebSocket have sent; whether with these it is agreed on.
    pub fn moved(&self, messages: [u8; 2]) -> bool {
        self.messages.set(messages);
        let agreed = messages[0] >= UPGRADE_MESSAGES[0] && messages[1] >= UPGRADE_MESSAGES[1];
        let waits = matches!(self.ask, RequestKind::WebSocket { direct: false, .. });
        waits && agreed && !self.upgraded.replace(true)
    }

    /// What is to be told when its WebSocket is agreed on.
    #[must_use]
    pub fn upgraded(&self, outcome: &RequestOutcome<'_>) -> Option<SessionEvent> {
        self.event(outcome, EventKind::Upgraded)
    }

    /// What is to be told when its WebSocket has ended.
    #[must_use]
    pub fn cut(&self, outcome: &RequestOutcome<'_>, mut cut: SocketEnded) -> Option<SessionEvent> {
        let RequestKind::WebSocket { direct, .. } = self.ask else { return None };
        (cut.direct, cut.messages) = (direct, self.messages.get());
        self.event(outcome, EventKind::Cut(cut))
    }

    fn event(&self, outcome: &RequestOutcome<'_>, what: EventKind) -> Option<SessionEvent> {
        let (place, _) = self.place.get()?;
        // What has no id yet is called by its request.
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

/// How a request asks for a WebSocket.
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

/// Looks at the beginning of an answer.
struct HeadScan {
    probe: Rc<RequestProbe>,
    begun: BodyHead,
}

impl BodyTap for HeadScan {
    fn read(&mut self, piece: &[u8]) -> bool {
        if !self.begun.read(piece) {
            return false;
        }
        if self.probe.ask == RequestKind::Open
            && let Some(open) = self.begun.open()
        {
            self.probe.key.set(Some(SessionKey::of(open.sid.as_bytes())));
            self.probe.open.replace(Some(OpenPacket { sid: String::new(), ..open }));
        }
        self.probe.code.set(self.begun.code());
        true
    }
}

/// Looks at the end of an answer.
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
