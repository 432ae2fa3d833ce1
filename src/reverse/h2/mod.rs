//! HTTP/2 clients, served by hyper; each stream becomes one HTTP/1.1 exchange upstream.

mod body;
mod gather;
mod streams;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use hyper::ext::Protocol;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::downstream::Reply;
use crate::downstream::accept::{Admitted, Door as _};
use crate::downstream::transfer::{NoAnswer, Upload, await_head, is_stale, is_switch, may_repeat};
use crate::generation::site::Way;
use crate::generation::{Decision, Route, Site};
use crate::message::forward::{Edits, passed_fields, write_request};
use crate::message::{Framing, Known, Reason, RequestHead, ResponseHead};
use crate::net::relay::Side;
use crate::net::{Alarm, Io, Phase};
use crate::upstream::exchange::kept_for;
use crate::upstream::{Exchange, Upstream};

use super::acquire::{Errand, Unreachable, acquire};
use super::record::Record;
use super::self_test::{self, Own};
use super::{Facts, Service, reply, tunnel};
use body::{AnswerBody, Relay, Sender};
use gather::Gathered;
use streams::{Spawner, Stall, Streams};

/// Receive window of a connection: enough to keep a fast uploader busy, shared by its streams.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Receive window of a stream.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes of answers hyper may hold for a stream that the client has not made room for.
const SEND_BUFFER: usize = 64 << 10;
/// Turns a connection gets when the worker cuts, for the Close frames of its tunnels: theirs, that
/// of hyper's task between them and the connection, and its own, and as many again.
const LAST_TURNS: u32 = 8;
/// How long a connection that has been told to go may take to do so.
const GOING: Duration = Duration::from_secs(5);

/// Serves one connection until it closes.
pub(super) async fn serve<T: Io>(service: &Rc<Service>, facts: Facts, io: T, _admitted: Admitted) {
    let worker = &service.worker;
    let clock = worker.local.clock.clone();
    // Copied: a connection that waits must not keep a configuration alive.
    let (limits, timeouts) = {
        let site = service.site.load();
        (site.limits.clone(), site.timeouts.clone())
    };
    let facts = Rc::new(facts);
    let streams = Rc::new(Streams {
        used: Cell::new(clock.now()),
        open: Cell::new(0),
        current: RefCell::default(),
        clock: clock.clone(),
        alarm: clock.alarm(),
        leaves: Cell::new(false),
    });
    let io = Gathered::new(io, clock.clone());
    let answer = service_fn(|request| {
        let stream = H2Request {
            service: Rc::clone(service),
            site: service.site.load_full(),
            facts: Rc::clone(&facts),
            streams: Rc::clone(&streams),
            stall: Rc::default(),
        };
        // Boxed: hyper and the spawner move it several times before it is polled.
        Box::pin(async move {
            // Only here is it the stream's own task that runs.
            let stall = stream.streams.current.borrow().clone().unwrap_or_default();
            Ok::<_, Infallible>(H2Request { stall, ..stream }.answer(request).await)
        })
    });
    let mut builder = http2::Builder::new(Spawner(Rc::clone(&streams)));
    builder
        .enable_connect_protocol()
        .auto_date_header(false)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_size).unwrap_or(u32::MAX))
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io.clone()), answer));
    let alarm = &streams.alarm;
    let mut going: Option<Instant> = None;
    let mut last_turns = LAST_TURNS;
    let (idle, stall) = (timeouts.keep_alive, timeouts.body_idle);
    alarm.set(idle.min(stall));
    poll_fn(|cx| {
        let ended = connection.as_mut().poll(cx).is_ready();
        // If the stream takes no more now, it wakes the task for another turn when it does.
        let sent = io.poll_send(cx);
        if ended || matches!(sent, Poll::Ready(Err(_))) {
            return Poll::Ready(());
        }
        let rung = alarm.poll(cx).is_ready();
        let now = clock.now();
        let unused = streams.open.get() == 0 && rung && now >= streams.used.get() + idle;
        let leaves =
            || unused || streams.leaves.get() || service.is_going() || facts.is_outdated(service);
        if going.is_none() && leaves() {
            going = Some(now);
            connection.as_mut().graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        let gone = going.is_some_and(|since| streams.open.get() == 0 && now >= since + GOING);
        let stuck = io.blocked().is_some_and(|since| now >= since + stall);
        if gone || stuck {
            return Poll::Ready(());
        }
        if worker.local.phase() == Phase::Cutting {
            last_turns -= 1;
            if last_turns == 0 || streams.open.get() == 0 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
        }
        if rung {
            alarm.set(if going.is_some() { GOING } else { idle.min(stall) });
            let _ = alarm.poll(cx);
        }
        Poll::Pending
    })
    .await;
}

