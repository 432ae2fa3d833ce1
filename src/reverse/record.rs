//! What became of one request or connection: its log line and its counters.
//!
//! A [`Record`] is made when a request's head is there and written when it is dropped, so that no
//! way out can forget it and none can write it twice.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::time::Instant;

use crate::downstream::{RequestId, Worker};
use crate::generation::site::{Account, Carried, Names};
use crate::generation::{Edition, Route, Site};
use crate::message::{Known, Reason, RequestHead, Version, path, query};
use crate::net::Phase;
use crate::telemetry::access_log::{millis, number, text};
use crate::telemetry::metrics::class;
use crate::telemetry::recent::Request;
use crate::telemetry::upstreams::Seat;
use crate::telemetry::websockets::Closed;
use crate::telemetry::{UpstreamMetrics, WebSocketMetrics};
use crate::upstream::{Busy, Upstream};

use super::Facts;
use super::acquire::Whose;

/// See the module.
pub(super) struct Record {
    worker: Rc<Worker>,
    facts: Rc<Facts>,
    names: Arc<Names>,
    edition: Arc<Edition>,
    pub(super) id: RequestId,
    start: Instant,
    request: Option<Asked>,
    route: Option<Arc<Account>>,
    /// Name of the upstream, and of the endpoint.
    upstream: Option<Arc<str>>,
    endpoint: Option<Arc<str>>,
    /// 0 until an answer has begun.
    pub(super) status: u16,
    pub(super) reason: Option<Reason>,
    /// What the system or TLS said, for the operator.
    pub(super) detail: Option<String>,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    /// After `start`: there was a connection to send the request on.
    connected: Duration,
    first_byte: Option<Duration>,
    tunnel: Option<Closed>,
    /// Counts it among what is open at the endpoint.
    busy: Option<Busy>,
    /// Of a tunnel: counts the upstream's connection.
    seat: Option<Seat>,
    /// Its number among the worker's tunnels.
    listed: Option<u64>,
    /// Of the Close frame the client of a WebSocket was sent by us.
    pub(super) close_code: Option<u16>,
}

struct Asked {
    version: Version,
    method: http::Method,
    host: Bytes,
    target: Bytes,
    agent: Option<Bytes>,
}

impl Record {
    /// For a request.
    pub(super) fn of(
        worker: &Rc<Worker>,
        facts: &Rc<Facts>,
        site: &Arc<Site>,
        head: &RequestHead,
    ) -> Self {
        let known =
            if site.trusts(facts.client) { head.fields.first(Known::RequestId) } else { None };
        let mut record = Self::refused(worker, facts, site);
        record.id = known.and_then(RequestId::from_proxy).unwrap_or(record.id);
        worker.recent.add(&Request {
            listener: site.address,
            method: &head.method,
            upgrade: head.upgrade,
            host: head.host_name(),
            path: path::raw(&head.target),
        });
        record.request = Some(Asked {
            version: head.version,
            method: head.method.clone(),
            host: head.host.clone(),
            target: head.target.clone(),
            agent: head
                .fields
                .first(Known::UserAgent)
                .map(|agent| head.fields.bytes().slice_ref(agent)),
        });
        record
    }

    /// For a connection or request that was refused before its head could be read.
    pub(super) fn refused(worker: &Rc<Worker>, facts: &Rc<Facts>, site: &Arc<Site>) -> Self {
        Self {
            id: worker.ids.next(),
            worker: Rc::clone(worker),
            facts: Rc::clone(facts),
            names: Arc::clone(&site.names),
            edition: Arc::clone(&site.edition),
            start: Instant::now(),
            request: None,
            route: None,
            upstream: None,
            endpoint: None,
            busy: None,
            status: 0,
            reason: None,
            detail: None,
            request_bytes: 0,
            response_bytes: 0,
            connected: Duration::ZERO,
            first_byte: None,
            tunnel: None,
            seat: None,
            listed: None,
            close_code: None,
        }
    }

    /// Notes the route.
    pub(super) fn on_route(&mut self, route: &Route) {
        let route = &route.account;
        route.metrics.in_flight.inc();
        if route.report_only {
            route.metrics.report_only.inc();
        }
        self.route = Some(Arc::clone(route));
    }

    /// Notes whom the request goes to.
    pub(super) fn on_upstream(&mut self, upstream: &Upstream) {
        self.upstream = Some(Arc::clone(&upstream.name));
    }

    /// Notes the endpoint it was connected to; `at_once`, if by a kept connection.
    pub(super) fn on_endpoint(&mut self, whose: &Whose, upstream: &Upstream, at_once: bool) {
        self.endpoint = Some(Arc::clone(&whose.endpoint.label));
        self.busy = whose.busy(upstream);
        if !at_once {
            self.connected = self.start.elapsed();
        }
    }

    /// Notes that the upstream's answer has begun.
    pub(super) fn answered(&mut self, status: u16, counters: &UpstreamMetrics) {
        let first_byte = self.start.elapsed();
        counters.answered(status, first_byte.saturating_sub(self.connected));
        self.status = status;
        self.first_byte = Some(first_byte);
    }

