//! The chat server: Socket.IO and its REST interface on one port, as in the product.
//!
//! Speaks Engine.IO 3 and 4. Events in: `join`, `message`, `typing`, `open`, `echo`. Events out:
//! `welcome`, `message`, `typing`, `history`, `presence`, `conversation`, `echo`.

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::Service;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use socketioxide::SocketIo;
use socketioxide::extract::{Data, SocketRef};
use socketioxide::service::SocketIoService;

use crate::demo::chat::{Chat, NewMessage, Participant, Party};
use crate::demo::echo::{self, EchoedRequest};
use crate::demo::reply::{self, ComponentBodyError, ComponentReply};
use crate::demo::server;

const PATH: &str = "/socket.io";
/// The interval of the product, not the library's default: a gateway that stalls for six seconds
/// loses every chat.
const PING_INTERVAL: Duration = Duration::from_secs(3);
const PING_TIMEOUT: Duration = Duration::from_secs(6);
/// Largest polling request or WebSocket message, in bytes.
const MAX_PAYLOAD: u32 = 1_000_000;

/// The rooms of all agents and of all customers. A customer is also in the room of their
/// conversation.
const AGENTS: &str = "agents";
const CUSTOMERS: &str = "customers";

type SharedChat = Arc<Mutex<Chat>>;

/// The chat server.
pub(crate) struct ChatServer {
    chat: SharedChat,
    sockets: SocketIoService<UnreachableService>,
}

impl ChatServer {
    pub(crate) fn new() -> Self {
        let (sockets, io) = SocketIo::builder()
            .req_path(PATH)
            .ping_interval(PING_INTERVAL)
            .ping_timeout(PING_TIMEOUT)
            .max_payload(MAX_PAYLOAD.into())
            .ws_max_message_size(MAX_PAYLOAD as usize)
            .ws_max_frame_size(MAX_PAYLOAD as usize)
            .build_with_inner_svc(UnreachableService);
        let chat = SharedChat::default();
        let shared = chat.clone();
        io.ns("/", move |socket: SocketRef| {
            let chat = shared.clone();
            async move { listen(&socket, &chat) }
        });
        Self { chat, sockets }
    }

    pub(crate) async fn answer(
        &self,
        seen: EchoedRequest,
        request: Request<Incoming>,
    ) -> Result<ComponentReply, ComponentBodyError> {
        let path = request.uri().path();
        if path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            let Ok(reply) = self.sockets.call(request).await;
            return Ok(server::boxed(reply));
        }
        if request.method() == Method::GET {
            if let Some(conversation) = path.strip_prefix("/api/customer/transcript/") {
                return Ok(self.transcript(conversation));
            }
            if path == "/metrics" {
                let count = lock(&self.chat).sockets();
                return Ok(reply::text(StatusCode::OK, format!("chat_sockets {count}\n")));
            }
        }
        let mut also = Map::new();
        if path == "/api/getSocketCount" {
            also.insert("sockets".to_owned(), json!(lock(&self.chat).sockets()));
        }
        if path == "/api/customer/init" {
            also.insert("socket".to_owned(), json!({ "path": "/socket.io/" }));
        }
        echo::answer_also(seen, request, also).await
    }

    fn transcript(&self, conversation: &str) -> ComponentReply {
        match lock(&self.chat).history(conversation) {
            Some(messages) => reply::json(StatusCode::OK, &json!({ "messages": messages })),
            None => reply::json(StatusCode::NOT_FOUND, &json!({ "error": "no such conversation" })),
        }
    }
}

impl fmt::Debug for ChatServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatServer").field("chat", &self.chat).finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
struct Join {
    role: Party,
    #[serde(default)]
    name: String,
    /// Secret of a customer, which stays the same when they return.
    #[serde(default)]
    key: String,
}

#[derive(Debug, Deserialize)]
struct Typing {
    #[serde(default)]
    conversation: String,
    on: bool,
}

#[derive(Debug, Deserialize)]
struct OpenConversation {
    conversation: String,
}

