//! HTTP/2 clients, served by hyper; each stream becomes one HTTP/1.1 exchange upstream.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::ext::Protocol;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::generation::site::Action;
use crate::generation::{Decision, Route, Site};
use crate::message::forward::{Edits, Origin, passed_fields, write_request};
use crate::message::{Framing, Known, Reason, RequestHead, ResponseHead};
use crate::net::clock::TICK;
use crate::net::relay::Side;
use crate::net::{Alarm, Clock, Io, Phase};
use crate::upstream::exchange::kept_for;
use crate::upstream::{BodyStep, Exchange, Stream, Upstream};

use super::accept::Admitted;
use super::acquire::acquire;
use super::record::Record;
use super::reply::Reply;
use super::transfer::{Client, NoAnswer, Upload, await_head, is_switch, may_repeat};
use super::{Facts, Service, Worker, tunnel};

/// Receive window of a connection: enough to keep a fast uploader busy, shared by its streams.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Receive window of a stream.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes of answers hyper may hold for a stream that the client has not made room for.
const SEND_BUFFER: usize = 64 << 10;
/// How long a connection that has been told to go may take to do so.
const GOING: Duration = Duration::from_secs(5);

/// What the streams of one connection share.
struct Streams {
    clock: Clock,
    open: Cell<usize>,
    used: Cell<Instant>,
    /// The stream whose task is running.
    current: RefCell<Option<Rc<Stall>>>,
}

/// Whether a stream waits for its client to make room.
#[derive(Default)]
struct Stall {
    deadline: Cell<Option<Instant>>,
}

/// Serves one connection until it closes.
pub(super) async fn serve<T: Io>(service: &Rc<Service>, facts: Facts, io: T, _admitted: Admitted) {
    let worker = &service.worker;
    let clock = worker.local.clock.clone();
    let site = service.site.load_full();
    let facts = Rc::new(facts);
    let streams = Rc::new(Streams {
        used: Cell::new(clock.now()),
        open: Cell::new(0),
        current: RefCell::default(),
        clock: clock.clone(),
    });
    let blocked = Rc::new(Cell::new(None));
    let io = Watched { io, clock: clock.clone(), blocked: Rc::clone(&blocked) };
    let answer = service_fn(|request| {
        let stream = H2Request {
            service: Rc::clone(service),
            site: service.site.load_full(),
            facts: Rc::clone(&facts),
            stall: streams.current.borrow().clone().unwrap_or_default(),
        };
        async move { Ok::<_, Infallible>(stream.answer(request).await) }
    });
    let mut builder = http2::Builder::new(Spawner(Rc::clone(&streams)));
    builder
        .enable_connect_protocol()
        .auto_date_header(false)
        .max_concurrent_streams(site.limits.streams)
        .max_header_list_size(u32::try_from(site.limits.header_size).unwrap_or(u32::MAX))
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), answer));
    let alarm = clock.alarm();
    let mut going: Option<Instant> = None;
    let (idle, stall) = (site.timeouts.keep_alive, site.timeouts.body_idle);
    alarm.set(idle.min(stall));
    poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let rung = alarm.poll(cx).is_ready();
        let phase = worker.local.phase();
        let now = clock.now();
        let unused = streams.open.get() == 0 && rung && now >= streams.used.get() + idle;
        if going.is_none() && (phase != Phase::Serving || unused) {
            going = Some(now);
            connection.as_mut().graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        let gone = going.is_some_and(|since| streams.open.get() == 0 && now >= since + GOING);
        let stuck = blocked.get().is_some_and(|since| now >= since + stall);
        if phase == Phase::Cutting || gone || stuck {
            return Poll::Ready(());
        }
        if rung {
            alarm.set(if going.is_some() { GOING } else { idle.min(stall) });
            let _ = alarm.poll(cx);
        }
        Poll::Pending
    })
    .await;
}

