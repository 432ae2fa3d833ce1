//! The access-log line and counters of one request or connection of the forward proxy.
//!
//! Created with the request's head and written on drop, so that every return path writes exactly
//! one line.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::addr::{ClientAddr, Destination};
use crate::downstream::{RequestId, Worker};
use crate::egress::{Denial, EgressClient, Grant};
use crate::generation::ConfigVersion;
use crate::generation::forward_proxy::ForwardProxyListener;
use crate::message::reason::Flag;
use crate::message::{ProxiedHead, Reason, RequestForm, Version};
use crate::net::Phase;
use crate::telemetry::line::{Key, LineWriter, LogEvent};
use crate::telemetry::mask::QueryMask;

use super::runtime::{PROFILE_LABEL, RuleStats};
use super::{ForwardConn, ForwardListenerState, ForwardRuntime};

/// See the module.
pub(super) struct EgressLog {
    worker: Rc<Worker>,
    client_conn: Rc<ForwardConn>,
    listener: Arc<ForwardProxyListener>,
    config_version: Arc<ConfigVersion>,
    tally: Arc<RuleStats>,
    pub(super) id: RequestId,
    pub(super) start: Instant,
    asked: Option<Box<EgressLogFields>>,
    pub(super) user: Option<Box<str>>,
    destination: Option<Destination>,
    /// Reason that report mode suppressed.
    reported: Option<Reason>,
    /// The complete denial.
    pub(super) denial: Option<Box<Denial>>,
    pub(super) upstream_addr: Option<SocketAddr>,
    pub(super) parent: Option<Box<str>>,
    pub(super) sni: Option<Box<str>>,
    connect: Option<Duration>,
    /// 0 until an answer has begun.
    pub(super) status: u16,
    /// Why it was refused or cut.
    pub(super) reason: Option<Reason>,
    /// Reason found, but allowed by a setting.
    pub(super) noted: Option<Reason>,
    /// Message of the system, the resolver or a parent, for the operator.
    pub(super) detail: Option<String>,
    /// Seconds after which the client may ask again, where that is known.
    pub(super) retry_after: Option<u64>,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    tunnel: Option<&'static str>,
    active: bool,
}

/// Fields used only for the log line.
struct EgressLogFields {
    version: Version,
    method: http::Method,
    form: RequestForm,
    /// Target as the client wrote it, until it is parsed as a destination.
    authority: Bytes,
    path: Option<Bytes>,
    agent: Option<Bytes>,
}

impl EgressLog {
    /// For a connection, or a request that was refused before its head could be read.
    pub(super) fn new(
        worker: &Rc<Worker>,
        client_conn: &Rc<ForwardConn>,
        listener_state: &Arc<ForwardListenerState>,
    ) -> Self {
        Self {
            id: worker.ids.next(),
            worker: Rc::clone(worker),
            client_conn: Rc::clone(client_conn),
            listener: Arc::clone(&listener_state.listener),
            config_version: Arc::clone(&listener_state.way.forward_proxy.config_version),
            tally: Arc::clone(&listener_state.way.no_rule),
            start: Instant::now(),
            asked: None,
            user: None,
            destination: None,
            reported: None,
            denial: None,
            upstream_addr: None,
            parent: None,
            sni: None,
            connect: None,
            status: 0,
            reason: None,
            noted: None,
            detail: None,
            retry_after: None,
            request_bytes: 0,
            response_bytes: 0,
            tunnel: None,
            active: false,
        }
    }

    /// Records the request head.
    pub(super) fn on_head(&mut self, asked: &ProxiedHead) {
        let ProxiedHead { form, head } = asked;
        // Copies: slices of the head would keep all of it for as long as a tunnel lives.
        let agent = head.fields.first(crate::message::KnownField::UserAgent);
        self.asked = Some(Box::new(EgressLogFields {
            version: head.version,
            method: head.method.clone(),
            form: *form,
            authority: Bytes::copy_from_slice(&head.host),
            path: (*form != RequestForm::Connect).then(|| Bytes::copy_from_slice(&head.target)),
            agent: agent.map(Bytes::copy_from_slice),
        }));
    }

    /// Records the destination.
    pub(super) fn on_destination(&mut self, destination: &Destination) {
        self.destination = Some(destination.clone());
        if let Some(asked) = &mut self.asked {
            asked.authority = Bytes::new();
        }
    }

    /// Records the rule that allows the request.
    pub(super) fn on_grant(&mut self, way: &ForwardRuntime, grant: &Grant) {
        self.tally = Arc::clone(way.tally(&grant.rule));
        self.active = true;
        self.tally.metrics.active.inc();
        if let Some(denial) = &grant.reported {
            self.reported = Some(denial.reason);
            self.tally.metrics.reported.inc();
        }
    }

    /// Records a denial by the rules.
    pub(super) fn denied(&mut self, way: &ForwardRuntime, denial: Denial) {
        if !self.active
            && let Some(rule) = &denial.rule
        {
            self.tally = Arc::clone(way.tally(rule));
        }
        self.refused(denial.reason, None);
        self.denial = Some(Box::new(denial));
    }

    /// Records a rejection.
    pub(super) fn refused(&mut self, reason: Reason, detail: Option<String>) {
        self.reason = Some(reason);
        self.status = reason.code();
        self.detail = detail.or(self.detail.take());
    }

    /// Records the connection to the destination.
    pub(super) fn connected(&mut self) {
        let took = self.start.elapsed();
        self.tally.metrics.connect.observe(took.as_secs_f64());
        self.connect = Some(took);
    }

    /// Records the start of a tunnel; its end is recorded later.
    pub(super) fn opened(&mut self) {
        self.status = 200;
        self.tunnel = Some("unknown");
    }

