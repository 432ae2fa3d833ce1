//! HTTP/1 clients: one connection, one request after another.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::Method;
use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::generation::site::Action;
use crate::generation::{Decision, Route, Site};
use crate::message::forward::{Edits, Origin, Sent, field, write_request, write_response};
use crate::message::scan::{HeadScanner, Scan};
use crate::message::{Framing, Known, Reason, RequestHead, ResponseHead, Step, Version};
use crate::net::clock::TICK;
use crate::net::relay::Side;
use crate::net::{Alarm, Io, Local, Outgoing, Phase};
use crate::telemetry::UpstreamMetrics;
use crate::upstream::exchange::{Failure, chunk_size, kept_for};
use crate::upstream::{BodyStep, Exchange, Upstream};

use super::accept::Admitted;
use super::acquire::{Acquired, acquire};
use super::pace::Pace;
use super::record::Record;
use super::reply::Reply;
use super::transfer::{Client, NoAnswer, Upload, await_head, is_switch, may_repeat};
use super::{Facts, Service, Worker, tunnel};

/// Bytes read ahead while an answer is awaited: pipelined requests, early WebSocket frames.
const READ_AHEAD: usize = 64 * 1024;
/// Chunks smaller than this are copied so that they leave together with what follows.
const SMALL: usize = 4 * 1024;

/// A client's connection.
struct Conn<T> {
    io: T,
    input: BytesMut,
    out: Outgoing,
    alarm: Alarm,
    local: Rc<Local>,
}

/// What becomes of the connection after a request.
enum Next {
    /// It carries another.
    KeepAlive,
    /// It is closed; unread bytes of the client are waited for, so that a reset does not take the
    /// answer away from it.
    Close,
    /// It is cut: the answer is incomplete and the client must notice.
    Cut,
    /// It has become a tunnel.
    Tunnel(Side<crate::upstream::Stream>, Box<Record>),
}

/// Serves one connection until it closes.
pub(super) async fn serve<T: Io>(service: &Rc<Service>, facts: Facts, io: T, admitted: Admitted) {
    let worker = &service.worker;
    let facts = Rc::new(facts);
    let mut conn = Conn {
        io,
        input: BytesMut::new(),
        out: Outgoing::new(),
        alarm: worker.local.clock.alarm(),
        local: Rc::clone(&worker.local),
    };
    loop {
        let site = service.site.load_full();
        let head = match conn.read_head(&site).await {
            Ok(Some(head)) => RequestHead::parse(head, site.limits.header_count),
            Ok(None) => break,
            Err(reason) => Err(reason),
        };
        let next = match head {
            Ok(head) => {
                let record = Box::new(Record::of(worker, &facts, &site, &head));
                let request = Request { worker, facts: &facts, site: &site, head };
                request.serve(&mut conn, record).await
            }
            Err(reason) => {
                let mut record = Record::refused(worker, &facts, &site);
                record.reason = Some(reason);
                record.status = reason.code();
                if reason != Reason::ClientGone {
                    let reply = Reply::refusal(reason, &record.id);
                    reply.write(conn.out.staged(), worker, &record.id, None, true);
                }
                Next::Close
            }
        };
        match next {
            Next::KeepAlive if conn.flush(&site).await.is_ok() => {}
            Next::KeepAlive | Next::Cut => return,
            Next::Close => break conn.linger(&site).await,
            Next::Tunnel(upstream, record) => {
                if conn.flush(&site).await.is_err() {
                    return;
                }
                let client = Side { io: conn.io, early: conn.input.freeze() };
                let idle = site.timeouts.tunnel_idle;
                return tunnel::spawn(&worker.local, client, upstream, idle, (record, Some(admitted)));
            }
        }
    }
    let _ = poll_fn(|cx| Pin::new(&mut conn.io).poll_shutdown(cx)).await;
}

