//! HTTP/1 connections of clients, which carry one request after another.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::Method;

use crate::addr::ClientAddr;
use crate::downstream::accept::{Acceptor as _, AdmittedConn};
use crate::downstream::conn::HeadLimits;
use crate::downstream::drive::{
    ExchangeError, RequestSource as _, Upload, await_head, is_stale, is_switch, may_repeat,
};
use crate::downstream::min_rate::MinRate;
use crate::downstream::request_body::RequestBody;
use crate::downstream::response_body::{ResponseBody, ResponseParts};
use crate::downstream::{Conn, LocalReply, RequestId, Worker};
use crate::generation::virtual_server::ProxyTarget;
use crate::generation::{CompiledRoute, RouteDecision, VirtualServer};
use crate::message::forward::{
    ClientOrigin, ResponseEdits, ResponseFraming, field, lacks_date, write_request, write_response,
};
use crate::message::{Framing, Reason, RequestHead, ResponseHead};
use crate::net::relay::RelaySide;
use crate::net::{Io, Timer};
use crate::upstream::Exchange;
use crate::upstream::exchange::kept_for;

use super::checkout::{CheckedOut, Checkout, CheckoutError, acquire, admit};
use super::record::RequestLog;
use super::self_test::SelfTestRequest;
use super::{ClientConn, ReverseService, reply, tunnel};

/// Next step of the connection after an exchange.
enum AfterExchange {
    /// The connection stays open for another request.
    KeepAlive,
    /// The connection is closed. Unread bytes of the client are drained first, because a reset
    /// would discard the answer.
    Close,
    /// The connection is reset, because the answer is incomplete and the client must detect that.
    Cut,
    /// The connection has become a tunnel.
    Tunnel(RelaySide<crate::upstream::Stream>, Box<RequestLog>),
}

/// Serves one connection until it closes.
pub(super) async fn serve<T: Io>(
    service: &Rc<ReverseService>,
    client_conn: ClientConn,
    io: T,
    admitted: AdmittedConn,
) {
    let worker = &service.worker;
    let client_conn = Rc::new(client_conn);
    let mut conn = Conn::new(io, &worker.local);
    loop {
        // Copied, because an idle connection must not keep a generation in memory.
        let limits = {
            let virtual_server = service.virtual_server.load();
            HeadLimits {
                keep_alive: virtual_server.timeouts.keep_alive,
                header: virtual_server.timeouts.header,
                size: virtual_server.limits.header_size,
            }
        };
        let leaves = || service.closes_idle_connections() || client_conn.is_outdated(service);
        let head = conn.read_head(&limits, &leaves).await;
        // The current virtual server decides, not the one in force when the wait began.
        let virtual_server = service.virtual_server.load_full();
        let head = match head {
            Ok(Some(head)) => RequestHead::parse(&head, virtual_server.limits.header_count)
                .map(|head| with_host(head, &virtual_server, &client_conn)),
            Ok(None) => break,
            Err(reason) => Err(reason),
        };
        let next = match head {
            Ok(head) => {
                let record =
                    Box::new(RequestLog::for_request(worker, &client_conn, &virtual_server, &head));
                let (client_conn, route) = (&client_conn, OnceCell::new());
                let request = H1Request {
                    service,
                    worker,
                    client_conn,
                    virtual_server: &virtual_server,
                    head,
                    route,
                };
                request.serve(&mut conn, record).await
            }
            Err(reason) => {
                let mut record = RequestLog::rejected(worker, &client_conn, &virtual_server);
                record.reason = Some(reason);
                record.status = reason.code();
                record.start = conn.head_began.unwrap_or(record.start);
                if reason != Reason::ClientGone {
                    let mut reply = LocalReply::refusal(reason, &record.id);
                    reply.edits = Some(Arc::clone(&virtual_server.edits));
                    reply.write(conn.out.staged(), worker, &record.id, None, true);
                }
                AfterExchange::Close
            }
        };
        match next {
            AfterExchange::KeepAlive
                if conn.flush(virtual_server.timeouts.body_idle).await.is_ok() => {}
            AfterExchange::KeepAlive | AfterExchange::Cut => return,
            AfterExchange::Close => break conn.linger(virtual_server.timeouts.body_idle).await,
            AfterExchange::Tunnel(upstream, record) => {
                if conn.flush(virtual_server.timeouts.body_idle).await.is_err() {
                    return;
                }
                let client = RelaySide { io: conn.io, early: conn.input.freeze() };
                let idle = virtual_server.timeouts.tunnel_idle;
                return tunnel::spawn(service, client, upstream, idle, (record, Some(admitted)));
            }
        }
    }
    conn.close().await;
}

