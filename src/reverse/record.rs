//! Access-log record and counters of one request or connection.
//!
//! A [`RequestLog`] is created when the head of a request has arrived, and written when it is
//! dropped. So every path through the code writes it exactly once.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::time::Instant;

use crate::addr::ClientAddr;
use crate::downstream::{RequestId, Worker};
use crate::generation::virtual_server::{ListenerLabels, RouteStats, TunnelInfo};
use crate::generation::{CompiledRoute, ConfigVersion, VirtualServer};
use crate::message::reason::Flag;
use crate::message::{KnownField, Reason, RequestHead, TraceParent, Version, path};
use crate::net::Phase;
use crate::net::quota::Use;
use crate::net::relay::Standing;
use crate::socketio::{self, RequestOutcome, RequestProbe, SocketEnded};
use crate::telemetry::line::{Key, LineWriter, LogEvent};
use crate::telemetry::metrics::class;
use crate::telemetry::recent::NotedRequest;
use crate::telemetry::upstreams::ConnGauge;
use crate::telemetry::websockets::WebSocketClose;
use crate::telemetry::{UpstreamMetrics, WebSocketMetrics};
use crate::upstream::{Exchange, InFlight, Upstream};

use super::ClientConn;
use super::checkout::CheckedOut;
use super::tunnel::OUTDATED_CLOSE_SPREAD;

/// Collects the log fields of one request or connection.
pub(super) struct RequestLog {
    worker: Rc<Worker>,
    client_conn: Rc<ClientConn>,
    /// The client, as named by trusted proxies.
    pub(super) client: ClientAddr,
    names: Arc<ListenerLabels>,
    config_version: Arc<ConfigVersion>,
    pub(super) id: RequestId,
    /// The trace context sent to the upstream.
    pub(super) trace: Option<TraceParent>,
    pub(super) start: Instant,
    request: Option<RequestLogFields>,
    route: Option<Arc<RouteStats>>,
    /// Names of the upstream and the endpoint.
    upstream: Option<Arc<str>>,
    endpoint: Option<Arc<str>>,
    /// Status of the answer; 0 until it has begun.
    pub(super) status: u16,
    pub(super) reason: Option<Reason>,
    /// Error message of the system or of TLS.
    pub(super) detail: Option<String>,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    /// Time from `start` until a connection was available.
    connected: Duration,
    first_byte: Option<Duration>,
    tunnel: Option<WebSocketClose>,
    /// Counts the request as in flight at the endpoint.
    busy: Option<InFlight>,
    /// Count the request for its profile, and its connection as in use at the upstream.
    pub(super) admitted: Option<Use>,
    reserved: Option<Use>,
    /// For a tunnel: counts the upstream connection.
    conn_gauge: Option<ConnGauge>,
    /// Number of the tunnel in the worker's registry.
    listed: Option<u64>,
    /// Code of the Close frame that the gateway sent to the client of a WebSocket.
    pub(super) close_code: Option<u16>,
    /// Socket.IO tracking of the request.
    pub(super) probe: Option<Rc<RequestProbe>>,
    tunnel_idle: Duration,
}

struct RequestLogFields {
    version: Version,
    method: http::Method,
    host: Bytes,
    target: Bytes,
    agent: Option<Bytes>,
    referrer: Option<Bytes>,
}

impl RequestLog {
    /// The record of a request.
    pub(super) fn for_request(
        worker: &Rc<Worker>,
        client_conn: &Rc<ClientConn>,
        virtual_server: &Arc<VirtualServer>,
        head: &RequestHead,
    ) -> Self {
        let trusted = virtual_server.trusts(client_conn.client);
        let known = if trusted { head.fields.first(KnownField::RequestId) } else { None };
        let mut record = Self::rejected(worker, client_conn, virtual_server);
        record.client = virtual_server.client_of(client_conn.client, &head.fields);
        record.trace = virtual_server.adds_trace_context.then(|| {
            let (came, span) = (head.fields.all(KnownField::TraceParent), worker.ids.span());
            // A new trace gets the id of its first request.
            TraceParent::next(came, span, trusted)
                .unwrap_or_else(|| TraceParent::new(record.id.digits(), span))
        });
        record.id = known.and_then(RequestId::from_proxy).unwrap_or(record.id);
        worker.recent.add(&NotedRequest {
            listener: virtual_server.address,
            method: &head.method,
            upgrade: head.upgrade,
            host: head.host_name(),
            path: path::raw(&head.target),
        });
        if virtual_server.tracks_socketio {
            record.probe = RequestProbe::new(head);
        }
        record.request = Some(RequestLogFields {
            version: head.version,
            method: head.method.clone(),
            host: head.host.clone(),
            target: head.target.clone(),
            agent: kept(head, KnownField::UserAgent),
            referrer: kept(head, KnownField::Referrer),
        });
        record
    }