impl<T: Io> Conn<T> {
    /// Waits for a whole head; `None` if the client closed or the worker drains before one began.
    async fn read_head(&mut self, site: &Site) -> Result<Option<Bytes>, Reason> {
        let mut scanner = HeadScanner::default();
        let mut begun = false;
        self.alarm.set(site.timeouts.keep_alive);
        poll_fn(|cx| {
            loop {
                // RFC 9112 section 2.2: an empty line before the request line is ignored.
                while self.input.starts_with(b"\r\n") {
                    self.input.advance(2);
                }
                if !self.input.is_empty() && !std::mem::replace(&mut begun, true) {
                    self.alarm.set(site.timeouts.header);
                }
                match scanner.scan(&self.input) {
                    Scan::Ends(end) if end > site.limits.header_size => {
                        return Poll::Ready(Err(Reason::HeaderTooLarge));
                    }
                    Scan::Ends(end) => {
                        let head = self.input.split_to(end).freeze();
                        if self.input.is_empty() {
                            self.input = BytesMut::new();
                        }
                        return Poll::Ready(Ok(Some(head)));
                    }
                    Scan::BareLf => return Poll::Ready(Err(Reason::BareLf)),
                    Scan::Partial if self.input.len() > site.limits.header_size => {
                        return Poll::Ready(Err(Reason::HeaderTooLarge));
                    }
                    Scan::Partial => {}
                }
                match self.poll_fill(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => {
                        return Poll::Ready(if begun { Err(Reason::ClientGone) } else { Ok(None) });
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            let due = self.alarm.poll(cx).is_ready();
            match (begun, due || (!begun && self.local.phase() != Phase::Serving)) {
                (_, false) => Poll::Pending,
                (true, true) => Poll::Ready(Err(Reason::HeaderTimeout)),
                (false, true) => Poll::Ready(Ok(None)),
            }
        })
        .await
    }

    /// Reads once into `input`.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (io, input) = (&mut self.io, &mut self.input);
        self.local.with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
            input.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// Sends what is staged, within the time a client may take.
    async fn flush(&mut self, site: &Site) -> io::Result<()> {
        if self.out.is_empty() && self.try_flush().await? {
            return Ok(());
        }
        self.alarm.set(site.timeouts.body_idle);
        poll_fn(|cx| match self.out.poll_flush(cx, &mut self.io) {
            Poll::Pending if self.alarm.poll(cx).is_ready() => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            other => other,
        })
        .await
    }

    async fn try_flush(&mut self) -> io::Result<bool> {
        poll_fn(|cx| match self.out.poll_flush(cx, &mut self.io) {
            Poll::Ready(done) => Poll::Ready(done.map(|()| true)),
            Poll::Pending => Poll::Ready(Ok(false)),
        })
        .await
    }

    /// Sends what is staged, says that nothing follows, and reads on for a moment.
    async fn linger(&mut self, site: &Site) {
        if self.flush(site).await.is_err() {
            return;
        }
        self.alarm.set(super::CONTINUE * 2);
        poll_fn(|cx| {
            if Pin::new(&mut self.io).poll_shutdown(cx).is_pending() {
                return self.alarm.poll(cx);
            }
            for _ in 0..16 {
                self.input.clear();
                match self.poll_fill(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => return self.alarm.poll(cx),
                }
            }
            cx.waker().wake_by_ref();
            self.alarm.poll(cx)
        })
        .await;
    }

    /// Ready when the client has closed. Reads ahead, up to a limit, to find out.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.len() < READ_AHEAD {
            if matches!(ready!(self.poll_fill(cx)), Ok(0) | Err(_)) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

/// A connection with the request body that is being read from it.
struct Sender<'a, T> {
    conn: &'a mut Conn<T>,
    upload: Upload,
    version: Version,
}

impl<T: Io> Client for Sender<'_, T> {
    fn poll_upload(&mut self, cx: &mut Context<'_>, exchange: &mut Exchange) -> Result<(), Reason> {
        let (conn, upload) = (&mut *self.conn, &mut self.upload);
        let local = Rc::clone(&conn.local);
        while !upload.is_done() && !upload.held && exchange.takes_more() {
            if !conn.input.is_empty() {
                let mut at = 0;
                let result = feed(upload, cx, (&local, exchange), &conn.input, &mut at);
                conn.input.advance(at);
                result?;
                continue;
            }
            conn.input = BytesMut::new();
            let (io, input) = (&mut conn.io, &mut conn.input);
            let read = local.with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(io).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Reason::ClientGone)),
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                        return Poll::Ready(Err(Reason::ClientGone));
                    }
                    Poll::Ready(Ok(())) => {}
                }
                let mut at = 0;
                let result = feed(upload, cx, (&local, exchange), buffer.filled(), &mut at);
                input.extend_from_slice(buffer.filled().get(at..).unwrap_or_default());
                Poll::Ready(result)
            });
            match read {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    upload.pace.wait(local.clock.now());
                    return Ok(());
                }
            }
        }
        // Held up by the upstream, or done: the client is not waited for.
        if upload.pace.moved(local.clock.now(), 0) { Ok(()) } else { Err(Reason::BodyTooSlow) }
    }

    fn upload(&mut self) -> &mut Upload {
        &mut self.upload
    }

    fn interim(&mut self, _: &mut Context<'_>, head: Option<&ResponseHead>) {
        if self.version != Version::Http11 {
            return;
        }
        let out = self.conn.out.staged();
        match head {
            None => out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"),
            // One that the client is not waiting for would be taken for something else.
            Some(head) if head.status == 100 && !self.upload.held => {}
            Some(head) => write_response(out, head, &Edits::default(), Sent::Nothing, b""),
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(Err(_)) = self.conn.out.poll_flush(cx, &mut self.conn.io) {
            return Poll::Ready(());
        }
        if self.upload.is_done() { self.conn.poll_gone(cx) } else { Poll::Pending }
    }
}

