//! Accepted connections: admission, TLS handshake and selection of HTTP/1 or HTTP/2.

use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::addr::ClientAddr;
use crate::downstream::accept::{Acceptor, AdmittedConn};
use crate::downstream::balancer::{BalancerError, identify};
use crate::downstream::handshake::{
    HandshakeError, finished, handshake, refuse_name, send_and_close, version,
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
        let virtual_server = self.virtual_server.load_full();
        virtual_server.metrics.accepted.inc();
        let limits =
            (virtual_server.limits.connections, virtual_server.limits.connections_per_client);
        let balancers = virtual_server.proxy_protocol.as_ref();
        match AdmittedConn::new(&self.admission, peer, limits, balancers, &virtual_server.metrics) {
            Ok(admitted) => {
                let service = Rc::clone(self);
                self.worker.local.spawn(async move {
                    connection(service, virtual_server, stream, (peer, admitted)).await;
                });
            }
            Err(reason) => {
                reject(self, &virtual_server, ClientConn::new(peer, None), (reason, None));
            }
        }
    }

    fn reject_out_of_fds(self: &Rc<Self>, peer: ClientAddr) {
        let virtual_server = self.virtual_server.load_full();
        virtual_server.metrics.reject(AdmissionRejection::Descriptors);
        reject(self, &virtual_server, ClientConn::new(peer, None), (Reason::NoDescriptors, None));
    }
}

/// Logs a connection that is rejected before its first request.
fn reject(
    service: &Rc<ReverseService>,
    virtual_server: &Arc<VirtualServer>,
    client_conn: ClientConn,
    (reason, detail): (Reason, Option<String>),
) {
    let began = client_conn.began;
    let mut record = RequestLog::rejected(&service.worker, &Rc::new(client_conn), virtual_server);
    record.start = began;
    record.reason = Some(reason);
    record.detail = detail;
}

async fn connection(
    service: Rc<ReverseService>,
    virtual_server: Arc<VirtualServer>,
    mut stream: TcpStream,
    (peer, mut admitted): (ClientAddr, AdmittedConn),
) {
    let began = Instant::now();
    let client_conn = |via| ClientConn { began, ..ClientConn::new(peer, via) };
    // Without TCP_NODELAY, answers would wait for acknowledgements. The call fails only on a socket
    // that is already closed.
    if stream.set_nodelay(true).is_err() {
        return reject(&service, &virtual_server, client_conn(None), (Reason::ClientGone, None));
    }
    let timer = service.worker.local.clock.timer();
    timer.set(virtual_server.timeouts.handshake);
    let mut client_conn =
        match identify(&mut stream, peer, &mut admitted, &timer, &virtual_server.metrics).await {
            Ok(via) => client_conn(via),
            Err(BalancerError::Probe) => return,
            Err(BalancerError::Refused(via, reason, detail)) => {
                return reject(&service, &virtual_server, client_conn(via), (reason, detail));
            }
        };
    if virtual_server.announces && client_conn.destination.is_none() {
        client_conn.destination = stream.local_addr().ok();
    }
    let Some(settings) = &virtual_server.tls else {
        drop((timer, virtual_server));
        return h1::serve(&service, client_conn, stream, admitted).await;
    };
    match handshake(stream, settings, &timer, &virtual_server.metrics).await {
        Ok(stream) => {
            let tls = version(&stream);
            let (_, session) = stream.get_ref();
            let (sni, handshake) =
                (session.server_name().map(str::to_owned), finished(&stream, settings));
            let client_conn = ClientConn { tls, sni, handshake, ..client_conn };
            let is_h2 = session.alpn_protocol() == Some(b"h2");
            drop((timer, virtual_server));
            if is_h2 {
                // Boxed, because its state is large and most connections are not HTTP/2.
                Box::pin(h2::serve(&service, client_conn, stream, admitted)).await;
            } else {
                Box::pin(h1::serve(&service, client_conn, stream, admitted)).await;
            }
        }
        Err(HandshakeError::PlainHttp(stream)) => {
            reject_plain_http(&service, &virtual_server, client_conn, stream).await;
        }
        Err(HandshakeError::UnknownName(stream, name)) => {
            let detail = refuse_name(stream, &name, &timer).await;
            let client_conn = ClientConn { sni: Some(name), ..client_conn };
            reject(&service, &virtual_server, client_conn, (Reason::TlsHandshake, Some(detail)));
        }
        Err(HandshakeError::TimedOut) => {
            reject(&service, &virtual_server, client_conn, (Reason::HandshakeTimeout, None));
        }
        Err(HandshakeError::Failed(error))
            if client_conn.via.as_ref().is_some_and(|via| via.is_health_check_end(&error)) => {}
        Err(HandshakeError::Failed(error)) => {
            reject(
                &service,
                &virtual_server,
                client_conn,
                (Reason::TlsHandshake, Some(error.to_string())),
            );
        }
    }
}

/// Sends an error to a client that speaks plain HTTP on a TLS port.
async fn reject_plain_http(
    service: &Rc<ReverseService>,
    virtual_server: &Arc<VirtualServer>,
    client_conn: ClientConn,
    stream: TcpStream,
) {
    let mut record = RequestLog::rejected(&service.worker, &Rc::new(client_conn), virtual_server);
    record.reason = Some(Reason::PlainHttp);
    let reply = LocalReply::refusal(Reason::PlainHttp, &record.id);
    record.status = reply.status.as_u16();
    let mut out = Vec::new();
    reply.write(&mut out, &service.worker, &record.id, None, true);
    send_and_close(stream, &out, &service.worker.local.clock.timer()).await;
}