/// Registers the event handlers of a socket and sends it the list of participants.
fn listen(socket: &SocketRef, chat: &SharedChat) {
    // A socket that has not identified itself gets the view of a customer.
    socket.join(CUSTOMERS);
    let _ = socket.emit("presence", &json!({ "agents": lock(chat).agents() }));
    let shared = chat.clone();
    socket.on("join", move |socket: SocketRef, io: SocketIo, Data(asked): Data<Join>| {
        let chat = shared.clone();
        async move { join(&socket, &io, &chat, asked).await }
    });
    let shared = chat.clone();
    socket.on("message", move |socket: SocketRef, io: SocketIo, Data(said): Data<NewMessage>| {
        let chat = shared.clone();
        async move { say(&socket, &io, &chat, said).await }
    });
    let shared = chat.clone();
    socket.on("typing", move |socket: SocketRef, Data(typing): Data<Typing>| {
        let chat = shared.clone();
        async move { type_on(&socket, &chat, typing).await }
    });
    let shared = chat.clone();
    socket.on("open", move |socket: SocketRef, Data(asked): Data<OpenConversation>| {
        let chat = shared.clone();
        async move { open(&socket, &chat, &asked.conversation) }
    });
    socket.on("echo", async |socket: SocketRef, Data(value): Data<Value>| {
        // The socket may be closed; the error is ignored, here and below.
        let _ = socket.emit("echo", &value);
    });
    let shared = chat.clone();
    socket.on_disconnect(move |socket: SocketRef, io: SocketIo| {
        let chat = shared.clone();
        async move { leave(&socket, &io, &chat).await }
    });
}

async fn join(socket: &SocketRef, io: &SocketIo, chat: &SharedChat, asked: Join) {
    // A second `join` changes the name or the side.
    socket.leave_all();
    let (session, welcome) = {
        let mut chat = lock(chat);
        let session = match asked.role {
            Party::Customer => chat.join_customer(socket.id, &asked.key, &asked.name),
            Party::Agent => chat.join_agent(socket.id, &asked.name),
        };
        let welcome = welcome(&chat, &session);
        (session, welcome)
    };
    match session.side {
        Party::Customer => socket.join([CUSTOMERS.to_owned(), session.conversation.clone()]),
        Party::Agent => socket.join(AGENTS),
    }
    let _ = socket.emit("welcome", &welcome);
    announce(io, chat, &session).await;
}

fn welcome(chat: &Chat, session: &Participant) -> Value {
    match session.side {
        Party::Customer => json!({
            "role": session.side,
            "name": session.name,
            "conversation": session.conversation,
            "messages": chat.history(&session.conversation),
            "agents": chat.agents(),
        }),
        Party::Agent => json!({
            "role": session.side,
            "name": session.name,
            "conversations": chat.summaries(),
            "agents": chat.agents(),
        }),
    }
}

/// Notifies the other side that a participant came or left.
async fn announce(io: &SocketIo, chat: &SharedChat, session: &Participant) {
    match session.side {
        Party::Customer => {
            let summary = lock(chat).summary(&session.conversation);
            let _ = io.to(AGENTS).emit("conversation", &summary).await;
        }
        Party::Agent => {
            let present = json!({ "agents": lock(chat).agents() });
            let _ = io.to([AGENTS, CUSTOMERS]).emit("presence", &present).await;
        }
    }
}

async fn say(socket: &SocketRef, io: &SocketIo, chat: &SharedChat, said: NewMessage) {
    let message = lock(chat).say(socket.id, said);
    let Some(message) = message else { return };
    // The message is sent to its sender too, as a confirmation that it was stored.
    let rooms = vec![AGENTS.to_owned(), message.conversation.clone()];
    let _ = io.to(rooms).emit("message", &message).await;
}

async fn type_on(socket: &SocketRef, chat: &SharedChat, typing: Typing) {
    let session = lock(chat).session(socket.id).cloned();
    let Some(session) = session else { return };
    let conversation = match session.side {
        Party::Customer => session.conversation,
        Party::Agent => typing.conversation,
    };
    let notice = json!({
        "conversation": conversation,
        "from": session.side,
        "name": session.name,
        "on": typing.on,
    });
    let _ = socket.to(vec![AGENTS.to_owned(), conversation]).emit("typing", &notice).await;
}

fn open(socket: &SocketRef, chat: &SharedChat, conversation: &str) {
    let messages = {
        let chat = lock(chat);
        let is_agent = chat.session(socket.id).is_some_and(|session| session.side == Party::Agent);
        is_agent.then(|| chat.history(conversation)).flatten()
    };
    if let Some(messages) = messages {
        let history = json!({ "conversation": conversation, "messages": messages });
        let _ = socket.emit("history", &history);
    }
}

async fn leave(socket: &SocketRef, io: &SocketIo, chat: &SharedChat) {
    let session = lock(chat).leave(socket.id);
    if let Some(session) = session {
        announce(io, chat, &session).await;
    }
}

fn lock(chat: &SharedChat) -> MutexGuard<'_, Chat> {
    // The state of the chat is still usable after a panic.
    chat.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fallback of the Socket.IO service. It is never called, because the service gets only its own
/// path.
#[derive(Clone, Copy, Debug)]
struct UnreachableService;

impl Service<Request<Incoming>> for UnreachableService {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, _: Request<Incoming>) -> Self::Future {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = StatusCode::NOT_FOUND;
        ready(Ok(response))
    }
}
