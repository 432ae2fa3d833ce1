//! What became of one request or connection: its log line and its counters.
//!
//! Made when a request's head is there, written when it is dropped, so that no way out can forget
//! it and none can write it twice.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::addr::{ClientAddr, Destination};
use crate::downstream::{RequestId, Worker};
use crate::egress::{Client, Denial, Grant};
use crate::generation::outlet::Listener;
use crate::message::{Form, ProxiedHead, Reason, Version, query};
use crate::net::Phase;
use crate::telemetry::access_log::{millis, number, text};

use super::way::{PROFILE, Tally};
use super::{Facts, Stand, Way};

/// See the module.
pub(super) struct Record {
    worker: Rc<Worker>,
    facts: Rc<Facts>,
    listener: Arc<Listener>,
    tally: Arc<Tally>,
    pub(super) id: RequestId,
    pub(super) start: Instant,
    asked: Option<Box<Asked>>,
    pub(super) user: Option<Box<str>>,
    destination: Option<Destination>,
    /// What report mode let through.
    reported: Option<Reason>,
    /// Why it is denied, in full.
    pub(super) denial: Option<Box<Denial>>,
    pub(super) dialled: Option<SocketAddr>,
    pub(super) parent: Option<Box<str>>,
    pub(super) sni: Option<Box<str>>,
    connect: Option<Duration>,
    /// 0 until an answer has begun.
    pub(super) status: u16,
    /// Why it was refused or cut.
    pub(super) reason: Option<Reason>,
    /// What was found, and let pass by a setting.
    pub(super) noted: Option<Reason>,
    /// What the system, the resolver or a parent said, for the operator.
    pub(super) detail: Option<String>,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    tunnel: Option<&'static str>,
    active: bool,
}

/// What is only needed for the line.
struct Asked {
    version: Version,
    method: http::Method,
    form: Form,
    /// As it was written, as long as it is not known to be a destination.
    authority: Bytes,
    path: Option<Bytes>,
    agent: Option<Bytes>,
}

impl Record {
    /// For a connection, or a request that was refused before its head could be read.
    pub(super) fn new(worker: &Rc<Worker>, facts: &Rc<Facts>, stand: &Arc<Stand>) -> Self {
        Self {
            id: worker.ids.next(),
            worker: Rc::clone(worker),
            facts: Rc::clone(facts),
            listener: Arc::clone(&stand.listener),
            tally: Arc::clone(&stand.way.no_rule),
            start: Instant::now(),
            asked: None,
            user: None,
            destination: None,
            reported: None,
            denial: None,
            dialled: None,
            parent: None,
            sni: None,
            connect: None,
            status: 0,
            reason: None,
            noted: None,
            detail: None,
            request_bytes: 0,
            response_bytes: 0,
            tunnel: None,
            active: false,
        }
    }

    /// Notes what is asked for.
    pub(super) fn on_head(&mut self, asked: &ProxiedHead) {
        let ProxiedHead { form, head } = asked;
        // Copies: slices of the head would keep all of it for as long as a tunnel lives.
        let agent = head.fields.first(crate::message::Known::UserAgent);
        self.asked = Some(Box::new(Asked {
            version: head.version,
            method: head.method.clone(),
            form: *form,
            authority: Bytes::copy_from_slice(&head.host),
            path: (*form != Form::Connect).then(|| Bytes::copy_from_slice(&head.target)),
            agent: agent.map(Bytes::copy_from_slice),
        }));
    }

    /// Notes where it is to go.
    pub(super) fn on_destination(&mut self, destination: &Destination) {
        self.destination = Some(destination.clone());
        if let Some(asked) = &mut self.asked {
            asked.authority = Bytes::new();
        }
    }

    /// Notes under which rule it may.
    pub(super) fn on_grant(&mut self, way: &Way, grant: &Grant) {
        self.tally = Arc::clone(way.tally(&grant.rule));
        self.active = true;
        self.tally.metrics.active.inc();
        if let Some(denial) = &grant.reported {
            self.reported = Some(denial.reason);
            self.tally.metrics.reported.inc();
        }
    }

    /// Notes that the rules deny it.
    pub(super) fn denied(&mut self, way: &Way, denial: Denial) {
        if !self.active
            && let Some(rule) = &denial.rule
        {
            self.tally = Arc::clone(way.tally(rule));
        }
        self.refused(denial.reason, None);
        self.denial = Some(Box::new(denial));
    }

