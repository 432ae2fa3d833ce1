//! One request to the proxy: every question in its order, then the tunnel or the exchange.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::addr::Destination;
use crate::downstream::accept::Acceptor as _;
use crate::downstream::{Conn, LocalReply};
use crate::egress::{Grant, Verdict};
use crate::message::{Framing, ProxiedHead, Reason, RequestForm};
use crate::net::Io;
use crate::net::rate::Rate;
use crate::net::tunnel::TunnelStream;

use super::connect::{EgressConnectError, EgressStream, Errand};
use super::limits::TunnelPermit;
use super::record::EgressLog;
use super::serve::{AfterRequest, CLIENT_WRITE_TIMEOUT};
use super::tunnel::OpenedTunnel;
use super::{ForwardConn, ForwardRuntime, ForwardService, client_hello, exchange, rejection};

/// `Allow` of a TRACE that may go no further.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT";

/// One request being served.
pub(super) struct EgressRequest<'a> {
    pub(super) service: &'a Rc<ForwardService>,
    pub(super) way: &'a Arc<ForwardRuntime>,
    pub(super) client_conn: &'a ForwardConn,
    pub(super) asked: ProxiedHead,
}

/// A request that may go on, and the connection it goes on.
pub(super) struct ReadyRequest {
    pub(super) grant: Grant,
    pub(super) destination: Destination,
    pub(super) reached: EgressStream,
    pub(super) place: TunnelPermit,
    rate: Option<Arc<Rate>>,
}

/// The record says why.
pub(super) struct RequestRejected;

