//! Access-log line and metrics of a passthrough connection.
//!
//! The record is created when the connection is accepted and written when it is dropped. So there
//! is exactly one line on every code path.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::addr::ClientAddr;
use crate::downstream::balancer::ProxyHeader;
use crate::downstream::{RequestId, Worker};
use crate::generation::passthrough::{PassthroughConn, PassthroughRoute, PassthroughRouteStats};
use crate::generation::virtual_server::ListenerLabels;
use crate::generation::{ConfigVersion, PassthroughListener};
use crate::message::Reason;
use crate::message::reason::Flag;
use crate::net::Phase;
use crate::telemetry::line::{Key, LineWriter, LogEvent};
use crate::telemetry::tcp::PassthroughEnd;
use crate::upstream::Endpoint;

/// Record of one passthrough connection.
pub(super) struct PassthroughLog {
    worker: Rc<Worker>,
    names: Arc<ListenerLabels>,
    config_version: Arc<ConfigVersion>,
    stats: Arc<PassthroughRouteStats>,
    pub(super) id: RequestId,
    pub(super) start: Instant,
    pub(super) client: ClientAddr,
    /// PROXY header of the connection, if a listed balancer sent one.
    pub(super) via: Option<Box<ProxyHeader>>,
    /// Server name in the ClientHello.
    pub(super) server_name: Option<Arc<str>>,
    upstream: Option<Arc<str>>,
    endpoint: Option<Arc<str>>,
    upstream_addr: Option<SocketAddr>,
    connect: Option<Duration>,
    reason: Option<Reason>,
    /// Detail of the reason, for the operator.
    detail: Option<Box<str>>,
    /// Length of the PROXY header sent to the upstream, in bytes.
    pub(super) header: u64,
    /// Bytes of the client sent to the upstream.
    pub(super) sent: u64,
    /// Bytes received from the upstream.
    pub(super) received: u64,
    end: Option<PassthroughEnd>,
    /// Number in the registry of the worker, once the tunnel is open.
    listed: Option<u64>,
}

impl PassthroughLog {
    pub(super) fn new(
        worker: &Rc<Worker>,
        client: ClientAddr,
        passthrough_listener: &PassthroughListener,
    ) -> Self {
        Self {
            id: worker.ids.next(),
            worker: Rc::clone(worker),
            names: Arc::clone(&passthrough_listener.names),
            config_version: Arc::clone(&passthrough_listener.config_version),
            stats: Arc::clone(&passthrough_listener.no_route),
            start: Instant::now(),
            client,
            via: None,
            server_name: None,
            upstream: None,
            endpoint: None,
            upstream_addr: None,
            connect: None,
            reason: None,
            detail: None,
            header: 0,
            sent: 0,
            received: 0,
            end: None,
            listed: None,
        }
    }

    /// Records the route of the connection.
    pub(super) fn set_route(&mut self, route: &PassthroughRoute) {
        self.stats = Arc::clone(&route.stats);
        self.upstream = Some(Arc::clone(&route.upstream.name));
    }

    /// Records that the connection is rejected.
    pub(super) fn refused(&mut self, reason: Reason, detail: Option<String>) {
        self.reason = Some(reason);
        self.detail = detail.map(String::into_boxed_str);
    }

    /// Records the connection to an endpoint.
    pub(super) fn connected(&mut self, endpoint: &Endpoint, upstream_addr: Option<SocketAddr>) {
        self.endpoint = Some(Arc::clone(&endpoint.label));
        self.upstream_addr = upstream_addr;
        self.connect = Some(self.start.elapsed());
    }

    /// Records that the tunnel is open, and adds it to the registry of the worker. Returns the
    /// facts by which later generations decide whether it is still allowed.
    pub(super) fn opened(&mut self, place: &Arc<ArcSwap<PassthroughListener>>) -> PassthroughConn {
        let passthrough_conn = PassthroughConn {
            listener: Arc::clone(place),
            names: Arc::clone(&self.names),
            stats: Arc::clone(&self.stats),
            client: self.client,
            server_name: self.server_name.clone(),
            upstream: self.upstream.clone().unwrap_or_default(),
            endpoint: self.endpoint.clone().unwrap_or_default(),
        };
        self.end = Some(PassthroughEnd::Unknown);
        self.stats.metrics.passed.inc();
        self.stats.metrics.active.inc();
        self.listed = Some(self.worker.passthrough_conn.add(passthrough_conn.clone()));
        passthrough_conn
    }

    /// Records the end of the tunnel.
    pub(super) fn ended(&mut self, how: PassthroughEnd) {
        self.end = Some(how);
    }

    fn count(&self) {
        let metrics = &self.stats.metrics;
        if let Some(reason) = self.reason {
            self.worker.metrics.refused(reason as usize);
            // A connection with an open tunnel was already counted by `opened`.
            if self.end.is_none() {
                metrics.refused(reason as usize, reason.word());
            }
        }
        if let Some(end) = self.end {
            metrics.active.dec();
            metrics.ended(end);
            metrics.sent.inc_by(self.sent);
            metrics.received.inc_by(self.received);
        }
    }
}

impl LogEvent for PassthroughLog {
    fn write_fields<L: LineWriter>(&self, line: &mut L) {
        line.text(Key::Id, self.id.as_str().as_bytes());
        let event = if self.end.is_some() { "tunnel" } else { "rejected" };
        line.text(Key::Event, event.as_bytes());
        line.text(Key::Profile, self.names.profile.as_bytes());
        line.text(Key::Listener, self.names.listener.as_bytes());
        line.address(Key::Client, self.client.0);
        if let Some(via) = &self.via {
            via.write_fields(line);
        }
        if let Some(upstream) = &self.upstream {
            line.text(Key::Route, self.stats.name.as_bytes());
            line.text(Key::Upstream, upstream.as_bytes());
        }
        if let Some(endpoint) = &self.endpoint {
            line.text(Key::Endpoint, endpoint.as_bytes());
        }
        if let Some(upstream_addr) = self.upstream_addr {
            line.address(Key::UpstreamAddr, upstream_addr);
        }
        if let Some(reason) = self.reason {
            line.text(Key::Reason, reason.word().as_bytes());
        }
        let of_end = self.end.and_then(|end| Flag::of_end(end.word()));
        if let Some(flag) = self.reason.map(Reason::flag).or(of_end) {
            line.text(Key::Flags, flag.letters().as_bytes());
        }
        if let Some(detail) = &self.detail {
            line.text(Key::Error, detail.as_bytes());
        }
        if let Some(end) = self.end {
            line.text(Key::CloseReason, end.word().as_bytes());
            line.number(Key::RequestBytes, self.sent);
            line.number(Key::ResponseBytes, self.received);
        }
        if let Some(connect) = self.connect {
            line.took(Key::Connect, connect);
        }
        line.took(Key::Duration, self.start.elapsed());
        line.number(Key::Generation, self.config_version.number());
        line.text(Key::ConfigHash, self.config_version.hash().as_bytes());
        if let Some(name) = &self.server_name {
            line.text(Key::Sni, name.as_bytes());
        }
    }
}

impl Drop for PassthroughLog {
    fn drop(&mut self) {
        // Neither an end nor a reason was recorded: the task was dropped with its worker.
        if self.end.is_none() && self.reason.is_none() {
            let draining = self.worker.local.phase() == Phase::Cutting;
            self.reason = Some(if draining { Reason::Draining } else { Reason::ClientGone });
        }
        if let Some(number) = self.listed {
            self.worker.passthrough_conn.remove(number);
        }
        self.count();
        if self.names.logs {
            self.worker.lines.add(&self.worker.stamp, self);
        }
    }
}