/// Cuts body out of `input` and passes it on.
fn feed(
    upload: &mut Upload,
    cx: &mut Context<'_>,
    (local, exchange): (&Local, &mut Exchange),
    input: &[u8],
    at: &mut usize,
) -> Result<(), Reason> {
    let now = local.clock.now();
    loop {
        match upload.decoder.decode(input, at).map_err(|_| Reason::BadChunk)? {
            Step::Data(range) => {
                upload.pass(cx, now, input.get(range).unwrap_or_default(), exchange)?;
                if upload.decoder.is_done() {
                    upload.end(cx, b"", exchange);
                    return Ok(());
                }
            }
            Step::More => return Ok(()),
            Step::End => {
                let trailers = upload.decoder.trailers().map_err(|_| Reason::BadChunk)?;
                upload.end(cx, &trailers, exchange);
                return Ok(());
            }
        }
    }
}

/// One request being served.
struct Request<'a> {
    worker: &'a Rc<Worker>,
    facts: &'a Rc<Facts>,
    site: &'a Arc<Site>,
    head: RequestHead,
}

/// Where a route sends a request.
struct Target<'a> {
    route: &'a Route,
    upstream: &'a Arc<Upstream>,
    counters: &'a UpstreamMetrics,
    origin: Origin<'a>,
    first_byte: Duration,
}

