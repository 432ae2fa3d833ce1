//! Connections of a listener: admission, and TLS where the listener speaks it.

use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::addr::ClientAddr;
use crate::downstream::Worker;
use crate::downstream::accept::{Acceptor, AdmittedConn};
use crate::downstream::balancer::{BalancerError, identify};
use crate::downstream::handshake::{
    HandshakeError, finished, handshake, part, refuse_name, version,
};
use crate::message::Reason;
use crate::telemetry::listeners::AdmissionRejection;
use crate::tls::peer;

use super::record::EgressLog;
use super::{ForwardConn, ForwardListenerState, ForwardService, rejection, serve};

impl Acceptor for ForwardService {
    fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    fn is_closing(&self) -> bool {
        self.closing.get()
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, peer: ClientAddr) {
        let stand = self.stand.load_full();
        stand.metrics.accepted.inc();
        let limits = &stand.way.outlet.limits;
        let limits = (limits.connections, limits.connections_per_client);
        let balancers = stand.listener.proxy_protocol.as_ref();
        match AdmittedConn::new(&self.admission, peer, limits, balancers, &stand.metrics) {
            Ok(admitted) => {
                let own = Rc::clone(self);
                self.worker
                    .local
                    .spawn(async move { connection(own, stand, stream, (peer, admitted)).await });
            }
            Err(reason) => refuse(self, &stand, ForwardConn::of(peer, None), (reason, None)),
        }
    }

    fn shed(self: &Rc<Self>, peer: ClientAddr) {
        let stand = self.stand.load_full();
        stand.metrics.reject(AdmissionRejection::Descriptors);
        refuse(self, &stand, ForwardConn::of(peer, None), (Reason::NoDescriptors, None));
    }
}

/// Notes a connection that ends before its first request.
fn refuse(
    service: &Rc<ForwardService>,
    stand: &Arc<ForwardListenerState>,
    facts: ForwardConn,
    (reason, detail): (Reason, Option<String>),
) {
    let began = facts.began;
    let mut record = EgressLog::new(&service.worker, &Rc::new(facts), stand);
    record.start = began;
    record.reason = Some(reason);
    record.detail = detail;
}

async fn connection(
    service: Rc<ForwardService>,
    stand: Arc<ForwardListenerState>,
    mut stream: TcpStream,
    (peer, mut admitted): (ClientAddr, AdmittedConn),
) {
    let began = Instant::now();
    let facts = |via| ForwardConn { began, ..ForwardConn::of(peer, via) };
    // Without it answers wait for acknowledgements; a socket that refuses is already closed.
    if stream.set_nodelay(true).is_err() {
        return refuse(&service, &stand, facts(None), (Reason::ClientGone, None));
    }
    let alarm = service.worker.local.clock.alarm();
    alarm.set(stand.way.outlet.timeouts.handshake);
    let facts = match identify(&mut stream, peer, &mut admitted, &alarm, &stand.metrics).await {
        Ok(via) => facts(via),
        Err(BalancerError::Probe) => return,
        Err(BalancerError::Refused(via, reason, detail)) => {
            return refuse(&service, &stand, facts(via), (reason, detail));
        }
    };
    let Some(settings) = &stand.listener.tls else {
        drop((alarm, stand));
        return serve::serve(&service, facts, stream, admitted).await;
    };
    match handshake(stream, settings, &alarm, &stand.metrics).await {
        Ok(stream) => {
            let tls = version(&stream);
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let names = shown.map(peer::names_of).unwrap_or_default();
            let facts = ForwardConn { tls, names, handshake: finished(&stream, settings), ..facts };
            drop((alarm, stand));
            // Boxed: TLS makes its state large, and most clients speak plain HTTP to a proxy.
            Box::pin(serve::serve(&service, facts, stream, admitted)).await;
        }
        Err(HandshakeError::PlainHttp(stream)) => explain(&service, &stand, facts, stream).await,
        Err(HandshakeError::UnknownName(stream, name)) => {
            let detail = refuse_name(stream, &name, &alarm).await;
            refuse(&service, &stand, facts, (Reason::TlsHandshake, Some(detail)));
        }
        Err(HandshakeError::TimedOut) => {
            refuse(&service, &stand, facts, (Reason::HandshakeTimeout, None));
        }
        Err(HandshakeError::Failed(error))
            if facts.via.as_ref().is_some_and(|via| via.was_a_check(&error)) => {}
        Err(HandshakeError::Failed(error)) => {
            refuse(&service, &stand, facts, (Reason::TlsHandshake, Some(error.to_string())));
        }
    }
}

/// Tells somebody who speaks plain HTTP to a TLS port what is wrong.
async fn explain(
    service: &Rc<ForwardService>,
    stand: &Arc<ForwardListenerState>,
    facts: ForwardConn,
    stream: TcpStream,
) {
    let mut record = EgressLog::new(&service.worker, &Rc::new(facts), stand);
    let why =
        "this port of the proxy speaks TLS: point the client at https://, or at the plain port";
    record.refused(Reason::PlainHttp, Some(why.to_owned()));
    let reply = rejection::reply(&record, rejection::ExplanationFormat::Text);
    record.status = reply.status.as_u16();
    let mut out = Vec::new();
    reply.write(&mut out, &service.worker, &record.id, None, true);
    part(stream, &out, &service.worker.local.clock.alarm()).await;
}
