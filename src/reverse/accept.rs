//! Connections of a listener: admission, handshake, and which protocol it is to be.

use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::addr::ClientAddr;
use crate::downstream::accept::{Acceptor, AdmittedConn};
use crate::downstream::balancer::{BalancerError, identify};
use crate::downstream::handshake::{
    HandshakeError, finished, handshake, part, refuse_name, version,
};
use crate::downstream::{LocalReply, Worker};
use crate::generation::VirtualServer;
use crate::message::Reason;
use crate::telemetry::listeners::AdmissionRejection;

use super::record::RequestLog;
use super::{ClientConn, ReverseService, h1, h2};

impl Acceptor for ReverseService {
    fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    fn is_closing(&self) -> bool {
        self.closing.get()
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, peer: ClientAddr) {
        let site = self.site.load_full();
        site.metrics.accepted.inc();
        let limits = (site.limits.connections, site.limits.connections_per_client);
        let balancers = site.proxy_protocol.as_ref();
        match AdmittedConn::new(&self.admission, peer, limits, balancers, &site.metrics) {
            Ok(admitted) => {
                let own = Rc::clone(self);
                self.worker
                    .local
                    .spawn(async move { connection(own, site, stream, (peer, admitted)).await });
            }
            Err(reason) => refuse(self, &site, ClientConn::of(peer, None), (reason, None)),
        }
    }

    fn shed(self: &Rc<Self>, peer: ClientAddr) {
        let site = self.site.load_full();
        site.metrics.reject(AdmissionRejection::Descriptors);
        refuse(self, &site, ClientConn::of(peer, None), (Reason::NoDescriptors, None));
    }
}

/// Notes a connection that ends before its first request.
fn refuse(
    service: &Rc<ReverseService>,
    site: &Arc<VirtualServer>,
    facts: ClientConn,
    (reason, detail): (Reason, Option<String>),
) {
    let began = facts.began;
    let mut record = RequestLog::refused(&service.worker, &Rc::new(facts), site);
    record.start = began;
    record.reason = Some(reason);
    record.detail = detail;
}

async fn connection(
    service: Rc<ReverseService>,
    site: Arc<VirtualServer>,
    mut stream: TcpStream,
    (peer, mut admitted): (ClientAddr, AdmittedConn),
) {
    let began = Instant::now();
    let facts = |via| ClientConn { began, ..ClientConn::of(peer, via) };
    // Without it answers wait for acknowledgements; a socket that refuses is already closed.
    if stream.set_nodelay(true).is_err() {
        return refuse(&service, &site, facts(None), (Reason::ClientGone, None));
    }
    let alarm = service.worker.local.clock.alarm();
    alarm.set(site.timeouts.handshake);
    let mut facts = match identify(&mut stream, peer, &mut admitted, &alarm, &site.metrics).await {
        Ok(via) => facts(via),
        Err(BalancerError::Probe) => return,
        Err(BalancerError::Refused(via, reason, detail)) => {
            return refuse(&service, &site, facts(via), (reason, detail));
        }
    };
    if site.announces && facts.destination.is_none() {
        facts.destination = stream.local_addr().ok();
    }
    let Some(settings) = &site.tls else {
        drop((alarm, site));
        return h1::serve(&service, facts, stream, admitted).await;
    };
    match handshake(stream, settings, &alarm, &site.metrics).await {
        Ok(stream) => {
            let tls = version(&stream);
            let (_, session) = stream.get_ref();
            let (sni, handshake) =
                (session.server_name().map(str::to_owned), finished(&stream, settings));
            let facts = ClientConn { tls, sni, handshake, ..facts };
            let is_h2 = session.alpn_protocol() == Some(b"h2");
            drop((alarm, site));
            if is_h2 {
                // Boxed: its state is large, and most connections are not HTTP/2.
                Box::pin(h2::serve(&service, facts, stream, admitted)).await;
            } else {
                Box::pin(h1::serve(&service, facts, stream, admitted)).await;
            }
        }
        Err(HandshakeError::PlainHttp(stream)) => explain(&service, &site, facts, stream).await,
        Err(HandshakeError::UnknownName(stream, name)) => {
            let detail = refuse_name(stream, &name, &alarm).await;
            let facts = ClientConn { sni: Some(name), ..facts };
            refuse(&service, &site, facts, (Reason::TlsHandshake, Some(detail)));
        }
        Err(HandshakeError::TimedOut) => {
            refuse(&service, &site, facts, (Reason::HandshakeTimeout, None))
        }
        Err(HandshakeError::Failed(error))
            if facts.via.as_ref().is_some_and(|via| via.was_a_check(&error)) => {}
        Err(HandshakeError::Failed(error)) => {
            refuse(&service, &site, facts, (Reason::TlsHandshake, Some(error.to_string())));
        }
    }
}

/// Tells somebody who speaks plain HTTP to a TLS port what is wrong.
async fn explain(
    service: &Rc<ReverseService>,
    site: &Arc<VirtualServer>,
    facts: ClientConn,
    stream: TcpStream,
) {
    let mut record = RequestLog::refused(&service.worker, &Rc::new(facts), site);
    record.reason = Some(Reason::PlainHttp);
    let reply = LocalReply::refusal(Reason::PlainHttp, &record.id);
    record.status = reply.status.as_u16();
    let mut out = Vec::new();
    reply.write(&mut out, &service.worker, &record.id, None, true);
    part(stream, &out, &service.worker.local.clock.alarm()).await;
}