impl Request<'_> {
    async fn serve<T: Io>(self, conn: &mut Conn<T>, mut record: Box<Record>) -> Next {
        let decision = match self.site.decide(&self.head) {
            Ok(decision) => decision,
            Err(refusal) => {
                if let Some(route) = &refusal.route {
                    record.on_route(route);
                }
                return self.refuse(conn, record, refusal.reason, refusal.allow);
            }
        };
        if let Decision::Route(route) = &decision {
            record.on_route(route);
        }
        if let Some(reply) = Reply::for_decision(&decision, &self.head) {
            return self.reply(conn, &mut record, &reply);
        }
        let Decision::Route(route) = decision else {
            return self.refuse(conn, record, Reason::Internal, None);
        };
        let Action::Proxy { upstream, counters, strip_prefix, first_byte } = &route.action else {
            return self.refuse(conn, record, Reason::Internal, None);
        };
        let id = record.id;
        let origin = Origin {
            client: self.facts.client.ip(),
            trusted: self.site.trusts(self.facts.client),
            strip_prefix: strip_prefix.as_deref(),
            request_id: id.as_str(),
        };
        let target = Target { route: &route, upstream, counters, origin, first_byte: *first_byte };
        self.proxy(conn, record, &target).await
    }

    async fn proxy<T: Io>(&self, conn: &mut Conn<T>, mut record: Box<Record>, target: &Target<'_>) -> Next {
        let timeouts = &self.site.timeouts;
        let upload = Upload::new(&self.head, target.route.max_body, timeouts.body_idle, timeouts.min_rate);
        let alarm = self.worker.local.clock.alarm();
        let mut sender = Sender { conn, upload, version: self.head.version };
        let mut fresh = false;
        loop {
            let acquired = match self.acquire(&mut sender, target, fresh).await {
                Ok(acquired) => acquired,
                Err((reason, detail)) => {
                    record.detail = detail;
                    return self.refuse(sender.conn, record, reason, None);
                }
            };
            record.on_endpoint(target.upstream, &acquired.endpoint);
            let mut request = Vec::with_capacity(512);
            write_request(&mut request, &self.head, &target.origin, None);
            let head_request = self.head.method == Method::HEAD;
            let begun = Exchange::begin(acquired.stream, acquired.reused, request, self.head.framing, head_request);
            let mut exchange = match begun {
                Ok(exchange) => exchange,
                Err(failure) => return self.refuse(sender.conn, record, failure.reason, None),
            };
            let local = &self.worker.local;
            let answer = await_head(&mut sender, &mut exchange, local, &alarm, target.first_byte).await;
            record.request_bytes = sender.upload.bytes;
            let head = match answer {
                Ok(head) if head.status == 101 => return self.switch(sender, record, exchange, &head, target.route),
                Ok(head) => head,
                Err(NoAnswer::Upstream(failure)) if !fresh && self.may_repeat(&failure, &exchange, target.route) => {
                    fresh = true;
                    continue;
                }
                Err(NoAnswer::Upstream(Failure { reason, .. }) | NoAnswer::Client(reason)) => {
                    return self.refuse(sender.conn, record, reason, None);
                }
            };
            record.answered(head.status);
            let answer = Answer { head: &head, route: target.route, idle: target.upstream.limits.idle };
            let next = self.answer(&mut sender, &mut record, &mut exchange, (&answer, &alarm)).await;
            if let Some(stream) = exchange.into_idle() {
                let limits = &target.upstream.limits;
                let keep = kept_for(limits.keep_alive, &head);
                self.worker.pool.put(acquired.endpoint.identity, stream, keep, limits.max_idle);
            }
            return next;
        }
    }

    fn may_repeat(&self, failure: &Failure, exchange: &Exchange, route: &Route) -> bool {
        failure.silent
            && failure.reason == Reason::UpstreamClosed
            && exchange.is_reused()
            && may_repeat(&self.head, route.retry)
    }

    /// Gets a connection, unless the client goes first.
    async fn acquire<T: Io>(
        &self,
        sender: &mut Sender<'_, T>,
        target: &Target<'_>,
        fresh: bool,
    ) -> Result<Acquired, (Reason, Option<String>)> {
        let mut acquiring = pin!(acquire(self.worker, target.upstream, target.counters, fresh));
        poll_fn(|cx| match acquiring.as_mut().poll(cx) {
            Poll::Ready(Ok(acquired)) => Poll::Ready(Ok(acquired)),
            Poll::Ready(Err(None)) => Poll::Ready(Err((Reason::UpstreamConnect, None))),
            Poll::Ready(Err(Some(error))) => Poll::Ready(Err((error.reason, Some(error.to_string())))),
            Poll::Pending => sender.poll_gone(cx).map(|()| Err((Reason::ClientGone, None))),
        })
        .await
    }

    /// Passes the answer on.
    async fn answer<T: Io>(
        &self,
        sender: &mut Sender<'_, T>,
        record: &mut Record,
        exchange: &mut Exchange,
        (answer, alarm): (&Answer<'_>, &Alarm),
    ) -> Next {
        // A body that is still on its way, or was never asked for, leaves the connection in a
        // state that only closing it resolves.
        let kept = self.head.keep_alive
            && self.worker.local.phase() == Phase::Serving
            && exchange.is_sent()
            && !sender.upload.held;
        let sent = answer.sent(self.head.version);
        let mut tail = Vec::with_capacity(96);
        field(&mut tail, "X-Request-Id", record.id.as_str().as_bytes());
        if !kept {
            field(&mut tail, "Connection", b"close");
        }
        write_response(sender.conn.out.staged(), answer.head, &answer.route.edits, sent, &tail);
        let timeouts = &self.site.timeouts;
        let mut download = Download {
            chunked: sent == Sent::Chunked,
            staged: true,
            ended: false,
            bytes: 0,
            pace: Pace::new(timeouts.body_idle, timeouts.min_rate),
            idle: answer.idle,
            silent_since: None,
        };
        let result = poll_fn(|cx| download.poll(cx, sender, exchange, alarm)).await;
        record.request_bytes = sender.upload.bytes;
        record.response_bytes = download.bytes;
        match result {
            Ok(()) if kept => Next::KeepAlive,
            Ok(()) => Next::Close,
            Err(reason) => {
                record.reason = Some(reason);
                Next::Cut
            }
        }
    }

    /// Becomes a tunnel after a 101 that was asked for.
    fn switch<T: Io>(
        &self,
        sender: Sender<'_, T>,
        mut record: Box<Record>,
        exchange: Exchange,
        head: &ResponseHead,
        route: &Route,
    ) -> Next {
        if !self.head.upgrade || !is_switch(head) {
            return self.refuse(sender.conn, record, Reason::UpstreamBadAnswer, None);
        }
        record.answered(101);
        let mut tail = b"Connection: Upgrade\r\nUpgrade: websocket\r\n".to_vec();
        field(&mut tail, "X-Request-Id", record.id.as_str().as_bytes());
        write_response(sender.conn.out.staged(), head, &route.edits, Sent::Nothing, &tail);
        Next::Tunnel(exchange.into_tunnel(), Box::new(record.into_tunnel()))
    }

    /// Answers with a refusal.
    fn refuse<T: Io>(&self, conn: &mut Conn<T>, mut record: Box<Record>, reason: Reason, allow: Option<String>) -> Next {
        record.reason = Some(reason);
        record.status = reason.code();
        if reason == Reason::ClientGone {
            return Next::Cut;
        }
        let reply = Reply { allow, ..Reply::refusal(reason, &record.id) };
        self.reply(conn, &mut record, &reply)
    }

    fn reply<T: Io>(&self, conn: &mut Conn<T>, record: &mut Record, reply: &Reply) -> Next {
        record.status = reply.status.as_u16();
        record.response_bytes = reply.body.len() as u64;
        let kept = self.head.keep_alive
            && self.head.framing == Framing::None
            && self.worker.local.phase() == Phase::Serving;
        reply.write(conn.out.staged(), self.worker, &record.id, Some(&self.head.method), !kept);
        if kept { Next::KeepAlive } else { Next::Close }
    }
}