    /// Records the end of a tunnel.
    pub(super) fn tunnel_ended(&mut self, word: &'static str) {
        self.tunnel = Some(word);
    }

    /// Client of the request, as the rules see it.
    pub(super) fn client(&self) -> EgressClient<'_> {
        EgressClient {
            ip: self.client_conn.client.ip(),
            user: self.user.as_deref(),
            names: &self.client_conn.names,
        }
    }

    /// The client's own address and port.
    pub(super) fn address(&self) -> ClientAddr {
        self.client_conn.client
    }

    /// Whether the listener still accepts the client's handshake.
    pub(super) fn is_accepted_by(&self, listener: &ForwardProxyListener) -> bool {
        self.client_conn.is_accepted_by(listener)
    }

    pub(super) fn destination(&self) -> Option<&Destination> {
        self.destination.as_ref()
    }

    pub(super) fn rule(&self) -> &RuleStats {
        &self.tally
    }

    fn count(&self) {
        let metrics = &self.tally.metrics;
        match self.reason {
            Some(reason) => {
                self.worker.metrics.refused(reason as usize);
                metrics.refused(reason as usize, reason.word());
            }
            None => metrics.served.inc(),
        }
        metrics.sent.inc_by(self.request_bytes);
        metrics.received.inc_by(self.response_bytes);
        if self.active {
            metrics.active.dec();
        }
    }

    fn tell_asked(&self, line: &mut impl LineWriter, asked: &EgressLogFields) {
        line.text(Key::Method, asked.method.as_str().as_bytes());
        match &self.destination {
            Some(destination) => {
                line.text(Key::Destination, destination.to_string().as_bytes());
            }
            // Not known to be a host and a port: it may begin with a user and a password.
            None => line.text(Key::Destination, &QueryMask::default().masked(&asked.authority)),
        }
        if let Some(path) = &asked.path {
            let scheme = if asked.form == RequestForm::Https { "https" } else { "http" };
            line.text(Key::Scheme, scheme.as_bytes());
            line.target(Key::Path, path);
        }
        line.text(Key::Protocol, asked.version.as_str().as_bytes());
        if let Some(agent) = &asked.agent {
            line.text(Key::Agent, agent);
        }
    }

    fn tell_outcome(&self, line: &mut impl LineWriter) {
        if let Some(upstream_addr) = &self.upstream_addr {
            line.address(Key::UpstreamAddr, *upstream_addr);
        }
        if let Some(parent) = &self.parent {
            line.text(Key::Parent, parent.as_bytes());
        }
        if let Some(sni) = &self.sni {
            line.text(Key::Sni, sni.as_bytes());
        }
        line.number(Key::Status, self.status.into());
        if let Some(reason) = self.reason.or(self.noted) {
            line.text(Key::Reason, reason.word().as_bytes());
        }
        let reason = self.reason.map(Reason::flag);
        if let Some(flag) = reason.or_else(|| self.tunnel.and_then(Flag::of_end)) {
            line.text(Key::Flags, flag.letters().as_bytes());
        }
        if let (Some(denial), Some(destination)) = (&self.denial, &self.destination) {
            line.text(Key::Error, denial.why(&self.client(), destination).as_bytes());
        } else if let Some(detail) = &self.detail {
            line.text(Key::Error, detail.as_bytes());
        }
        if let Some(end) = self.tunnel {
            line.text(Key::CloseReason, end.as_bytes());
        }
        line.number(Key::RequestBytes, self.request_bytes);
        line.number(Key::ResponseBytes, self.response_bytes);
        if let Some(connect) = self.connect {
            line.took(Key::Connect, connect);
        }
        line.took(Key::Duration, self.start.elapsed());
    }
}

impl LogEvent for EgressLog {
    fn write_fields<L: LineWriter>(&self, line: &mut L) {
        line.text(Key::Id, self.id.as_str().as_bytes());
        let event = match (&self.asked, self.tunnel) {
            (None, _) => "rejected",
            (Some(_), Some(_)) => "tunnel",
            (Some(_), None) => "egress",
        };
        line.text(Key::Event, event.as_bytes());
        line.text(Key::Profile, PROFILE_LABEL.as_bytes());
        line.text(Key::Listener, self.listener.label.as_bytes());
        line.address(Key::Client, self.client_conn.client.0);
        if let Some(via) = &self.client_conn.via {
            via.write_fields(line);
        }
        if let Some(user) = &self.user {
            line.text(Key::User, user.as_bytes());
        }
        if let Some(asked) = &self.asked {
            self.tell_asked(line, asked);
        }
        if self.active || self.denial.as_ref().is_some_and(|denial| denial.rule.is_some()) {
            line.text(Key::Rule, self.tally.name.as_bytes());
        }
        if let Some(reason) = self.reported {
            line.text(Key::WouldDeny, reason.word().as_bytes());
        }
        self.tell_outcome(line);
        line.number(Key::Generation, self.config_version.number());
        line.text(Key::ConfigHash, self.config_version.hash().as_bytes());
        line.text(Key::Tls, self.client_conn.tls.as_bytes());
    }
}

impl Drop for EgressLog {
    fn drop(&mut self) {
        // No result was set: the task was dropped, because the client had gone or a worker was
        // stopped.
        if self.status == 0 && self.reason.is_none() {
            self.refused(Reason::ClientGone, None);
        }
        if self.reason.is_none()
            && self.tunnel.is_none()
            && self.worker.local.phase() == Phase::Cutting
        {
            self.reason = Some(Reason::Draining);
        }
        self.count();
        self.worker.lines.add(&self.worker.stamp, self);
    }
}
