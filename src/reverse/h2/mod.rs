//! HTTP/2 connections of clients. Each stream becomes one HTTP/1.1 exchange with an upstream. The
//! h2 crate handles frames, HPACK and flow control (docs/decisions/0021).

mod answer;
mod body;
mod budget;
mod coalesce;
mod connection;
mod frames;
mod local_reply;
mod streams;
mod tunnel;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

use crate::downstream::drive::{
    ExchangeError, Upload, await_head, is_stale, is_switch, may_repeat,
};
use crate::downstream::min_rate::MinRate;
use crate::generation::virtual_server::ProxyTarget;
use crate::generation::{CompiledRoute, RouteDecision, VirtualServer};
use crate::message::forward::{ResponseEdits, lacks_date, passed_fields, write_request};
use crate::message::{Framing, KnownField, Reason, RequestHead, ResponseHead};
use crate::net::Timer;
use crate::net::relay::RelaySide;
use crate::upstream::exchange::kept_for;
use crate::upstream::{Exchange, Upstream};

use super::checkout::{Checkout, CheckoutError, acquire, admit};
use super::record::RequestLog;
use super::self_test::{self, SelfTestRequest};
use super::{ClientConn, ReverseService, reply};
use answer::{ResponseRelay, ResponseStream, deliver};
use body::StreamRequestBody;
use budget::{SendLimits, StreamBudget};
use coalesce::ConnProgress;
pub(super) use connection::serve;
use local_reply::{append_date, append_request_id, bad_answer, local_reply, reject, reject_with};
use streams::{OpenStream, StreamSet};
use tunnel::StreamIo;

/// Bytes read at a time until the head of an answer is complete. All streams of a connection may
/// read that much at once before anything is charged to the budget.
const HEAD_READ: usize = 8 << 10;

/// One request being served.
struct H2Request {
    service: Rc<ReverseService>,
    virtual_server: Arc<VirtualServer>,
    client_conn: Rc<ClientConn>,
    streams: Rc<StreamSet>,
    progress: ConnProgress,
}