/// Runs the tasks of a connection's streams, and ends one whose client makes no room for too long:
/// hyper asks for no more of an answer then, so nothing inside it could notice.
#[derive(Clone)]
struct Spawner(Rc<Streams>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, task: F) {
        let open = OpenStream::new(Rc::clone(&self.0));
        tokio::task::spawn_local(async move {
            let mut task = pin!(task);
            let stall = Rc::<Stall>::default();
            let alarm = open.0.clock.alarm();
            poll_fn(|cx| {
                open.0.current.replace(Some(Rc::clone(&stall)));
                let done = task.as_mut().poll(cx);
                open.0.current.replace(None);
                let Some(deadline) = stall.deadline.get().filter(|_| done.is_pending()) else { return done };
                alarm.set_at(deadline + TICK);
                alarm.poll(cx)
            })
            .await;
        });
    }
}

struct OpenStream(Rc<Streams>);

impl OpenStream {
    fn new(streams: Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Self(streams)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.used.set(self.0.clock.now());
    }
}

/// One request being served.
struct H2Request {
    service: Rc<Service>,
    site: Arc<Site>,
    facts: Rc<Facts>,
    stall: Rc<Stall>,
}

impl H2Request {
    async fn answer(self, mut request: Request<Incoming>) -> Response<AnswerBody> {
        let worker = Rc::clone(&self.service.worker);
        let protocol = request.extensions().get::<Protocol>().map(|p| p.as_str().eq_ignore_ascii_case("websocket"));
        let upgrade = (protocol == Some(true)).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let head = RequestHead::from_h2(&parts, upgrade.is_some(), body.is_end_stream());
        let head = head.and_then(|head| if protocol == Some(false) { Err(Reason::BadUpgrade) } else { Ok(head) });
        let head = head.and_then(|head| {
            if head.fields.len() > self.site.limits.header_count { Err(Reason::HeaderTooLarge) } else { Ok(head) }
        });
        let head = match head {
            Ok(head) => head,
            Err(reason) => {
                let mut record = Record::refused(&worker, &self.facts, &self.site);
                return refuse(&mut record, reason, None);
            }
        };
        let mut record = Box::new(Record::of(&worker, &self.facts, &self.site, &head));
        let decision = match self.site.decide(&head) {
            Ok(decision) => decision,
            Err(refusal) => {
                if let Some(route) = &refusal.route {
                    record.on_route(route);
                }
                return refuse(&mut record, refusal.reason, refusal.allow);
            }
        };
        if let Decision::Route(route) = &decision {
            record.on_route(route);
        }
        if let Some(reply) = Reply::for_decision(&decision, &head) {
            return own(&mut record, reply);
        }
        let Decision::Route(route) = decision else { return refuse(&mut record, Reason::Internal, None) };
        let timeouts = &self.site.timeouts;
        let mut sender = Sender {
            upload: Upload::new(&head, route.max_body, timeouts.body_idle, timeouts.min_rate),
            body,
            stated: match head.framing {
                Framing::Length(length) => Some(length),
                _ => None,
            },
            clock: worker.local.clock.clone(),
        };
        let key = upgrade.is_some().then(tunnel::new_key);
        let asked = Asked { head: &head, route: &route, key: key.as_deref() };
        match self.exchange(&mut sender, &mut record, &asked).await {
            Err((reason, detail)) => {
                record.detail = detail;
                refuse(&mut record, reason, None)
            }
            Ok(answered) if answered.head.status == 101 => match (upgrade, key) {
                (Some(upgrade), Some(key)) => self.switch(upgrade, &key, record, answered, &route),
                _ => refuse(&mut record, Reason::UpstreamBadAnswer, None),
            },
            Ok(answered) => self.relay(sender, record, answered, &route),
        }
    }