    /// The record of the tunnel that the request becomes; its end is set when it ends.
    /// `seat` counts the upstream's connection.
    pub(super) fn into_tunnel(mut self, seat: Option<Seat>) -> Self {
        self.tunnel = Some(Closed::Unknown);
        self.seat = seat;
        if let Some(asked) = &mut self.request {
            // Slices of the head would keep all of it for as long as the tunnel lives.
            asked.host = Bytes::copy_from_slice(&asked.host);
            asked.target = Bytes::copy_from_slice(&asked.target);
            asked.agent = asked.agent.take().map(|agent| Bytes::copy_from_slice(&agent));
        }
        if let Some(route) = &self.route {
            route.metrics.in_flight.dec();
        }
        self.websockets().inspect(|websockets| websockets.opened());
        self
    }

    /// Whether what became a tunnel would be passed on to the same endpoint today.
    pub(super) fn is_still_allowed(&self, site: &Site) -> bool {
        let (Some(asked), Some(upstream)) = (&self.request, &self.upstream) else { return true };
        site.still_carries((&asked.host, &asked.target), upstream, self.endpoint.as_deref())
    }

    /// Lists the tunnel that the request has become; `place` is what its listener serves.
    pub(super) fn list(&mut self, place: &Arc<ArcSwap<Site>>) {
        let (Some(asked), Some(upstream)) = (&self.request, &self.upstream) else { return };
        self.listed = Some(self.worker.tunnels.add(Carried {
            place: Arc::clone(place),
            names: Arc::clone(&self.names),
            route: self.route.clone(),
            host: asked.host.clone(),
            target: asked.target.clone(),
            upstream: Arc::clone(upstream),
            endpoint: self.endpoint.clone(),
        }));
    }

    /// Notes how a tunnel ended.
    pub(super) fn tunnel_ended(&mut self, how: Closed) {
        self.tunnel = Some(how);
    }

    /// What counts a tunnel.
    pub(super) fn websockets(&self) -> Option<&WebSocketMetrics> {
        self.route.as_ref()?.metrics.websockets.as_deref()
    }

    /// Appends the present time as `Date` wants it.
    pub(super) fn write_date(&self, out: &mut Vec<u8>) {
        self.worker.stamp.write_http(out);
    }

    /// Whether the request is HEAD.
    pub(super) fn is_head(&self) -> bool {
        self.request.as_ref().is_some_and(|asked| asked.method == http::Method::HEAD)
    }

    fn count(&self) {
        if let Some(reason) = self.reason {
            self.worker.metrics.refused(reason as usize);
        }
        let Some(route) = &self.route else { return };
        let metrics = &route.metrics;
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

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        self.worker.stamp.write_rfc3339(out);
        out.extend_from_slice(b"\",");
        text(out, "id", self.id.as_str().as_bytes());
        let event = match (&self.request, self.tunnel) {
            (None, _) => "refused",
            (Some(_), Some(_)) => "tunnel",
            (Some(_), None) => "request",
        };
        text(out, "event", event.as_bytes());
        text(out, "profile", self.names.profile.as_bytes());
        text(out, "listener", self.names.listener.as_bytes());
        text(out, "client", self.facts.client.0.to_string().as_bytes());
        if let Some(asked) = &self.request {
            text(out, "method", asked.method.as_str().as_bytes());
            text(out, "host", &asked.host);
            let target = String::from_utf8_lossy(&asked.target);
            text(out, "path", query::masked(&target).as_bytes());
            text(out, "protocol", asked.version.as_str().as_bytes());
            if let Some(agent) = &asked.agent {
                text(out, "user_agent", agent);
            }
        }
        self.write_served(out);
        number(out, "generation", self.edition.number());
        text(out, "config", self.edition.hash().as_bytes());
        text(out, "tls", self.facts.tls.as_bytes());
        if let Some(sni) = &self.facts.sni {
            text(out, "sni", sni.as_bytes());
        }
        // The last comma.
        out.pop();
        out.push(b'}');
    }

    fn write_served(&self, out: &mut Vec<u8>) {
        if let Some(route) = &self.route {
            text(out, "route", route.name.as_bytes());
            if route.report_only {
                text(out, "would_deny", b"no_route");
            }
        }
        if let Some(upstream) = &self.upstream {
            text(out, "upstream", upstream.as_bytes());
        }
        if let Some(endpoint) = &self.endpoint {
            text(out, "endpoint", endpoint.as_bytes());
        }
        number(out, "status", self.status.into());
        if let Some(reason) = self.reason {
            text(out, "reason", reason.word().as_bytes());
        }
        if let Some(detail) = &self.detail {
            text(out, "detail", detail.as_bytes());
        }
        if let Some(end) = self.tunnel {
            text(out, "end", end.word().as_bytes());
        }
        if let Some(code) = self.close_code {
            number(out, "close_code", code.into());
        }
        number(out, "request_bytes", self.request_bytes);
        number(out, "response_bytes", self.response_bytes);
        if let Some(first_byte) = self.first_byte {
            millis(out, "first_byte_ms", first_byte);
        }
        millis(out, "duration_ms", self.start.elapsed());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Nobody said how it ended: the task was dropped, because the client had gone or a worker
        // was stopped.
        if self.status == 0 && self.reason.is_none() {
            self.reason = Some(Reason::ClientGone);
            self.status = Reason::ClientGone.code();
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
        self.count();
        self.worker.lines.add(|out| self.write(out));
    }
}