    /// The record of a connection or request that is rejected before its head is parsed.
    pub(super) fn rejected(
        worker: &Rc<Worker>,
        client_conn: &Rc<ClientConn>,
        virtual_server: &Arc<VirtualServer>,
    ) -> Self {
        Self {
            id: worker.ids.next(),
            trace: None,
            worker: Rc::clone(worker),
            client_conn: Rc::clone(client_conn),
            client: client_conn.client,
            names: Arc::clone(&virtual_server.names),
            config_version: Arc::clone(&virtual_server.config_version),
            start: Instant::now(),
            request: None,
            route: None,
            upstream: None,
            endpoint: None,
            busy: None,
            admitted: None,
            reserved: None,
            status: 0,
            reason: None,
            detail: None,
            request_bytes: 0,
            response_bytes: 0,
            connected: Duration::ZERO,
            first_byte: None,
            tunnel: None,
            conn_gauge: None,
            listed: None,
            close_code: None,
            probe: None,
            tunnel_idle: virtual_server.timeouts.tunnel_idle,
        }
    }

    /// Records the route.
    pub(super) fn on_route(&mut self, route: &CompiledRoute) {
        if let Some(probe) = &self.probe
            && let Some(proxy_target) = route.action.proxy_target()
            && let Some(sessions) = &proxy_target.sessions
        {
            probe.set_route(sessions, proxy_target.first_byte);
        }
        let route = &route.stats;
        route.metrics.in_flight.inc();
        if route.report_only {
            route.metrics.report_only.inc();
        }
        self.route = Some(Arc::clone(route));
    }

    /// Records the upstream.
    pub(super) fn on_upstream(&mut self, upstream: &Upstream) {
        self.upstream = Some(Arc::clone(&upstream.name));
    }

    /// Records the upstream connection.
    pub(super) fn on_connection(&mut self, acquired: &mut CheckedOut, upstream: &Upstream) {
        let selected = &acquired.selected;
        if let Some(reserved) = acquired.reserved.take() {
            self.reserved = Some(reserved);
        }
        self.endpoint = Some(Arc::clone(&selected.endpoint.label));
        self.busy = selected.in_flight(upstream);
        if !acquired.connection.reused {
            self.connected = self.start.elapsed();
        }
    }

    /// Records the start of the upstream's answer.
    pub(super) fn answered(&mut self, status: u16, counters: &UpstreamMetrics) {
        let first_byte = self.start.elapsed();
        counters.answered(status, first_byte.saturating_sub(self.connected));
        self.status = status;
        self.first_byte = Some(first_byte);
    }

    /// Attaches the body tap of Socket.IO tracking to the answer, if there is one.
    pub(super) fn shown(&self, status: u16, exchange: &mut Exchange) {
        if let Some(body_tap) = self.probe.as_ref().and_then(|probe| probe.body_tap(status)) {
            exchange.shown_to(body_tap);
        }
    }

    /// Turns the record of a request into that of its tunnel, whose end is recorded later. `seat`
    /// counts the upstream connection.
    pub(super) fn into_tunnel(mut self, conn_gauge: Option<ConnGauge>) -> Self {
        self.report(RequestProbe::switched);
        self.tunnel = Some(WebSocketClose::Unknown);
        self.conn_gauge = conn_gauge;
        if let Some(request) = &mut self.request {
            // Copied, because slices would keep the whole head in memory while the tunnel is open.
            request.host = Bytes::copy_from_slice(&request.host);
            request.target = Bytes::copy_from_slice(&request.target);
            for field in [&mut request.agent, &mut request.referrer] {
                *field = field.take().map(|value| Bytes::copy_from_slice(&value));
            }
        }
        if let Some(route) = &self.route {
            route.metrics.in_flight.dec();
        }
        self.websockets().inspect(|websockets| websockets.opened());
        self
    }