    /// Sends the request and waits for the head of the answer.
    async fn exchange(
        &self,
        sender: &mut Sender,
        record: &mut Record,
        asked: &Asked<'_>,
    ) -> Result<Answered, (Reason, Option<String>)> {
        let worker = &self.service.worker;
        let Action::Proxy { upstream, counters, strip_prefix, first_byte } = &asked.route.action else {
            return Err((Reason::Internal, None));
        };
        let id = record.id;
        let origin = Origin {
            client: self.facts.client.ip(),
            trusted: self.site.trusts(self.facts.client),
            strip_prefix: strip_prefix.as_deref(),
            request_id: id.as_str(),
        };
        let alarm = worker.local.clock.alarm();
        let mut fresh = false;
        loop {
            let acquired = acquire(worker, upstream, counters, fresh).await.map_err(|error| {
                error.map_or((Reason::UpstreamConnect, None), |e| (e.reason, Some(e.to_string())))
            })?;
            record.on_endpoint(upstream, &acquired.endpoint);
            let mut request = Vec::with_capacity(512);
            write_request(&mut request, asked.head, &origin, asked.key);
            let head_request = asked.head.method == Method::HEAD;
            let mut exchange =
                Exchange::begin(acquired.stream, acquired.reused, request, asked.head.framing, head_request)
                    .map_err(|failure| (failure.reason, None))?;
            let answer = await_head(sender, &mut exchange, &worker.local, &alarm, *first_byte).await;
            record.request_bytes = sender.upload.bytes;
            match answer {
                Ok(head) => {
                    let identity = acquired.endpoint.identity;
                    return Ok(Answered { head, exchange, upstream: Arc::clone(upstream), identity, alarm });
                }
                Err(NoAnswer::Upstream(failure))
                    if failure.silent
                        && failure.reason == Reason::UpstreamClosed
                        && exchange.is_reused()
                        && !fresh
                        && may_repeat(asked.head, asked.route.retry) =>
                {
                    fresh = true;
                }
                Err(NoAnswer::Upstream(failure)) => return Err((failure.reason, None)),
                Err(NoAnswer::Client(reason)) => return Err((reason, None)),
            }
        }
    }

    /// The answer, with a body that goes on driving the exchange.
    fn relay(&self, sender: Sender, mut record: Box<Record>, answered: Answered, route: &Route) -> Response<AnswerBody> {
        record.answered(answered.head.status);
        let mut response = Response::new(AnswerBody::Empty);
        *response.status_mut() = StatusCode::from_u16(answered.head.status).unwrap_or(StatusCode::BAD_GATEWAY);
        copy_fields(response.headers_mut(), &answered.head, &route.edits, &record);
        let stated = match answered.head.framing {
            Framing::Length(length) => Some(HeaderValue::from(length)),
            Framing::None if answered.head.status != 204 => {
                answered.head.fields.first(Known::ContentLength).and_then(|v| HeaderValue::from_bytes(v).ok())
            }
            _ => None,
        };
        if let Some(length) = stated {
            response.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
        let limits = answered.upstream.limits;
        let mut relay = Box::new(Relay {
            keep: kept_for(limits.keep_alive, &answered.head),
            max_idle: limits.max_idle,
            idle: limits.idle,
            identity: answered.identity,
            exchange: Some(answered.exchange),
            alarm: answered.alarm,
            worker: Rc::clone(&self.service.worker),
            patience: self.site.timeouts.body_idle,
            stall: Rc::clone(&self.stall),
            sender,
            record,
            ready: VecDeque::new(),
            trailers: None,
            ended: false,
            silent_since: None,
        });
        if answered.head.framing == Framing::None && relay.sender.upload.is_done() {
            relay.skip_body();
        } else {
            *response.body_mut() = AnswerBody::Relay(relay);
        }
        response
    }

    /// Becomes a tunnel: 200 here for the upstream's 101 (RFC 8441 section 5).
    fn switch(
        &self,
        upgrade: hyper::upgrade::OnUpgrade,
        key: &str,
        mut record: Box<Record>,
        answered: Answered,
        route: &Route,
    ) -> Response<AnswerBody> {
        let accepted = answered.head.fields.first(Known::WebSocketAccept);
        if !is_switch(&answered.head) || accepted != Some(tunnel::accept_for(key).as_bytes()) {
            return refuse(&mut record, Reason::UpstreamBadAnswer, None);
        }
        record.answered(200);
        let mut response = Response::new(AnswerBody::Empty);
        copy_fields(response.headers_mut(), &answered.head, &route.edits, &record);
        response.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
        let upstream: Side<Stream> = answered.exchange.into_tunnel();
        let (local, idle) = (Rc::clone(&self.service.worker.local), self.site.timeouts.tunnel_idle);
        let record = Box::new(record.into_tunnel());
        self.service.worker.local.spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                let client = Side { io: TokioIo::new(upgraded), early: Bytes::new() };
                tunnel::spawn(&local, client, upstream, idle, (record, None));
            }
        });
        response
    }
}

