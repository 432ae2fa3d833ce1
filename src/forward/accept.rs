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
    HandshakeError, finished, handshake, refuse_name, send_and_close, version,
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
        let listener_state = self.listener_state.load_full();
        listener_state.metrics.accepted.inc();
        let limits = &listener_state.way.forward_proxy.limits;
        let limits = (limits.connections, limits.connections_per_client);
        let balancers = listener_state.listener.proxy_protocol.as_ref();
        match AdmittedConn::new(&self.admission, peer, limits, balancers, &listener_state.metrics) {
            Ok(admitted) => {
                let own = Rc::clone(self);
                self.worker.local.spawn(async move {
                    connection(own, listener_state, stream, (peer, admitted)).await;
                });
            }
            Err(reason) => {
                refuse(self, &listener_state, ForwardConn::of(peer, None), (reason, None));
            }
        }
    }

    fn reject_out_of_fds(self: &Rc<Self>, peer: ClientAddr) {
        let listener_state = self.listener_state.load_full();
        listener_state.metrics.reject(AdmissionRejection::Descriptors);
        refuse(self, &listener_state, ForwardConn::of(peer, None), (Reason::NoDescriptors, None));
    }
}

/// Records a connection that ends before its first request.
fn refuse(
    service: &Rc<ForwardService>,
    listener_state: &Arc<ForwardListenerState>,
    client_conn: ForwardConn,
    (reason, detail): (Reason, Option<String>),
) {
    let began = client_conn.began;
    let mut record = EgressLog::new(&service.worker, &Rc::new(client_conn), listener_state);
    record.start = began;
    record.reason = Some(reason);
    record.detail = detail;
}

async fn connection(
    service: Rc<ForwardService>,
    listener_state: Arc<ForwardListenerState>,
    mut stream: TcpStream,
    (peer, mut admitted): (ClientAddr, AdmittedConn),
) {
    let began = Instant::now();
    let client_conn = |via| ForwardConn { began, ..ForwardConn::of(peer, via) };
    // Without it answers wait for acknowledgements; a socket that refuses is already closed.
    if stream.set_nodelay(true).is_err() {
        return refuse(&service, &listener_state, client_conn(None), (Reason::ClientGone, None));
    }
    let timer = service.worker.local.clock.timer();
    timer.set(listener_state.way.forward_proxy.timeouts.handshake);
    let client_conn =
        match identify(&mut stream, peer, &mut admitted, &timer, &listener_state.metrics).await {
            Ok(via) => client_conn(via),
            Err(BalancerError::Probe) => return,
            Err(BalancerError::Refused(via, reason, detail)) => {
                return refuse(&service, &listener_state, client_conn(via), (reason, detail));
            }
        };
    let Some(settings) = &listener_state.listener.tls else {
        drop((timer, listener_state));
        return serve::serve(&service, client_conn, stream, admitted).await;
    };
    match handshake(stream, settings, &timer, &listener_state.metrics).await {
        Ok(stream) => {
            let tls = version(&stream);
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let names = shown.map(peer::certificate_names).unwrap_or_default();
            let client_conn =
                ForwardConn { tls, names, handshake: finished(&stream, settings), ..client_conn };
            drop((timer, listener_state));
            // Boxed: TLS makes its state large, and most clients speak plain HTTP to a proxy.
            Box::pin(serve::serve(&service, client_conn, stream, admitted)).await;
        }
        Err(HandshakeError::PlainHttp(stream)) => {
            explain(&service, &listener_state, client_conn, stream).await;
        }
        Err(HandshakeError::UnknownName(stream, name)) => {
            let detail = refuse_name(stream, &name, &timer).await;
            refuse(&service, &listener_state, client_conn, (Reason::TlsHandshake, Some(detail)));
        }
        Err(HandshakeError::TimedOut) => {
            refuse(&service, &listener_state, client_conn, (Reason::HandshakeTimeout, None));
        }
        Err(HandshakeError::Failed(error))
            if client_conn.via.as_ref().is_some_and(|via| via.is_health_check_end(&error)) => {}
        Err(HandshakeError::Failed(error)) => {
            refuse(
                &service,
                &listener_state,
                client_conn,
                (Reason::TlsHandshake, Some(error.to_string())),
            );
        }
    }
}

/// Answers a client that speaks plain HTTP to a TLS port with an explanation.
async fn explain(
    service: &Rc<ForwardService>,
    listener_state: &Arc<ForwardListenerState>,
    client_conn: ForwardConn,
    stream: TcpStream,
) {
    let mut record = EgressLog::new(&service.worker, &Rc::new(client_conn), listener_state);
    let why =
        "this port of the proxy speaks TLS: point the client at https://, or at the plain port";
    record.refused(Reason::PlainHttp, Some(why.to_owned()));
    let reply = rejection::reply(&record, rejection::ExplanationFormat::Text);
    record.status = reply.status.as_u16();
    let mut out = Vec::new();
    reply.write(&mut out, &service.worker, &record.id, None, true);
    send_and_close(stream, &out, &service.worker.local.clock.timer()).await;
}