/// One request being served.
struct H2Request {
    service: Rc<Service>,
    site: Arc<Site>,
    facts: Rc<Facts>,
    streams: Rc<Streams>,
    stall: Rc<Stall>,
}

impl H2Request {
    async fn answer(self, mut request: Request<Incoming>) -> Response<AnswerBody> {
        let worker = Rc::clone(&self.service.worker);
        let protocol = request
            .extensions()
            .get::<Protocol>()
            .map(|p| p.as_str().eq_ignore_ascii_case("websocket"));
        let upgrade = (protocol == Some(true)).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let head = RequestHead::from_h2(&parts, upgrade.is_some(), body.is_end_stream());
        let head =
            head.and_then(
                |head| if protocol == Some(false) { Err(Reason::BadUpgrade) } else { Ok(head) },
            );
        let head = head.and_then(|head| {
            if head.fields.len() > self.site.limits.header_count {
                Err(Reason::HeaderTooLarge)
            } else {
                Ok(head)
            }
        });
        let head = match head {
            Ok(head) => head,
            Err(reason) => {
                let mut record = Record::refused(&worker, &self.facts, &self.site);
                return refuse(&mut record, reason, None);
            }
        };
        let mut record = Box::new(Record::of(&worker, &self.facts, &self.site, &head));
        if !self.facts.serves(&self.site) {
            self.streams.leave();
            return refuse(&mut record, Reason::HandshakeOutdated, None);
        }
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
            if self_test::ends_connection(route, &head) {
                self.streams.leave();
            }
        }
        if let Some(reply) =
            reply::for_decision(&decision, &head, (worker.local.phase(), &record.id))
        {
            return own(&mut record, reply);
        }
        let Decision::Route(route) = decision else {
            return refuse(&mut record, Reason::Internal, None);
        };
        let timeouts = &self.site.timeouts;
        let mut sender = Sender {
            upload: Upload::new(
                &head,
                route.max_body,
                (timeouts.body_idle, timeouts.min_rate),
                record.ticket.as_ref(),
            ),
            body,
            stated: match head.framing {
                Framing::Length(length) => Some(length),
                _ => None,
            },
            trailers: Vec::new(),
            clock: worker.local.clock.clone(),
        };
        let key = upgrade.is_some().then(tunnel::new_key);
        let asked = Asked { head: &head, route: &route, key: key.as_deref() };
        match self.exchange(&mut sender, &mut record, &asked).await {
            Err(unreachable) => {
                let reply = reply::unreachable(&unreachable, &record.id, &head);
                record.detail = unreachable.detail;
                refused(&mut record, unreachable.reason, reply)
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
    ) -> Result<Answered, Unreachable> {
        let worker = &self.service.worker;
        let Some(Way { upstream, counters, strip_prefix, first_byte, .. }) =
            asked.route.action.way()
        else {
            return Err(Reason::Internal.into());
        };
        let (client, id, trace) = (record.client, record.id, record.trace);
        let hidden = (strip_prefix.as_deref(), upstream.seat_cookie());
        let origin = self.facts.origin((&self.site, client), hidden, (&id, trace.as_ref()));
        let alarm = worker.local.clock.alarm();
        let mut fresh = false;
        record.on_upstream(upstream);
        loop {
            let (to, head) = ((upstream, counters), asked.head);
            let client = self.facts.whom(&self.site, (client, &id));
            let own = Own::of(asked.route, &self.facts, &origin);
            let acquired = acquire(worker, Errand { to, head, client, fresh, own }).await?;
            let whose = acquired.whose;
            record.on_endpoint(&whose, upstream, acquired.connection.reused);
            let mut request = Vec::new();
            write_request(&mut request, asked.head, &origin, asked.key);
            let head_request = asked.head.method == Method::HEAD;
            let mut exchange =
                Exchange::begin(acquired.connection, request, asked.head.framing, head_request)
                    .map_err(|failure| failure.reason)?;
            let answer =
                await_head(sender, &mut exchange, &worker.local, &alarm, *first_byte).await;
            record.request_bytes = sender.upload.bytes;
            match &answer {
                Ok(head) => record.answered(head.status, counters),
                Err(_) => counters.unanswered(),
            }
            match answer {
                Ok(head) => {
                    whose.answered(head.status, &mut exchange, to);
                    record.shown(head.status, &mut exchange);
                    let identity = whose.endpoint.identity;
                    return Ok(Answered {
                        head,
                        exchange,
                        upstream: Arc::clone(upstream),
                        identity,
                        alarm,
                        seat: whose.seat(upstream),
                    });
                }
                Err(NoAnswer::Upstream(failure))
                    if !fresh
                        && is_stale(failure, &exchange)
                        && may_repeat(asked.head, asked.route.retry)
                        && upstream.may_retry() =>
                {
                    counters.retries.inc();
                    fresh = true;
                }
                Err(NoAnswer::Upstream(failure)) => {
                    whose.failed(failure, exchange.is_reused(), to);
                    return Err(failure.reason.into());
                }
                Err(NoAnswer::Client(reason)) => return Err(reason.into()),
            }
        }
    }

    /// The answer, with a body that goes on driving the exchange.
    fn relay(
        &self,
        sender: Sender,
        record: Box<Record>,
        answered: Answered,
        route: &Route,
    ) -> Response<AnswerBody> {
        let mut response = Response::new(AnswerBody::Empty);
        *response.status_mut() =
            StatusCode::from_u16(answered.head.status).unwrap_or(StatusCode::BAD_GATEWAY);
        copy_fields(response.headers_mut(), &answered.head, &route.edits, &record);
        tell_seat(response.headers_mut(), answered.seat);
        let stated = match answered.head.framing {
            Framing::Length(length) => Some(HeaderValue::from(length)),
            Framing::None if answered.head.status != 204 => answered
                .head
                .fields
                .first(Known::ContentLength)
                .and_then(|v| HeaderValue::from_bytes(v).ok()),
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
        record.status = 200;
        let mut response = Response::new(AnswerBody::Empty);
        copy_fields(response.headers_mut(), &answered.head, &route.edits, &record);
        response.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
        tell_seat(response.headers_mut(), answered.seat);
        let (upstream, seat) = answered.exchange.into_tunnel();
        let (service, idle) = (Rc::clone(&self.service), self.site.timeouts.tunnel_idle);
        let record = Box::new(record.into_tunnel(seat));
        self.service.worker.local.spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                let client = Side { io: TokioIo::new(upgraded), early: Bytes::new() };
                tunnel::spawn(&service, client, upstream, idle, (record, None));
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
    /// A `Set-Cookie` of ours.
    seat: Option<String>,
}

fn refuse(record: &mut Record, reason: Reason, allow: Option<String>) -> Response<AnswerBody> {
    let reply = Reply { allow, ..Reply::refusal(reason, &record.id) };
    refused(record, reason, reply)
}

fn refused(record: &mut Record, reason: Reason, reply: Reply) -> Response<AnswerBody> {
    record.reason = Some(reason);
    let response = own(record, reply);
    if reason == Reason::ClientGone {
        // Nobody gets this answer, and the log does not say that somebody did.
        record.status = reason.code();
        record.response_bytes = 0;
    }
    response
}

fn own(record: &mut Record, reply: Reply) -> Response<AnswerBody> {
    record.status = reply.status.as_u16();
    record.response_bytes = reply.body.len() as u64;
    let mut response = Response::new(AnswerBody::Empty);
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    reply.each_field(|name, value| {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        {
            headers.insert(name, value);
        }
    });
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
    let mut date = Vec::with_capacity(32);
    record.write_date(&mut date);
    headers.extend(HeaderValue::from_bytes(&date).map(|date| (header::DATE, date)));
    tell_id(headers, record);
    if !record.is_head() {
        *response.body_mut() = AnswerBody::Own(Some(Bytes::from(reply.body)));
    }
    response
}

/// Adds a `Set-Cookie` of ours.
fn tell_seat(to: &mut HeaderMap, seat: Option<String>) {
    if let Some(seat) = seat.and_then(|seat| HeaderValue::try_from(seat).ok()) {
        to.append(header::SET_COOKIE, seat);
    }
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

fn copy_fields(to: &mut HeaderMap, head: &ResponseHead, edits: &Edits, record: &Record) {
    to.reserve(head.fields.len() + 4);
    for (_, name, value) in passed_fields(head, edits) {
        // Both were parsed; a name HTTP/2 cannot carry is one nobody could have asked for.
        let shared = head.fields.bytes().slice_ref(value);
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_maybe_shared(shared))
        {
            to.append(name, value);
        }
    }
    for (name, value) in edits.set() {
        to.insert(name.clone(), value.clone());
    }
    tell_id(to, record);
}

/// Adds the request's id.
fn tell_id(to: &mut HeaderMap, record: &Record) {
    if let Ok(mut id) = HeaderValue::from_str(record.id.as_str()) {
        // Each answer has another, which would only push the others out of the table of HPACK (RFC 7541 section 7.1.3).
        id.set_sensitive(true);
        to.append(X_REQUEST_ID, id);
    }
}