/// A request and where it goes.
struct Asked<'a> {
    head: &'a RequestHead,
    route: &'a Route,
    key: Option<&'a str>,
}

/// An exchange whose answer has begun.
struct Answered {
    head: ResponseHead,
    exchange: Exchange,
    upstream: Arc<Upstream>,
    identity: u64,
    alarm: Alarm,
}

fn refuse(record: &mut Record, reason: Reason, allow: Option<String>) -> Response<AnswerBody> {
    record.reason = Some(reason);
    let reply = Reply { allow, ..Reply::refusal(reason, &record.id) };
    own(record, reply)
}

fn own(record: &mut Record, reply: Reply) -> Response<AnswerBody> {
    record.status = reply.status.as_u16();
    record.response_bytes = reply.body.len() as u64;
    let mut response = Response::new(AnswerBody::Empty);
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    reply.each_field(|name, value| {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
            headers.insert(name, value);
        }
    });
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
    let mut date = Vec::with_capacity(32);
    record.write_date(&mut date);
    headers.extend(HeaderValue::from_bytes(&date).map(|date| (header::DATE, date)));
    headers.extend(HeaderValue::from_str(record.id.as_str()).map(|id| (X_REQUEST_ID, id)));
    if !record.is_head() {
        *response.body_mut() = AnswerBody::Own(Some(Bytes::from(reply.body)));
    }
    response
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

fn copy_fields(to: &mut HeaderMap, head: &ResponseHead, edits: &Edits, record: &Record) {
    to.reserve(head.fields.len() + 4);
    for (_, name, value) in passed_fields(head, edits) {
        // Both were parsed; a name HTTP/2 cannot carry is one nobody could have asked for.
        let shared = head.fields.bytes().slice_ref(value);
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_maybe_shared(shared)) {
            to.append(name, value);
        }
    }
    for (name, value) in edits.set() {
        to.insert(name.clone(), value.clone());
    }
    to.extend(HeaderValue::from_str(record.id.as_str()).map(|id| (X_REQUEST_ID, id)));
}

/// The request body of a stream.
struct Sender {
    body: Incoming,
    upload: Upload,
    stated: Option<u64>,
    clock: Clock,
}

impl Client for Sender {
    fn poll_upload(&mut self, cx: &mut Context<'_>, exchange: &mut Exchange) -> Result<(), Reason> {
        let now = self.clock.now();
        while !self.upload.is_done() && exchange.takes_more() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => {
                    self.upload.pace.wait(now);
                    return Ok(());
                }
                Poll::Ready(Some(Err(_))) => return Err(Reason::ClientGone),
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.upload.pass(cx, now, data, exchange)?;
                        if self.stated.is_some_and(|stated| self.upload.bytes > stated) {
                            return Err(Reason::AmbiguousFraming);
                        }
                    }
                    // Trailers of requests are not passed on: HTTP/2 clients of Hybrid Chat send
                    // none, and a component that trusts one would trust what we cannot vouch for.
                }
                Poll::Ready(None) => {
                    if self.stated.is_some_and(|stated| self.upload.bytes != stated) {
                        return Err(Reason::AmbiguousFraming);
                    }
                    self.upload.end(cx, b"", exchange);
                }
            }
        }
        if self.upload.pace.moved(now, 0) { Ok(()) } else { Err(Reason::BodyTooSlow) }
    }

    fn upload(&mut self) -> &mut Upload {
        &mut self.upload
    }

    fn interim(&mut self, _: &mut Context<'_>, _: Option<&ResponseHead>) {}

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // hyper drops the request when its stream is reset.
        Poll::Pending
    }
}

/// The body of an answer.
enum AnswerBody {
    Empty,
    Own(Option<Bytes>),
    Relay(Box<Relay>),
}

/// Why a stream is reset instead of ended.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.word())]
struct Cut(Reason);

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Own(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Relay(relay) => relay.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Own(None) => true,
            Self::Own(Some(_)) | Self::Relay(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Own(None) => SizeHint::with_exact(0),
            Self::Own(Some(body)) => SizeHint::with_exact(body.len() as u64),
            Self::Relay(_) => SizeHint::default(),
        }
    }
}