    /// Whether the tunnel may continue: today it would be forwarded to the same endpoint, and its
    /// client's handshake would succeed.
    pub(super) fn standing(&self, virtual_server: &VirtualServer) -> Standing {
        let (Some(request), Some(upstream)) = (&self.request, &self.upstream) else {
            return Standing::Stays;
        };
        let request = (&*request.host, &*request.target);
        if !virtual_server.still_carries(request, upstream, self.endpoint.as_deref()) {
            return Standing::Forbidden;
        }
        if virtual_server.accepts(&self.client_conn.handshake) {
            Standing::Stays
        } else {
            Standing::Leaves(OUTDATED_CLOSE_SPREAD)
        }
    }

    /// Adds the tunnel to the worker's registry. `place` holds the virtual server of its listener.
    pub(super) fn list(&mut self, place: &Arc<ArcSwap<VirtualServer>>) {
        let (Some(request), Some(upstream)) = (&self.request, &self.upstream) else { return };
        self.listed = Some(self.worker.tunnels.add(TunnelInfo {
            virtual_server: Arc::clone(place),
            names: Arc::clone(&self.names),
            route: self.route.clone(),
            host: request.host.clone(),
            target: request.target.clone(),
            upstream: Arc::clone(upstream),
            endpoint: self.endpoint.clone(),
            handshake: self.client_conn.handshake.clone(),
        }));
    }

    /// Records the end of a tunnel.
    pub(super) fn tunnel_ended(&mut self, cut: SocketEnded) {
        self.tunnel = Some(cut.how);
        self.report(|probe, outcome| probe.cut(outcome, cut));
    }

    /// Records the number of messages from both sides of a tunnel.
    pub(super) fn talked(&self, messages: [u8; 2]) {
        if self.probe.as_ref().is_some_and(|probe| probe.count_messages(messages)) {
            self.report(RequestProbe::upgraded);
        }
    }

    /// Reports an event to Socket.IO tracking, if the request is tracked.
    fn report(
        &self,
        event_of: impl FnOnce(&RequestProbe, &RequestOutcome<'_>) -> Option<socketio::SessionEvent>,
    ) {
        let Some(probe) = &self.probe else { return };
        let event = event_of(
            probe,
            &RequestOutcome {
                request: self.id.as_str(),
                client: self.client.0,
                endpoint: self.endpoint.as_ref(),
                status: self.status,
                reason: self.reason,
                waited: self.first_byte.unwrap_or_else(|| self.start.elapsed()),
                answered: self.first_byte.is_some(),
            },
        );
        if let Some(event) = event {
            self.worker.event_sink.record(event);
        }
    }

    /// The reason for a request that ends with its connection or stream.
    pub(super) fn gone(&self) -> Reason {
        self.client_conn.ended.get().unwrap_or(Reason::ClientGone)
    }

    /// Counters for the tunnel.
    pub(super) fn websockets(&self) -> Option<&WebSocketMetrics> {
        self.route.as_ref()?.metrics.websockets.as_deref()
    }

    /// Appends the current time in the format of `Date`.
    pub(super) fn write_date(&self, out: &mut Vec<u8>) {
        self.worker.stamp.write_http(out);
    }

    /// Whether the method is HEAD.
    pub(super) fn is_head(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.method == http::Method::HEAD)
    }

    fn count(&self) {
        if let Some(reason) = self.reason {
            self.worker.metrics.refused(reason as usize);
        }
        let Some(route) = &self.route else { return };
        let metrics = &route.metrics;
        self.reason.inspect(|reason| metrics.refusals.count(*reason as usize));
        metrics.requests[class(self.status)].inc();
        let seconds = self.start.elapsed().as_secs_f64();
        if let Some(how) = self.tunnel {
            self.websockets().inspect(|websockets| websockets.closed(how, seconds));
            return;
        }
        metrics.in_flight.dec();
        metrics.seconds.observe(seconds);
        if self.request_bytes > 0 {
            metrics.request_bytes.inc_by(self.request_bytes);
        }
        if self.response_bytes > 0 {
            metrics.response_bytes.inc_by(self.response_bytes);
        }
    }

    fn flag(&self) -> Option<Flag> {
        self.reason
            .map(Reason::flag)
            .or_else(|| self.tunnel.and_then(|end| Flag::of_end(end.word())))
    }

