//! One HTTP/2 connection: its streams are started, and it ends in time.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use http::Request;
use tokio::time::Instant;

use crate::config::Limits;
use crate::downstream::accept::{Acceptor as _, AdmittedConn};
use crate::downstream::min_rate::MinRate;
use crate::message::Reason;
use crate::net::clock::TICK;
use crate::net::{Io, Phase};
use crate::reverse::record::RequestLog;
use crate::reverse::{ClientConn, ReverseService};

use super::H2Request;
use super::coalesce::CoalescedIo;
use super::frames::Refusal;
use super::streams::{OpenStream, StreamSet};

/// Receive window of a connection: enough to keep a fast uploader busy, shared by its streams.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Receive window of a stream.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes that h2 may hold for a stream before it takes the next piece of an answer, or more of a
/// WebSocket.
const SEND_BUFFER: usize = 16 << 10;
/// Turns a connection gets when the worker cuts, for the Close frames of its tunnels: theirs and its
/// own, and as many again.
const FINAL_POLLS: u32 = 8;
/// How long a connection that has been told to go may take to do so.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(5);

/// Times `header-size` that h2 lets a head grow before it answers with a bare 431 of its own; up to
/// there the refusal is ours, and says why.
const HEAD_ROOM: u32 = 2;

/// How h2 is set up.
fn settings(limits: &Limits) -> Builder {
    let header_size = u32::try_from(limits.header_size).unwrap_or(u32::MAX);
    let mut builder = Builder::new();
    builder
        .enable_connect_protocol()
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(header_size.saturating_mul(HEAD_ROOM))
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_window_size(STREAM_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// A connection, before and after its preface.
enum Link<T> {
    /// Also whether it is to take no streams.
    Opening(Box<Handshake<CoalescedIo<T>, Bytes>>, bool),
    Open(Box<Connection<CoalescedIo<T>, Bytes>>),
}

impl<T: Io> Link<T> {
    /// Reads and writes frames, and hands streams to `start`; ready when the connection has ended.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut start: impl FnMut(&mut Context<'_>, Request<RecvStream>, SendResponse<Bytes>),
    ) -> Poll<Result<(), h2::Error>> {
        loop {
            match self {
                Self::Opening(handshake, leaves) => {
                    let mut connection =
                        Box::new(ready!(std::pin::Pin::new(&mut **handshake).poll(cx))?);
                    if *leaves {
                        connection.graceful_shutdown();
                    }
                    *self = Self::Open(connection);
                }
                Self::Open(connection) => match ready!(connection.poll_accept(cx)).transpose()? {
                    Some((request, respond)) => start(cx, request, respond),
                    None => return Poll::Ready(Ok(())),
                },
            }
        }
    }

    /// Lets it end once its streams have.
    fn leave(&mut self) {
        match self {
            Self::Opening(_, leaves) => *leaves = true,
            Self::Open(connection) => connection.graceful_shutdown(),
        }
    }
}

/// Parts of a connection that its streams need.
struct Shared<'a, T> {
    service: &'a Rc<ReverseService>,
    client_conn: Rc<ClientConn>,
    streams: Rc<StreamSet>,
    io: CoalescedIo<T>,
}

impl<T: Io> Shared<'_, T> {
    /// Serves a stream in a task of its own; whether its client has not withdrawn it already.
    fn start(
        &self,
        cx: &mut Context<'_>,
        mut request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> bool {
        if respond.poll_reset(cx).is_ready() {
            return self.is_refused(cx, request.body_mut(), &respond);
        }
        self.io.accepted(respond.stream_id().as_u32());
        let stream = H2Request {
            service: Rc::clone(self.service),
            virtual_server: self.service.virtual_server.load_full(),
            client_conn: Rc::clone(&self.client_conn),
            streams: Rc::clone(&self.streams),
        };
        let open = OpenStream::new(&self.streams);
        tokio::task::spawn_local(stream.run(request, respond, open));
        true
    }

    /// Whether a stream that was reset before it was served was reset by h2, whose frame says so.
    fn is_refused(
        &self,
        cx: &mut Context<'_>,
        body: &mut RecvStream,
        respond: &SendResponse<Bytes>,
    ) -> bool {
        loop {
            match body.poll_data(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) if error.is_library() => return true,
                Poll::Ready(Some(Err(_)) | None) | Poll::Pending => {
                    self.io.accepted(respond.stream_id().as_u32());
                    return false;
                }
            }
        }
    }

    /// Writes a line for each kind of refusal of this turn, and for requests that were withdrawn.
    fn report(&self, withdrawn: u32) {
        for refusal in self.io.refusals() {
            self.refused(&refusal);
        }
        if withdrawn > 0 {
            let detail =
                format!("{withdrawn} requests reset by the client before they were served");
            self.note((Reason::ClientGone, withdrawn), Reason::ClientGone.code(), detail);
        }
    }

    fn refused(&self, refusal: &Refusal) {
        if refusal.streams == 0 {
            self.client_conn.ended.set(Some(refusal.reason));
        }
        self.note((refusal.reason, refusal.streams.max(1)), refusal.status(), refusal.detail());
    }

    /// Writes one line that stands for `count` streams, or for the connection.
    fn note(&self, (reason, count): (Reason, u32), status: u16, detail: String) {
        let worker = &self.service.worker;
        let mut record = RequestLog::refused(
            worker,
            &self.client_conn,
            &self.service.virtual_server.load_full(),
        );
        record.reason = Some(reason);
        record.status = status;
        record.detail = Some(detail);
        for _ in 1..count {
            worker.metrics.refused(reason as usize);
        }
    }
}