    /// Notes that it is refused.
    pub(super) fn refused(&mut self, reason: Reason, detail: Option<String>) {
        self.reason = Some(reason);
        self.status = reason.code();
        self.detail = detail.or(self.detail.take());
    }

    /// Notes that there is a connection to the destination.
    pub(super) fn connected(&mut self) {
        let took = self.start.elapsed();
        self.tally.metrics.connect.observe(took.as_secs_f64());
        self.connect = Some(took);
    }

    /// Notes that it has become a tunnel, whose end is set when it ends.
    pub(super) fn opened(&mut self) {
        self.status = 200;
        self.tunnel = Some("unknown");
    }

    /// Notes how a tunnel ended.
    pub(super) fn tunnel_ended(&mut self, word: &'static str) {
        self.tunnel = Some(word);
    }

    /// Who asks, as the rules see it.
    pub(super) fn client(&self) -> Client<'_> {
        Client { ip: self.facts.client.ip(), user: self.user.as_deref(), names: &self.facts.names }
    }

    /// The client's own address and port.
    pub(super) fn address(&self) -> ClientAddr {
        self.facts.client
    }

    pub(super) fn destination(&self) -> Option<&Destination> {
        self.destination.as_ref()
    }

    pub(super) fn rule(&self) -> &Tally {
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

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        self.worker.stamp.write_rfc3339(out);
        out.extend_from_slice(b"\",");
        text(out, "id", self.id.as_str().as_bytes());
        let event = match (&self.asked, self.tunnel) {
            (None, _) => "refused",
            (Some(_), Some(_)) => "tunnel",
            (Some(_), None) => "egress",
        };
        text(out, "event", event.as_bytes());
        text(out, "profile", PROFILE.as_bytes());
        text(out, "listener", self.listener.label.as_bytes());
        text(out, "client", self.facts.client.0.to_string().as_bytes());
        if let Some(user) = &self.user {
            text(out, "user", user.as_bytes());
        }
        if let Some(asked) = &self.asked {
            self.write_asked(out, asked);
        }
        if self.active || self.denial.as_ref().is_some_and(|denial| denial.rule.is_some()) {
            text(out, "rule", self.tally.name.as_bytes());
        }
        if let Some(reason) = self.reported {
            text(out, "would_deny", reason.word().as_bytes());
        }
        self.write_outcome(out);
        text(out, "tls", self.facts.tls.as_bytes());
        // The last comma.
        out.pop();
        out.push(b'}');
    }

    fn write_asked(&self, out: &mut Vec<u8>, asked: &Asked) {
        text(out, "method", asked.method.as_str().as_bytes());
        match &self.destination {
            Some(destination) => {
                text(out, "destination", destination.to_string().as_bytes());
            }
            None => text(out, "destination", &asked.authority),
        }
        if let Some(path) = &asked.path {
            let scheme = if asked.form == Form::Https { "https" } else { "http" };
            text(out, "scheme", scheme.as_bytes());
            text(out, "path", query::masked(&String::from_utf8_lossy(path)).as_bytes());
        }
        text(out, "protocol", asked.version.as_str().as_bytes());
        if let Some(agent) = &asked.agent {
            text(out, "user_agent", agent);
        }
    }

    fn write_outcome(&self, out: &mut Vec<u8>) {
        if let Some(dialled) = &self.dialled {
            text(out, "dialled", dialled.to_string().as_bytes());
        }
        if let Some(parent) = &self.parent {
            text(out, "parent", parent.as_bytes());
        }
        if let Some(sni) = &self.sni {
            text(out, "sni", sni.as_bytes());
        }
        number(out, "status", self.status.into());
        if let Some(reason) = self.reason.or(self.noted) {
            text(out, "reason", reason.word().as_bytes());
        }
        if let (Some(denial), Some(destination)) = (&self.denial, &self.destination) {
            text(out, "detail", denial.why(&self.client(), destination).as_bytes());
        } else if let Some(detail) = &self.detail {
            text(out, "detail", detail.as_bytes());
        }
        if let Some(end) = self.tunnel {
            text(out, "end", end.as_bytes());
        }
        number(out, "request_bytes", self.request_bytes);
        number(out, "response_bytes", self.response_bytes);
        if let Some(connect) = self.connect {
            millis(out, "connect_ms", connect);
        }
        millis(out, "duration_ms", self.start.elapsed());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Nobody said how it ended: the task was dropped, because the client had gone or a worker
        // was stopped.
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
        self.worker.lines.add(|out| self.write(out));
    }
}