/// An answer and what applies to it.
struct Answer<'a> {
    head: &'a ResponseHead,
    route: &'a Route,
    idle: Duration,
}

impl Answer<'_> {
    /// How its body is framed for this client.
    fn sent(&self, version: Version) -> Sent {
        let stated = || {
            let length = self.head.fields.first(Known::ContentLength)?;
            std::str::from_utf8(length).ok()?.parse().ok()
        };
        match self.head.framing {
            Framing::Length(length) => Sent::Length(length),
            // To HEAD, and in 304, the length is that of what is not sent.
            Framing::None if self.head.status >= 200 && self.head.status != 204 => {
                stated().map_or(Sent::Nothing, Sent::Length)
            }
            Framing::None => Sent::Nothing,
            Framing::Chunked | Framing::Close if version == Version::Http11 => Sent::Chunked,
            Framing::Chunked | Framing::Close => Sent::Close,
        }
    }
}

/// The body of an answer on its way to the client.
struct Download {
    chunked: bool,
    /// The head is staged and may leave with the first of the body.
    staged: bool,
    ended: bool,
    bytes: u64,
    pace: Pace,
    idle: Duration,
    silent_since: Option<Instant>,
}

impl Download {
    fn poll<T: Io>(
        &mut self,
        cx: &mut Context<'_>,
        sender: &mut Sender<'_, T>,
        exchange: &mut Exchange,
        alarm: &Alarm,
    ) -> Poll<Result<(), Reason>> {
        if !sender.upload.is_done()
            && let Err(reason) = sender.poll_upload(cx, exchange)
        {
            return Poll::Ready(Err(reason));
        }
        let _ = exchange.poll_flush(cx);
        let before = self.bytes;
        let blocked = match self.advance(cx, sender.conn, exchange) {
            Poll::Ready(Ok(Flow::Done)) => return Poll::Ready(Ok(())),
            Poll::Ready(Ok(Flow::Again)) => {
                cx.waker().wake_by_ref();
                false
            }
            Poll::Ready(Ok(Flow::Waiting)) => false,
            Poll::Ready(Err(reason)) => return Poll::Ready(Err(reason)),
            Poll::Pending => true,
        };
        if sender.upload.is_done() && sender.conn.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Reason::ClientGone));
        }
        let now = sender.conn.local.clock.now();
        if !self.pace.moved(now, self.bytes - before) {
            return Poll::Ready(Err(Reason::ClientTooSlow));
        }
        if blocked {
            self.pace.wait(now);
            self.silent_since = None;
        } else if self.bytes != before {
            self.silent_since = Some(now);
        } else {
            self.silent_since.get_or_insert(now);
        }
        self.look_at_clock(cx, &sender.upload, alarm, now)
    }

    fn look_at_clock(&self, cx: &Context<'_>, upload: &Upload, alarm: &Alarm, now: Instant) -> Poll<Result<(), Reason>> {
        let limits = [
            (self.pace.deadline(), Reason::ClientTooSlow),
            (self.silent_since.map(|since| since + self.idle), Reason::UpstreamStalled),
            (upload.pace.deadline(), Reason::BodyTooSlow),
        ];
        if let Some(earliest) = limits.iter().filter_map(|limit| limit.0).min() {
            alarm.set_at(earliest + TICK);
        }
        if alarm.poll(cx).is_ready() {
            let passed = limits.iter().find(|limit| limit.0.is_some_and(|at| at <= now));
            if let Some((_, reason)) = passed {
                return Poll::Ready(Err(*reason));
            }
        }
        Poll::Pending
    }

    /// Moves what can be moved. Pending: the client does not take it.
    fn advance<T: Io>(&mut self, cx: &mut Context<'_>, conn: &mut Conn<T>, exchange: &mut Exchange) -> Poll<Result<Flow, Reason>> {
        for _ in 0..16 {
            let mut waiting = false;
            if !self.ended && (conn.out.is_empty() || self.staged) {
                self.staged = false;
                match self.step(cx, conn, exchange) {
                    Poll::Ready(result) => result?,
                    Poll::Pending => waiting = true,
                }
            }
            match conn.out.poll_flush(cx, &mut conn.io) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Reason::ClientGone)),
                Poll::Ready(Ok(())) if self.ended => return Poll::Ready(Ok(Flow::Done)),
                Poll::Ready(Ok(())) if waiting => return Poll::Ready(Ok(Flow::Waiting)),
                Poll::Ready(Ok(())) => {}
            }
        }
        Poll::Ready(Ok(Flow::Again))
    }

    fn step<T: Io>(&mut self, cx: &mut Context<'_>, conn: &mut Conn<T>, exchange: &mut Exchange) -> Poll<Result<(), Reason>> {
        let Conn { io, out, local, .. } = conn;
        let (chunked, mut moved, mut gone) = (self.chunked, 0, false);
        let mut sink = |cx: &mut Context<'_>, data: &[u8]| {
            moved += data.len() as u64;
            let mut size = [0; 18];
            let written = if !chunked {
                out.write(cx, io, [data, &[], &[]])
            } else if data.len() < SMALL {
                let staged = out.staged();
                for part in [chunk_size(&mut size, data.len()), data, b"\r\n"] {
                    staged.extend_from_slice(part);
                }
                Ok(())
            } else {
                out.write(cx, io, [chunk_size(&mut size, data.len()), data, b"\r\n"])
            };
            gone |= written.is_err();
        };
        let step = exchange.poll_body(cx, local, &mut sink);
        self.bytes += moved;
        if gone {
            return Poll::Ready(Err(Reason::ClientGone));
        }
        match ready!(step) {
            Ok(BodyStep::Some) => Poll::Ready(Ok(())),
            Ok(BodyStep::End(trailers)) => {
                self.ended = true;
                if chunked {
                    let staged = out.staged();
                    for part in [b"0\r\n", trailers.as_slice(), b"\r\n"] {
                        staged.extend_from_slice(part);
                    }
                }
                Poll::Ready(Ok(()))
            }
            Err(reason) => Poll::Ready(Err(reason)),
        }
    }
}

/// What a turn of moving bytes came to.
enum Flow {
    /// All of it has been sent.
    Done,
    /// The upstream has no more at present.
    Waiting,
    /// There may be more; others get their turn first.
    Again,
}