/// Sets a host for a request without one (HTTP/1.0), so that every upstream gets a valid `Host`:
/// the first host of the profile, the server name of TLS, or the address of the listener.
fn with_host(
    mut head: RequestHead,
    virtual_server: &VirtualServer,
    client_conn: &ClientConn,
) -> RequestHead {
    if head.host.is_empty() {
        match virtual_server.first_host().or(client_conn.sni.as_deref()) {
            Some(host) => head.assume_host(host),
            None => head.assume_host(&virtual_server.address.to_string()),
        }
    }
    head
}

/// One request being served.
struct H1Request<'a> {
    service: &'a Rc<ReverseService>,
    worker: &'a Rc<Worker>,
    client_conn: &'a Rc<ClientConn>,
    virtual_server: &'a Arc<VirtualServer>,
    head: RequestHead,
    /// The route that serves or rejects the request.
    route: OnceCell<Arc<CompiledRoute>>,
}

/// The route and upstream of a request.
struct RouteTarget<'a> {
    route: &'a CompiledRoute,
    proxy_target: &'a ProxyTarget,
    origin: ClientOrigin<'a>,
    client: (ClientAddr, &'a RequestId),
}

impl H1Request<'_> {
    async fn serve<T: Io>(self, conn: &mut Conn<T>, mut record: Box<RequestLog>) -> AfterExchange {
        if !self.client_conn.serves(self.virtual_server) {
            return self.reject(conn, record, Reason::HandshakeOutdated, None);
        }
        let decision = match self.virtual_server.decide(&self.head) {
            Ok(decision) => decision,
            Err(refusal) => {
                if let Some(route) = refusal.route {
                    record.on_route(self.route.get_or_init(|| route));
                }
                return self.reject(conn, record, refusal.reason, refusal.allow);
            }
        };
        if let RouteDecision::Route(route) = &decision {
            record.on_route(route);
        }
        let reply =
            reply::for_decision(&decision, &self.head, (self.worker.local.phase(), &record.id));
        if let RouteDecision::Route(route) = decision {
            self.route.get_or_init(|| route);
        }
        if let Some(reply) = reply {
            return self.reply(conn, &mut record, reply);
        }
        let Some(route) = self.route.get() else {
            return self.reject(conn, record, Reason::Internal, None);
        };
        let Some(proxy_target) = route.action.proxy_target() else {
            return self.reject(conn, record, Reason::Internal, None);
        };
        let (id, trace) = (record.id, record.trace);
        let client = record.client;
        let origin = self.client_conn.origin(
            (self.virtual_server, client),
            (route, proxy_target),
            (&id, trace.as_ref()),
        );
        let target = RouteTarget { route, proxy_target, origin, client: (client, &id) };
        self.proxy(conn, record, &target).await
    }

    async fn proxy<T: Io>(
        &self,
        conn: &mut Conn<T>,
        mut record: Box<RequestLog>,
        target: &RouteTarget<'_>,
    ) -> AfterExchange {
        let timeouts = &self.virtual_server.timeouts;
        let pace = (timeouts.body_idle, timeouts.min_rate);
        let upload = Upload::new(&self.head, target.route.max_body, pace, record.probe.as_ref());
        let timer = self.worker.local.clock.timer();
        let mut sender = RequestBody { conn, upload, version: self.head.version };
        let mut fresh = false;
        let ProxyTarget { upstream, counters, first_byte, .. } = target.proxy_target;
        record.on_upstream(upstream);
        match admit(self.virtual_server, record.client, &self.client_conn.accounts) {
            Ok(admitted) => record.admitted = Some(admitted),
            Err(limited) => return self.unreachable(sender.conn, record, limited),
        }
        loop {
            let mut acquired = match self.acquire(&mut sender, target, fresh).await {
                Ok(acquired) => acquired,
                Err(unreachable) => {
                    return self.unreachable(sender.conn, record, unreachable);
                }
            };
            record.on_connection(&mut acquired, upstream);
            let (selected, to) = (acquired.selected, (upstream, counters));
            let mut request = Vec::new();
            write_request(&mut request, &self.head, &target.origin, None);
            let head_request = self.head.method == Method::HEAD;
            let begun =
                Exchange::begin(acquired.connection, request, self.head.framing, head_request);
            let mut exchange = match begun {
                Ok(exchange) => exchange,
                Err(failure) => return self.unreachable(sender.conn, record, failure.into()),
            };
            let local = &self.worker.local;
            let answer = await_head(&mut sender, &mut exchange, local, &timer, *first_byte).await;
            record.request_bytes = sender.upload.bytes;
            match &answer {
                Ok(head) => {
                    record.answered(head.status, counters);
                    selected.answered(head.status, &mut exchange, to);
                    record.shown(head.status, &mut exchange);
                }
                Err(error) => {
                    counters.unanswered();
                    if error.is_stale(&exchange) {
                        selected.was_stale(&self.worker.pool);
                    }
                }
            }
            let head = match answer {
                Ok(head) if head.status == 101 => {
                    let (edits, cookie) = (&target.route.edits, selected.sticky_cookie(upstream));
                    return self.switch(&mut sender, record, exchange, (&head, edits, cookie));
                }
                Ok(head) => head,
                Err(ExchangeError::Upstream(failure))
                    if !fresh
                        && is_stale(failure, &exchange)
                        && may_repeat(&self.head, target.route.retry)
                        && upstream.may_retry() =>
                {
                    counters.retries.inc();
                    fresh = true;
                    continue;
                }
                Err(ExchangeError::Upstream(failure)) => {
                    selected.failed(failure, exchange.is_reused(), to);
                    return self.unreachable(sender.conn, record, failure.into());
                }
                Err(ExchangeError::Client(reason)) => {
                    return self.reject(sender.conn, record, reason, None);
                }
            };
            let answer = ResponseParts {
                head: &head,
                edits: &target.route.edits,
                idle: upstream.limits.idle,
            };
            let cookie = selected.sticky_cookie(upstream);
            let next = self
                .answer(&mut sender, &mut record, &mut exchange, (&answer, &timer, cookie))
                .await;
            if let Some(connection) = exchange.into_idle() {
                let limits = &upstream.limits;
                let keep = kept_for(limits.keep_alive, &head);
                self.worker.pool.put(selected.identity, connection, keep, limits.max_idle);
            }
            return next;
        }
    }

    /// Whether this is the last request of the connection.
    fn is_last(&self) -> bool {
        self.service.is_draining() || self.client_conn.is_outdated(self.service)
    }

    /// Checks out an upstream connection, unless the client disconnects first.
    async fn acquire<T: Io>(
        &self,
        sender: &mut RequestBody<'_, T>,
        target: &RouteTarget<'_>,
        fresh: bool,
    ) -> Result<CheckedOut, CheckoutError> {
        let to = (&target.proxy_target.upstream, &target.proxy_target.counters);
        let (head, client) =
            (&self.head, self.client_conn.client_info(self.virtual_server, target.client));
        let self_test = SelfTestRequest::for_route(target.route, self.client_conn, &target.origin);
        let repeats = may_repeat(&self.head, target.route.retry);
        let mut acquiring =
            pin!(acquire(self.worker, Checkout { to, head, client, fresh, repeats, self_test }));
        poll_fn(|cx| match acquiring.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => sender.poll_gone(cx).map(|()| Err(Reason::ClientGone.into())),
        })
        .await
    }

    /// Forwards the answer.
    async fn answer<T: Io>(
        &self,
        sender: &mut RequestBody<'_, T>,
        record: &mut RequestLog,
        exchange: &mut Exchange,
        (answer, timer, cookie): (&ResponseParts<'_>, &Timer, Option<String>),
    ) -> AfterExchange {
        // The connection cannot be reused if the request body is incomplete or was never requested,
        // or if frames were sent ahead of an upgrade that failed.
        let kept = self.head.keep_alive
            && !self.head.upgrade
            && !self.is_last()
            && exchange.is_sent()
            && !sender.upload.held;
        let sent = answer.sent(self.head.version);
        let mut tail = Vec::with_capacity(144);
        field(&mut tail, "X-Request-Id", record.id.as_str().as_bytes());
        if lacks_date(answer.head, answer.edits) {
            tail.extend_from_slice(b"Date: ");
            record.write_date(&mut tail);
            tail.extend_from_slice(b"\r\n");
        }
        if let Some(cookie) = cookie {
            field(&mut tail, "Set-Cookie", cookie.as_bytes());
        }
        if !kept {
            field(&mut tail, "Connection", b"close");
        }
        let before = sender.conn.out.taken();
        write_response(sender.conn.out.staged(), answer.head, answer.edits, sent, &tail);
        let timeouts = &self.virtual_server.timeouts;
        let pace = MinRate::new(timeouts.body_idle, timeouts.min_rate);
        let mut download = ResponseBody::new(sent, pace, answer.idle);
        let result = poll_fn(|cx| download.poll(cx, sender, exchange, timer)).await;
        record.request_bytes = sender.upload.bytes;
        record.response_bytes = download.bytes;
        match result {
            Ok(()) if kept => AfterExchange::KeepAlive,
            Ok(()) => AfterExchange::Close,
            Err(reason) => {
                record.reason = Some(reason);
                record.detail = exchange.fault(reason);
                // Nothing has been sent, so an error answer is still possible.
                if reason == Reason::ClientGone || !sender.conn.out.take_back(before) {
                    return AfterExchange::Cut;
                }
                let reply = LocalReply::refusal(reason, &record.id);
                self.reply(sender.conn, record, reply)
            }
        }
    }

    /// Switches to a tunnel after a requested 101.
    fn switch<T: Io>(
        &self,
        sender: &mut RequestBody<'_, T>,
        mut record: Box<RequestLog>,
        exchange: Exchange,
        (head, edits, cookie): (&ResponseHead, &ResponseEdits, Option<String>),
    ) -> AfterExchange {
        if !self.head.upgrade || !is_switch(head) {
            let fault = if self.head.upgrade {
                "101 without Upgrade: websocket"
            } else {
                "101 without a requested upgrade"
            };
            record.detail = Some(fault.to_owned());
            return self.reject(sender.conn, record, Reason::UpstreamBadAnswer, None);
        }
        let mut tail = b"Connection: Upgrade\r\nUpgrade: websocket\r\n".to_vec();
        field(&mut tail, "X-Request-Id", record.id.as_str().as_bytes());
        if let Some(cookie) = cookie {
            field(&mut tail, "Set-Cookie", cookie.as_bytes());
        }
        write_response(sender.conn.out.staged(), head, edits, ResponseFraming::Nothing, &tail);
        let (upstream, gauge) = exchange.into_tunnel();
        AfterExchange::Tunnel(upstream, Box::new(record.into_tunnel(gauge)))
    }

    /// Answers with an error.
    fn reject<T: Io>(
        &self,
        conn: &mut Conn<T>,
        mut record: Box<RequestLog>,
        reason: Reason,
        allow: Option<String>,
    ) -> AfterExchange {
        record.reason = Some(reason);
        record.status = reason.code();
        if reason == Reason::ClientGone {
            return AfterExchange::Cut;
        }
        let reply = LocalReply { allow, ..LocalReply::refusal(reason, &record.id) };
        self.reply(conn, &mut record, reply)
    }

    /// Answers that no upstream connection is available.
    fn unreachable<T: Io>(
        &self,
        conn: &mut Conn<T>,
        mut record: Box<RequestLog>,
        unreachable: CheckoutError,
    ) -> AfterExchange {
        if unreachable.reason == Reason::ClientGone {
            return self.reject(conn, record, unreachable.reason, None);
        }
        let reply = reply::unreachable(&unreachable, &record.id, &self.head);
        record.reason = Some(unreachable.reason);
        record.detail = unreachable.detail;
        self.reply(conn, &mut record, reply)
    }

    fn reply<T: Io>(
        &self,
        conn: &mut Conn<T>,
        record: &mut RequestLog,
        mut reply: LocalReply,
    ) -> AfterExchange {
        let edits = self.route.get().map_or(&self.virtual_server.edits, |route| &route.edits);
        reply.edits = Some(Arc::clone(edits));
        record.status = reply.status.as_u16();
        record.response_bytes = reply.body.len() as u64;
        let kept = self.head.keep_alive
            && !self.head.upgrade
            && self.head.framing == Framing::None
            && !self.is_last();
        reply.write(conn.out.staged(), self.worker, &record.id, Some(&self.head.method), !kept);
        if kept { AfterExchange::KeepAlive } else { AfterExchange::Close }
    }
}