    fn write_outcome(&self, line: &mut impl LineWriter) {
        if let Some(route) = &self.route {
            line.text(Key::Route, route.name.as_bytes());
            if route.report_only {
                line.text(Key::WouldDeny, b"no_route");
            }
        }
        if let Some(upstream) = &self.upstream {
            line.text(Key::Upstream, upstream.as_bytes());
        }
        if let Some(endpoint) = &self.endpoint {
            line.text(Key::Endpoint, endpoint.as_bytes());
        }
        line.number(Key::Status, self.status.into());
        if let Some(reason) = self.reason {
            line.text(Key::Reason, reason.word().as_bytes());
        }
        if let Some(flag) = self.flag() {
            line.text(Key::Flags, flag.letters().as_bytes());
        }
        if let Some(detail) = &self.detail {
            line.text(Key::Error, detail.as_bytes());
        }
        if let Some(end) = self.tunnel {
            line.text(Key::CloseReason, end.word().as_bytes());
        }
        if let Some(code) = self.close_code {
            line.number(Key::CloseCode, code.into());
        }
        line.number(Key::RequestBytes, self.request_bytes);
        line.number(Key::ResponseBytes, self.response_bytes);
        if let Some(first_byte) = self.first_byte {
            line.took(Key::FirstByte, first_byte);
        }
        line.took(Key::Duration, self.start.elapsed());
    }
}

impl LogEvent for RequestLog {
    fn write_fields<L: LineWriter>(&self, line: &mut L) {
        line.text(Key::Id, self.id.as_str().as_bytes());
        if let Some(trace) = &self.trace {
            line.text(Key::Trace, trace.trace());
        }
        let event = match (&self.request, self.tunnel) {
            (None, _) => "rejected",
            (Some(_), Some(_)) => "tunnel",
            (Some(_), None) => "request",
        };
        line.text(Key::Event, event.as_bytes());
        line.text(Key::Profile, self.names.profile.as_bytes());
        line.text(Key::Listener, self.names.listener.as_bytes());
        line.address(Key::Client, self.client.0);
        match &self.client_conn.via {
            Some(via) => via.write_fields(line),
            None if self.client != self.client_conn.client => {
                line.address(Key::Peer, self.client_conn.client.0);
            }
            None => {}
        }
        if let Some(request) = &self.request {
            line.text(Key::Method, request.method.as_str().as_bytes());
            line.text(Key::Host, &request.host);
            line.target(Key::Path, &request.target);
            line.text(Key::Protocol, request.version.as_str().as_bytes());
            if let Some(agent) = &request.agent {
                line.text(Key::Agent, agent);
            }
            if let Some(referrer) = &request.referrer {
                line.target(Key::Referrer, referrer);
            }
        }
        if let Some(key) = self.probe.as_ref().and_then(|probe| probe.key()) {
            line.text(Key::Session, key.to_string().as_bytes());
        }
        self.write_outcome(line);
        line.number(Key::Generation, self.config_version.number());
        line.text(Key::ConfigHash, self.config_version.hash().as_bytes());
        line.text(Key::Tls, self.client_conn.tls.as_bytes());
        if let Some(sni) = &self.client_conn.sni {
            line.text(Key::Sni, sni.as_bytes());
        }
    }
}

/// The value of a field, as a slice that shares the memory of the head.
fn kept(head: &RequestHead, known: KnownField) -> Option<Bytes> {
    head.fields.first(known).map(|value| head.fields.bytes().slice_ref(value))
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        // No end was recorded, so the task was dropped: the client disconnected, or the worker was
        // stopped.
        if self.status == 0 && self.reason.is_none() {
            self.reason = Some(self.gone());
            self.status = self.gone().code();
        }
        if self.reason.is_none()
            && self.tunnel.is_none()
            && self.worker.local.phase() == Phase::Cutting
        {
            self.reason = Some(Reason::Draining);
        }
        if let Some(number) = self.listed {
            self.worker.tunnels.remove(number);
        }
        if self.tunnel.is_none() {
            self.report(|probe, outcome| probe.ended(outcome, self.tunnel_idle));
        }
        self.count();
        if self.names.logs {
            self.worker.lines.add(&self.worker.stamp, self);
        }
    }
}