/// An answer on its way, and the rest of the request if there is any.
struct Relay {
    exchange: Option<Exchange>,
    sender: Sender,
    record: Box<Record>,
    worker: Rc<Worker>,
    alarm: Alarm,
    stall: Rc<Stall>,
    patience: Duration,
    idle: Duration,
    identity: u64,
    keep: Duration,
    max_idle: usize,
    ready: VecDeque<Bytes>,
    trailers: Option<Vec<u8>>,
    ended: bool,
    silent_since: Option<Instant>,
}

impl Relay {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.stall.deadline.set(None);
        loop {
            if let Some(data) = self.ready.pop_front() {
                self.record.response_bytes += data.len() as u64;
                self.silent_since = None;
                self.stall.deadline.set(Some(self.worker.local.clock.now() + self.patience));
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if self.ended {
                return Poll::Ready(self.trailers.take().and_then(|text| trailer_frame(&text)).map(Ok));
            }
            if let Err(reason) = ready!(self.advance(cx)) {
                self.record.reason = Some(reason);
                self.exchange = None;
                return Poll::Ready(Some(Err(Cut(reason))));
            }
        }
    }

    /// Moves what can be moved; pending when only others can go on.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(Err(Reason::Internal)) };
        if !self.sender.upload.is_done() {
            self.sender.poll_upload(cx, exchange)?;
            self.record.request_bytes = self.sender.upload.bytes;
        }
        let _ = exchange.poll_flush(cx);
        let queue = &mut self.ready;
        let mut sink = |_: &mut Context<'_>, data: &[u8]| queue.push_back(Bytes::copy_from_slice(data));
        match exchange.poll_body(cx, &self.worker.local, &mut sink) {
            Poll::Ready(Ok(BodyStep::Some)) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(BodyStep::End(trailers))) => {
                self.trailers = (!trailers.is_empty()).then_some(trailers);
                self.finish();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(reason)) => Poll::Ready(Err(reason)),
            Poll::Pending => self.look_at_clock(cx),
        }
    }

    fn look_at_clock(&mut self, cx: &Context<'_>) -> Poll<Result<(), Reason>> {
        let now = self.worker.local.clock.now();
        let silent = *self.silent_since.get_or_insert(now) + self.idle;
        let upload = self.sender.upload.pace.deadline();
        self.alarm.set_at(upload.map_or(silent, |upload| upload.min(silent)) + TICK);
        if self.alarm.poll(cx).is_ready() {
            if upload.is_some_and(|at| at <= now) {
                return Poll::Ready(Err(Reason::BodyTooSlow));
            }
            if silent <= now {
                return Poll::Ready(Err(Reason::UpstreamStalled));
            }
        }
        Poll::Pending
    }

    /// Ends an exchange whose answer has no body.
    fn skip_body(&mut self) {
        let Some(exchange) = &mut self.exchange else { return };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let step = exchange.poll_body(&mut cx, &self.worker.local, &mut |_, _| {});
        if matches!(step, Poll::Ready(Ok(BodyStep::End(_)))) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.ended = true;
        self.stall.deadline.set(None);
        if let Some(stream) = self.exchange.take().and_then(Exchange::into_idle) {
            self.worker.pool.put(self.identity, stream, self.keep, self.max_idle);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.ended || self.record.reason.is_some() {
            return;
        }
        let now = self.worker.local.clock.now();
        let stalled = self.stall.deadline.get().is_some_and(|at| at <= now);
        self.record.reason = Some(if stalled { Reason::ClientTooSlow } else { Reason::ClientGone });
    }
}

fn trailer_frame(text: &[u8]) -> Option<Frame<Bytes>> {
    let fields = crate::message::body::trailer_fields(text).ok()?;
    let mut map = HeaderMap::with_capacity(fields.len());
    for (_, name, value) in fields.iter() {
        map.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(Frame::trailers(map))
}

/// A stream that remembers since when it could not be written to.
struct Watched<T> {
    io: T,
    clock: Clock,
    blocked: Rc<Cell<Option<Instant>>>,
}

impl<T> Watched<T> {
    fn note<R>(&self, result: Poll<R>) -> Poll<R> {
        match &result {
            Poll::Ready(_) => self.blocked.set(None),
            Poll::Pending if self.blocked.get().is_none() => self.blocked.set(Some(self.clock.now())),
            Poll::Pending => {}
        }
        result
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