/// Serves one connection until it closes.
pub(in crate::reverse) async fn serve<T: Io>(
    service: &Rc<ReverseService>,
    client_conn: ClientConn,
    io: T,
    _admitted: AdmittedConn,
) {
    let clock = service.worker.local.clock.clone();
    // Copied: a connection that waits must not keep a configuration alive.
    let (limits, timeouts) = {
        let virtual_server = service.virtual_server.load();
        (virtual_server.limits.clone(), virtual_server.timeouts.clone())
    };
    let pace = MinRate::new(timeouts.body_idle, timeouts.min_rate);
    let io = CoalescedIo::new(io, clock.clone(), pace);
    let mut link = Link::Opening(Box::new(settings(&limits).handshake(io.clone())), false);
    let streams = StreamSet::new(&clock, &service.worker.metrics.http2_send_buffer);
    let shared = Shared { service, client_conn: Rc::new(client_conn), streams, io };
    let mut ending = Ending { going: None, turns: FINAL_POLLS, idle: timeouts.keep_alive };
    shared.streams.timer.set(timeouts.keep_alive);
    poll_fn(|cx| {
        let mut withdrawn = 0;
        let ended = link.poll(cx, |cx, request, respond| {
            withdrawn += u32::from(!shared.start(cx, request, respond));
        });
        // If the stream takes no more now, it wakes the task for another turn when it does.
        let sent = shared.io.poll_send(cx);
        shared.report(withdrawn);
        match (ended, sent) {
            (Poll::Ready(Err(error)), _) if matches!(link, Link::Opening(..)) => {
                if error.is_library() {
                    shared.note((Reason::Http2Protocol, 1), 0, error.to_string());
                }
                Poll::Ready(())
            }
            (Poll::Ready(_), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(()),
            (Poll::Pending, _) => ending.poll(cx, &shared, &mut link),
        }
    })
    .await;
}

/// What a connection has been told about its end.
struct Ending {
    going: Option<Instant>,
    turns: u32,
    idle: Duration,
}

impl Ending {
    /// Ready when the connection is not to be waited for any longer.
    fn poll<T: Io>(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared<'_, T>,
        link: &mut Link<T>,
    ) -> Poll<()> {
        let Shared { service, client_conn, streams, io } = shared;
        let rung = streams.timer.poll(cx).is_ready();
        let now = service.worker.local.clock.now();
        let unused = rung && streams.is_idle() && now >= streams.used() + self.idle;
        let leaves = || {
            unused || streams.leaves() || service.is_draining() || client_conn.is_outdated(service)
        };
        if self.going.is_none() && leaves() {
            self.going = Some(now);
            link.leave();
            cx.waker().wake_by_ref();
        }
        let gone =
            self.going.is_some_and(|since| streams.is_idle() && now >= since + GOAWAY_TIMEOUT);
        if io.is_too_slow(now) {
            // For the answers that end with the connection.
            client_conn.ended.set(Some(Reason::ClientTooSlow));
            return Poll::Ready(());
        }
        if gone {
            return Poll::Ready(());
        }
        if service.worker.local.phase() == Phase::Cutting {
            self.turns -= 1;
            if self.turns == 0 || streams.is_idle() {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
        }
        if let Some(deadline) = io.deadline() {
            streams.timer.set_at(deadline);
        } else if rung && self.going.is_some() {
            streams.timer.set(GOAWAY_TIMEOUT);
        } else if rung {
            let since = if streams.is_idle() { streams.used() } else { now };
            streams.timer.set_at(since + self.idle + TICK);
        }
        if rung {
            let _ = streams.timer.poll(cx);
        }
        Poll::Pending
    }
}
