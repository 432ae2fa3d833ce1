//! Drives one HTTP/2 connection: starts its streams, and closes it in time.

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

/// Receive window of a connection, shared by its streams: enough for a fast upload.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Receive window of a stream.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes that h2 may buffer per stream before it accepts the next piece of an answer or WebSocket.
const SEND_BUFFER: usize = 16 << 10;
/// Polls of a connection when the worker closes all connections: enough for the Close frames of its
/// tunnels in both directions, twice over.
const FINAL_POLLS: u32 = 8;
/// Time for a connection to close after GOAWAY.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(5);

/// Factor of `header-size` up to which h2 accepts a head. Beyond it h2 answers with a bare 431; up
/// to it the gateway rejects the request with a reason.
const HEAD_ROOM: u32 = 2;

/// Settings for h2.
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
    /// The handshake, and whether the connection must accept no streams.
    Opening(Box<Handshake<CoalescedIo<T>, Bytes>>, bool),
    Open(Box<Connection<CoalescedIo<T>, Bytes>>),
}

impl<T: Io> Link<T> {
    /// Reads and writes frames, and passes new streams to `start`. Ready when the connection has
    /// ended.
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

    /// Sends GOAWAY, so that the connection ends after its streams.
    fn leave(&mut self) {
        match self {
            Self::Opening(_, leaves) => *leaves = true,
            Self::Open(connection) => connection.graceful_shutdown(),
        }
    }
}

/// State of a connection that its streams need.
struct Shared<'a, T> {
    service: &'a Rc<ReverseService>,
    client_conn: Rc<ClientConn>,
    streams: Rc<StreamSet>,
    io: CoalescedIo<T>,
}

impl<T: Io> Shared<'_, T> {
    /// Serves a stream in a new task. Returns false if its client has already reset it.
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
            progress: self.io.progress(),
        };
        let open = OpenStream::new(&self.streams);
        tokio::task::spawn_local(stream.run(request, respond, open));
        true
    }

    /// Whether a stream that was reset before it was served was reset by h2 and not by the client.
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

    /// Writes a log line for each kind of refusal in this poll, and one for requests that were
    /// reset by the client.
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

    /// Writes one log line for `count` streams, or for the connection.
    fn note(&self, (reason, count): (Reason, u32), status: u16, detail: String) {
        let worker = &self.service.worker;
        let mut record = RequestLog::rejected(
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
    // Copied, because an idle connection must not keep a generation in memory.
    let (limits, timeouts) = {
        let virtual_server = service.virtual_server.load();
        (virtual_server.limits.clone(), virtual_server.timeouts.clone())
    };
    let pace = MinRate::new(timeouts.body_idle, timeouts.min_rate);
    let io = CoalescedIo::new(io, clock.clone(), pace);
    let mut link = Link::Opening(Box::new(settings(&limits).handshake(io.clone())), false);
    let streams = StreamSet::new(&clock, &service.worker.metrics.http2_send_buffer);
    let shared = Shared { service, client_conn: Rc::new(client_conn), streams, io };
    let mut ending = Ending { leaving_since: None, turns: FINAL_POLLS, idle: timeouts.keep_alive };
    shared.streams.timer.set(timeouts.keep_alive);
    poll_fn(|cx| {
        let mut withdrawn = 0;
        let ended = link.poll(cx, |cx, request, respond| {
            withdrawn += u32::from(!shared.start(cx, request, respond));
        });
        // If the stream is not writable now, it wakes the task later.
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

/// Shutdown state of a connection.
struct Ending {
    leaving_since: Option<Instant>,
    turns: u32,
    idle: Duration,
}

impl Ending {
    /// Ready when the connection must be closed now.
    fn poll<T: Io>(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared<'_, T>,
        link: &mut Link<T>,
    ) -> Poll<()> {
        let Shared { service, client_conn, streams, io } = shared;
        let fired = streams.timer.poll(cx).is_ready();
        let now = service.worker.local.clock.now();
        let unused = fired && streams.is_idle() && now >= streams.used() + self.idle;
        let leaves = || {
            unused || streams.leaves() || service.is_draining() || client_conn.is_outdated(service)
        };
        if self.leaving_since.is_none() && leaves() {
            self.leaving_since = Some(now);
            link.leave();
            cx.waker().wake_by_ref();
        }
        let gone = self
            .leaving_since
            .is_some_and(|since| streams.is_idle() && now >= since + GOAWAY_TIMEOUT);
        if io.is_too_slow(now) {
            // The reason for the requests that end with the connection.
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
        if let Some(deadline) = io.next_check() {
            streams.timer.set_at(deadline);
        } else if fired && self.leaving_since.is_some() {
            streams.timer.set(GOAWAY_TIMEOUT);
        } else if fired {
            let since = if streams.is_idle() { streams.used() } else { now };
            streams.timer.set_at(since + self.idle + TICK);
        }
        if fired {
            let _ = streams.timer.poll(cx);
        }
        Poll::Pending
    }
}