impl EgressRequest<'_> {
    /// Serves it. The record ends with it, or goes on with the tunnel.
    pub(super) async fn serve<T: TunnelStream>(
        self,
        conn: &mut Conn<T>,
        mut record: EgressLog,
    ) -> AfterRequest {
        let ready = match self.prepare(conn, &mut record).await {
            Ok(ready) => ready,
            Err(RequestRejected) => return self.refuse(conn, &mut record),
        };
        match self.asked.form {
            RequestForm::Connect => self.tunnel(conn, record, ready).await,
            RequestForm::Http | RequestForm::Https => {
                exchange::serve(&self, conn, &mut record, ready).await
            }
        }
    }

    /// Asks everything there is to ask, in this order: how often, where to, who, whether, how many,
    /// and whether it can be reached.
    async fn prepare<T: Io>(
        &self,
        conn: &mut Conn<T>,
        record: &mut EgressLog,
    ) -> Result<ReadyRequest, RequestRejected> {
        let (forward_proxy, forward_shared) =
            (&self.way.forward_proxy, &self.service.forward_shared);
        let client = record.address();
        let refused = |record: &mut EgressLog, reason, detail| {
            record.refused(reason, detail);
            RequestRejected
        };
        forward_shared
            .usage
            .ask(client, &forward_proxy.limits, std::time::Instant::now())
            .map_err(|reason| refused(record, reason, None))?;
        let destination = self.destination(record)?;
        self.identify(conn, record, &destination).await?;
        let (form, now) = (self.asked.form, Timestamp::now());
        let grant = match forward_proxy.policy.decide(&record.client(), &destination, form, now) {
            Verdict::Allowed(grant) => grant,
            Verdict::Denied(denial) => {
                record.denied(self.way, denial);
                return Err(RequestRejected);
            }
        };
        if grant.reported.is_some() {
            forward_proxy.seen.note(&record.client(), &destination, form, now);
        }
        record.on_grant(self.way, &grant);
        match self.asked.head.hops_left() {
            // It may go no further: answered here, and to be logged as an answer.
            Some(0) if self.asked.head.method == Method::OPTIONS => return Err(RequestRejected),
            Some(0) => return Err(refused(record, Reason::MethodNotAllowed, None)),
            _ => {}
        }
        let (place, rate) = forward_shared
            .usage
            .open(client, &forward_proxy.limits)
            .map_err(|reason| refused(record, reason, None))?;
        let checkout = Errand { forward_shared, forward_proxy, network: client.network(), form };
        match until_gone(conn, checkout.reach(&grant, &destination)).await {
            Some(Ok(reached)) => {
                record.connected();
                record.upstream_addr = reached.upstream_addr;
                record.parent.clone_from(&reached.parent);
                Ok(ReadyRequest { grant, destination, reached, place, rate })
            }
            Some(Err(EgressConnectError::Denied(denial))) => {
                record.denied(self.way, denial);
                Err(RequestRejected)
            }
            Some(Err(EgressConnectError::Failed(reason, said))) => {
                Err(refused(record, reason, Some(said)))
            }
            None => Err(refused(record, Reason::ClientGone, None)),
        }
    }

    /// Parses the destination of the request.
    fn destination(&self, record: &mut EgressLog) -> Result<Destination, RequestRejected> {
        let default = match self.asked.form {
            RequestForm::Connect => None,
            RequestForm::Http => Some(80),
            RequestForm::Https => Some(443),
        };
        let destination = match Destination::parse(&self.asked.head.host, default) {
            Ok(destination) => destination,
            Err(bad) => {
                record.refused(Reason::BadDestination, Some(bad.to_string()));
                return Err(RequestRejected);
            }
        };
        record.on_destination(&destination);
        if self.asked.form == RequestForm::Https && self.way.forward_proxy.origin_tls.is_none() {
            let why = rejection::HTTPS_IN_CLEAR.to_owned();
            record.refused(Reason::HttpsInClear, Some(why));
            return Err(RequestRejected);
        }
        Ok(destination)
    }

    /// Answers 200, judges the client's first bytes, and starts the tunnel.
    async fn tunnel<T: Io>(
        &self,
        conn: &mut Conn<T>,
        mut record: EgressLog,
        ready: ReadyRequest,
    ) -> AfterRequest {
        let ReadyRequest { grant, destination, reached, place, rate } = ready;
        let timeouts = &self.way.forward_proxy.timeouts;
        let out = conn.out.staged();
        out.extend_from_slice(b"HTTP/1.1 200 Connection established\r\nX-Request-Id: ");
        out.extend_from_slice(record.id.as_str().as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        record.opened();
        if conn.flush(CLIENT_WRITE_TIMEOUT).await.is_err() {
            record.tunnel_ended("client_broken");
            return AfterRequest::Cut;
        }
        let sni = grant.rule.sni(destination.port);
        let admitted =
            client_hello::admit(conn, (sni, timeouts.client_hello), &destination, &mut record)
                .await;
        let retried_from = match admitted {
            Ok(retried_from) => retried_from,
            Err(reason) => {
                // The 200 has been sent: the status stays as the client saw it.
                record.reason = Some(reason);
                record.tunnel_ended("rejected");
                return AfterRequest::Close;
            }
        };
        let ends_at = ends_at(timeouts.max_lifetime, &grant);
        AfterRequest::Tunnel(Box::new(OpenedTunnel {
            rates: [record.rule().rate(), rate],
            record,
            stream: reached.stream,
            early: reached.early,
            second: retried_from.map(|from| (from, sni)),
            idle: timeouts.idle,
            ends_at,
            place,
            way: Arc::clone(self.way),
        }))
    }

    /// Whether the connection carries no further request.
    pub(super) fn is_last(&self) -> bool {
        self.service.is_draining() || self.client_conn.is_outdated(self.service)
    }

    /// Answers with the refusal the record has.
    pub(super) fn refuse<T: Io>(&self, conn: &mut Conn<T>, record: &mut EgressLog) -> AfterRequest {
        if record.reason == Some(Reason::ClientGone) {
            return AfterRequest::Cut;
        }
        let head = &self.asked.head;
        let reply = match record.reason {
            None => LocalReply::good(""),
            Some(reason) => {
                let reply =
                    rejection::reply(record, rejection::ExplanationFormat::of(&head.fields));
                let allow = (reason == Reason::MethodNotAllowed).then(|| METHODS.to_owned());
                LocalReply { allow, ..reply }
            }
        };
        record.status = reply.status.as_u16();
        record.response_bytes = reply.body.len() as u64;
        // Bytes that were meant for a tunnel are no request.
        let ahead = self.asked.form == RequestForm::Connect && !conn.input.is_empty();
        let kept = head.keep_alive && head.framing == Framing::None && !ahead && !self.is_last();
        let worker = &self.service.worker;
        reply.write(conn.out.staged(), worker, &record.id, Some(&head.method), !kept);
        if kept { AfterRequest::KeepAlive } else { AfterRequest::Close }
    }
}

/// When a tunnel ends whatever happens: its longest life is over, or its rule's time.
fn ends_at(total: Duration, grant: &Grant) -> Option<Instant> {
    let now = Instant::now();
    let total = (!total.is_zero()).then(|| now + total);
    // The rule's own expiry does not apply to requests that report mode let through.
    let until = grant.rule.settings.until.filter(|_| grant.reported.is_none());
    let rule = until.map(|until| {
        let left = until.duration_since(Timestamp::now());
        now + Duration::try_from(left).unwrap_or_default()
    });
    [total, rule].into_iter().flatten().min()
}

/// Runs `future`, unless the client goes first.
pub(super) async fn until_gone<T: Io, F: Future>(
    conn: &mut Conn<T>,
    future: F,
) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => conn.poll_gone(cx).map(|()| None),
    })
    .await
}