impl H2Request {
    /// Serves the request to its end, or until the client resets its stream.
    async fn run(
        self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        open: OpenStream,
    ) {
        let answer = {
            let mut answer = pin!(self.answer(request));
            poll_fn(|cx| match answer.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => respond.poll_reset(cx).map(|_| None),
            })
            .await
        };
        if let Some(answer) = answer {
            deliver(answer, respond, open).await;
        }
    }

    async fn answer(self, request: Request<RecvStream>) -> Response<ResponseStream> {
        let worker = Rc::clone(&self.service.worker);
        let default_edits = &self.virtual_server.edits;
        let protocol = websocket_protocol(&request);
        let upgrade = protocol == Some(true);
        let (parts, body) = request.into_parts();
        let head = RequestHead::from_h2(&parts, upgrade, body.is_end_stream());
        let head = head.and_then(|head| {
            if protocol == Some(false) {
                return Err(Reason::BadUpgrade);
            }
            let limits = &self.virtual_server.limits;
            if head.fields.len() > limits.header_count || head.list_size() > limits.header_size {
                Err(Reason::HeaderTooLarge)
            } else {
                Ok(head)
            }
        });
        let head = match head {
            Ok(head) => head,
            Err(reason) => {
                let mut record =
                    RequestLog::rejected(&worker, &self.client_conn, &self.virtual_server);
                return reject(&mut record, default_edits, reason, None);
            }
        };
        let mut record = Box::new(RequestLog::for_request(
            &worker,
            &self.client_conn,
            &self.virtual_server,
            &head,
        ));
        if !self.client_conn.serves(&self.virtual_server) {
            self.streams.leave();
            return reject(&mut record, default_edits, Reason::HandshakeOutdated, None);
        }
        let decision = match self.virtual_server.decide(&head) {
            Ok(decision) => decision,
            Err(refusal) => {
                let mut edits = default_edits;
                if let Some(route) = &refusal.route {
                    record.on_route(route);
                    edits = &route.edits;
                }
                return reject(&mut record, edits, refusal.reason, refusal.allow);
            }
        };
        if let RouteDecision::Route(route) = &decision {
            record.on_route(route);
            if self_test::ends_connection(route, &head) {
                self.streams.leave();
            }
        }
        if let Some(reply) =
            reply::for_decision(&decision, &head, (worker.local.phase(), &record.id))
        {
            let edits = match &decision {
                RouteDecision::Route(route) => &route.edits,
                RouteDecision::AddSlash | RouteDecision::ToHttps(_) => default_edits,
            };
            return local_reply(&mut record, edits, reply);
        }
        let RouteDecision::Route(route) = decision else {
            return reject(&mut record, default_edits, Reason::Internal, None);
        };
        let timeouts = &self.virtual_server.timeouts;
        let mut sender = StreamRequestBody {
            upload: Upload::new(
                &head,
                route.max_body,
                (timeouts.body_idle, timeouts.min_rate),
                record.probe.as_ref(),
            ),
            body,
            stated: match head.framing {
                Framing::Length(length) => Some(length),
                _ => None,
            },
            trailers: Vec::new(),
            clock: worker.local.clock.clone(),
            client_conn: Rc::clone(&self.client_conn),
        };
        let key = upgrade.then(super::tunnel::new_key);
        let routed = RoutedRequest { head: &head, route: &route, key: key.as_deref() };
        match self.exchange(&mut sender, &mut record, &routed).await {
            Err(unreachable) => {
                let reply = reply::unreachable(&unreachable, &record.id, &head);
                record.detail = unreachable.detail;
                reject_with(&mut record, &route.edits, unreachable.reason, reply)
            }
            Ok(answered) if answered.head.status == 101 => match key {
                Some(key) => self.switch(sender.body, &key, record, answered, &route),
                None => bad_answer(&mut record, &route.edits, "101 without a requested upgrade"),
            },
            Ok(answered) => self.relay(sender, record, answered, &route),
        }
    }

    /// Sends the request and waits for the head of the answer.
    async fn exchange(
        &self,
        sender: &mut StreamRequestBody,
        record: &mut RequestLog,
        routed: &RoutedRequest<'_>,
    ) -> Result<AnsweredRequest, CheckoutError> {
        let worker = &self.service.worker;
        let Some(proxy_target) = routed.route.action.proxy_target() else {
            return Err(Reason::Internal.into());
        };
        let ProxyTarget { upstream, counters, first_byte, .. } = proxy_target;
        let (client, id, trace) = (record.client, record.id, record.trace);
        let to = (routed.route, proxy_target);
        let origin =
            self.client_conn.origin((&self.virtual_server, client), to, (&id, trace.as_ref()));
        let timer = worker.local.clock.timer();
        let limits = self.send_limits();
        if self.streams.budget.is_full(limits) {
            return Err(CheckoutError::limited(Reason::SendBufferFull));
        }
        let mut fresh = false;
        let repeats = may_repeat(routed.head, routed.route.retry);
        record.on_upstream(upstream);
        let admitted = admit(&self.virtual_server, client, &self.client_conn.accounts)?;
        let uses = Some(Arc::clone(admitted.client()));
        let budget = StreamBudget::new(&self.streams.budget, uses, limits);
        record.admitted = Some(admitted);
        loop {
            let (to, head) = ((upstream, counters), routed.head);
            let client = self.client_conn.client_info(&self.virtual_server, (client, &id));
            let self_test = SelfTestRequest::for_route(routed.route, &self.client_conn, &origin);
            let mut acquired =
                acquire(worker, Checkout { to, head, client, fresh, repeats, self_test }).await?;
            record.on_connection(&mut acquired, upstream);
            let selected = acquired.selected;
            let mut request = Vec::new();
            write_request(&mut request, routed.head, &origin, routed.key);
            let head_request = routed.head.method == Method::HEAD;
            let mut exchange =
                Exchange::begin(acquired.connection, request, routed.head.framing, head_request)?;
            exchange.limit_reads(budget.piece().min(HEAD_READ));
            let answer =
                await_head(sender, &mut exchange, &worker.local, &timer, *first_byte).await;
            record.request_bytes = sender.upload.bytes;
            match &answer {
                Ok(head) => record.answered(head.status, counters),
                Err(error) => {
                    counters.unanswered();
                    if error.is_stale(&exchange) {
                        selected.was_stale(&worker.pool);
                    }
                }
            }
            match answer {
                Ok(head) => {
                    selected.answered(head.status, &mut exchange, to);
                    record.shown(head.status, &mut exchange);
                    let identity = selected.identity;
                    return Ok(AnsweredRequest {
                        head,
                        exchange,
                        upstream: Arc::clone(upstream),
                        identity,
                        timer,
                        budget,
                        sticky_cookie: selected.sticky_cookie(upstream),
                    });
                }
                Err(ExchangeError::Upstream(failure))
                    if !fresh
                        && is_stale(failure, &exchange)
                        && repeats
                        && upstream.may_retry() =>
                {
                    counters.retries.inc();
                    fresh = true;
                }
                Err(ExchangeError::Upstream(failure)) => {
                    selected.failed(failure, exchange.is_reused(), to);
                    return Err(failure.into());
                }
                Err(ExchangeError::Client(reason)) => return Err(reason.into()),
            }
        }
    }

    fn send_limits(&self) -> SendLimits {
        SendLimits {
            connection: self.virtual_server.limits.http2_send_buffer,
            process: self.virtual_server.http2_send_buffers,
        }
    }

    /// The answer, with a body that continues to drive the exchange.
    fn relay(
        &self,
        sender: StreamRequestBody,
        record: Box<RequestLog>,
        answered: AnsweredRequest,
        route: &CompiledRoute,
    ) -> Response<ResponseStream> {
        let mut response = Response::new(ResponseStream::Empty);
        *response.status_mut() =
            StatusCode::from_u16(answered.head.status).unwrap_or(StatusCode::BAD_GATEWAY);
        copy_fields(response.headers_mut(), &answered.head, &route.edits, &record);
        append_sticky_cookie(response.headers_mut(), answered.sticky_cookie);
        let stated = match answered.head.framing {
            Framing::Length(length) => Some(HeaderValue::from(length)),
            Framing::None if answered.head.status != 204 => answered
                .head
                .fields
                .first(KnownField::ContentLength)
                .and_then(|v| HeaderValue::from_bytes(v).ok()),
            _ => None,
        };
        if let Some(length) = stated {
            response.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
        let limits = answered.upstream.limits;
        let mut relay = Box::new(ResponseRelay {
            keep: kept_for(limits.keep_alive, &answered.head),
            max_idle: limits.max_idle,
            idle: limits.idle,
            identity: answered.identity,
            exchange: Some(answered.exchange),
            budget: answered.budget,
            timer: answered.timer,
            worker: Rc::clone(&self.service.worker),
            edits: Arc::clone(&route.edits),
            pace: MinRate::new(
                self.virtual_server.timeouts.body_idle,
                self.virtual_server.timeouts.min_rate,
            ),
            progress: self.progress.clone(),
            goal: 0,
            sender,
            record,
            ready: VecDeque::new(),
            trailers: None,
            ended: false,
            delivered: false,
            silent_since: None,
        });
        if answered.head.framing == Framing::None && relay.sender.upload.is_done() {
            relay.skip_body();
        } else {
            *response.body_mut() = ResponseStream::Relay(relay);
        }
        response
    }

    /// Switches to a tunnel. The upstream's 101 becomes a 200 (RFC 8441 section 5).
    fn switch(
        &self,
        receive: RecvStream,
        key: &str,
        mut record: Box<RequestLog>,
        answered: AnsweredRequest,
        route: &CompiledRoute,
    ) -> Response<ResponseStream> {
        if !is_switch(&answered.head) {
            return bad_answer(&mut record, &route.edits, "101 without Upgrade: websocket");
        }
        let accepted = answered.head.fields.first(KnownField::WebSocketAccept);
        if accepted != Some(super::tunnel::accept_for(key).as_bytes()) {
            return bad_answer(
                &mut record,
                &route.edits,
                "101 whose Sec-WebSocket-Accept does not match the key",
            );
        }
        record.status = 200;
        let mut response = Response::new(ResponseStream::Empty);
        copy_fields(response.headers_mut(), &answered.head, &route.edits, &record);
        response.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
        append_sticky_cookie(response.headers_mut(), answered.sticky_cookie);
        let (upstream, gauge) = answered.exchange.into_tunnel();
        *response.body_mut() = ResponseStream::Tunnel(Box::new(Switched {
            service: Rc::clone(&self.service),
            receive,
            upstream,
            idle: self.virtual_server.timeouts.tunnel_idle,
            record: Box::new(record.into_tunnel(gauge)),
        }));
        response
    }
}

/// Whether the `:protocol` of an extended CONNECT is WebSocket; `None` without one.
fn websocket_protocol(request: &Request<RecvStream>) -> Option<bool> {
    let protocol = request.extensions().get::<Protocol>()?;
    Some(protocol.as_str().eq_ignore_ascii_case("websocket"))
}

/// A WebSocket whose 200 is about to be sent.
struct Switched {
    service: Rc<ReverseService>,
    receive: RecvStream,
    upstream: RelaySide<crate::upstream::Stream>,
    idle: Duration,
    record: Box<RequestLog>,
}

impl Switched {
    /// Relays between both sides in a new task. `open` counts the stream.
    fn begin(self, send: SendStream<Bytes>, open: OpenStream) {
        let io = StreamIo::new(send, self.receive, open);
        let client = RelaySide { io, early: Bytes::new() };
        let record = (self.record, None);
        super::tunnel::spawn(&self.service, client, self.upstream, self.idle, record);
    }
}

/// A request and its route.
struct RoutedRequest<'a> {
    head: &'a RequestHead,
    route: &'a CompiledRoute,
    key: Option<&'a str>,
}

/// An exchange for which the head of the answer has arrived.
struct AnsweredRequest {
    head: ResponseHead,
    exchange: Exchange,
    upstream: Arc<Upstream>,
    identity: u64,
    timer: Timer,
    budget: Arc<StreamBudget>,
    /// The `Set-Cookie` with the sticky cookie.
    sticky_cookie: Option<String>,
}

/// Appends the `Set-Cookie` with the sticky cookie.
fn append_sticky_cookie(to: &mut HeaderMap, cookie: Option<String>) {
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
        to.append(header::SET_COOKIE, cookie);
    }
}

fn copy_fields(
    to: &mut HeaderMap,
    head: &ResponseHead,
    edits: &ResponseEdits,
    record: &RequestLog,
) {
    to.reserve(head.fields.len() + 4);
    for (_, name, value) in passed_fields(head, edits) {
        // Name and value were parsed before. The conversion fails only for names that HTTP/2 cannot
        // carry, which no client can have requested.
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
    if lacks_date(head, edits) {
        append_date(to, record);
    }
    append_request_id(to, record);
}
