//! Passthrough connections before the tunnel: admission, ClientHello, route and endpoint.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::addr::ClientAddr;
use crate::downstream::accept::{Acceptor, AdmittedConn};
use crate::downstream::balancer::{BalancerError, ProxyHeader, identify};
use crate::downstream::client_hello::{self, ClientHelloError, First, refuse};
use crate::downstream::{Conn, Worker};
use crate::generation::PassthroughListener;
use crate::generation::passthrough::PassthroughRoute;
use crate::message::Reason;
use crate::net::proxy_protocol::{RelayedConn, Tlv, v2};
use crate::net::quota::Use;
use crate::telemetry::listeners::AdmissionRejection;
use crate::tls::hello::HelloProgress;
use crate::upstream::connect::connect_tcp;
use crate::upstream::failover::{self, place, reach, reserve, try_one};
use crate::upstream::{Endpoint, InFlight};

use super::PassthroughService;
use super::record::PassthroughLog;
use super::tunnel::{self, OpenedConn};

impl Acceptor for PassthroughService {
    fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    fn is_closing(&self) -> bool {
        self.closing.get()
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, peer: ClientAddr) {
        let passthrough_listener = self.passthrough_listener.load_full();
        passthrough_listener.metrics.accepted.inc();
        let limits = (
            passthrough_listener.limits.connections,
            passthrough_listener.limits.connections_per_client,
        );
        let balancers = passthrough_listener.proxy_protocol.as_ref();
        match AdmittedConn::new(
            &self.admission,
            peer,
            limits,
            balancers,
            &passthrough_listener.metrics,
        ) {
            Ok(admitted) => {
                let own = Rc::clone(self);
                self.worker.local.spawn(connection(
                    own,
                    passthrough_listener,
                    stream,
                    (peer, admitted),
                ));
            }
            Err(reason) => {
                PassthroughLog::new(&self.worker, peer, &passthrough_listener)
                    .refused(reason, None);
            }
        }
    }

    fn reject_out_of_fds(self: &Rc<Self>, peer: ClientAddr) {
        let passthrough_listener = self.passthrough_listener.load_full();
        passthrough_listener.metrics.reject(AdmissionRejection::Descriptors);
        PassthroughLog::new(&self.worker, peer, &passthrough_listener)
            .refused(Reason::NoDescriptors, None);
    }
}

async fn connection(
    service: Rc<PassthroughService>,
    passthrough_listener: Arc<PassthroughListener>,
    mut stream: TcpStream,
    (peer, mut admitted): (ClientAddr, AdmittedConn),
) {
    let began = Instant::now();
    let record = |via: Option<Box<ProxyHeader>>| {
        let client = via.as_ref().map_or(peer, |via| via.client());
        let mut record = PassthroughLog::new(&service.worker, client, &passthrough_listener);
        record.via = via;
        record.start = began;
        record
    };
    // Send small messages at once. The call fails only if the client has already closed.
    if stream.set_nodelay(true).is_err() {
        return record(None).refused(Reason::ClientGone, None);
    }
    let timer = service.worker.local.clock.timer();
    timer.set(passthrough_listener.timeouts.client_hello);
    let mut record =
        match identify(&mut stream, peer, &mut admitted, &timer, &passthrough_listener.metrics)
            .await
        {
            Ok(via) => record(via),
            Err(BalancerError::Probe) => return,
            Err(BalancerError::Refused(via, reason, detail)) => {
                return record(via).refused(reason, detail);
            }
        };
    if !passthrough_listener.admits(record.client) {
        return record.refused(Reason::TcpClient, None);
    }
    drop((timer, passthrough_listener));
    let mut conn = Conn::new(stream, &service.worker.local);
    let ChosenRoute { passthrough_listener, route, retried_from } =
        match choose_route(&service, &mut conn, &mut record).await {
            Ok(chosen) => chosen,
            Err(reason) => {
                record.refused(reason, None);
                if matches!(reason, Reason::TcpSniMissing | Reason::TcpSniUnknown) {
                    // A TLS client gets a TLS alert.
                    refuse(&service.worker.local, conn.io, conn.out).await;
                }
                return;
            }
        };
    record.set_route(&route);
    match dial(&passthrough_listener, &route, &mut record).await {
        Ok((upstream, endpoint, reserved)) => {
            let ahead = retried_from.map(|from| conn.input.split_off(from).freeze());
            let client = client_side(&route, conn, &mut record);
            let several = route.upstream.endpoints.len() > 1;
            let opened = OpenedConn {
                upstream,
                ahead,
                open_gauge: route.counters.open_connection(),
                busy: several.then(|| InFlight::new(&endpoint.health)),
                timeouts: passthrough_listener.timeouts,
                record,
                passthrough_listener,
                reserved,
            };
            tunnel::spawn(&service, client, opened, admitted);
        }
        Err((reason, detail)) => record.refused(reason, detail),
    }
}

/// Splits a connection into the socket of the client and the first bytes for the endpoint: a PROXY
/// header, if the upstream wants one, and the bytes read so far. Records the length of the header.
fn client_side(
    route: &PassthroughRoute,
    conn: Conn<TcpStream>,
    record: &mut PassthroughLog,
) -> (TcpStream, Bytes) {
    let Conn { io, input, .. } = conn;
    // Avoids a system call for upstreams without PROXY headers.
    let announced = route.upstream.announces.then(|| io.local_addr().ok()).flatten();
    let Some(destination) = announced else { return (io, input.freeze()) };
    let name = record.server_name.as_deref().map(|name| (Tlv::Authority, name.as_bytes()));
    let id = [(Tlv::UniqueId, record.id.as_str().as_bytes())];
    let tlvs: Vec<_> = name.into_iter().chain(id).collect();
    let mut early = Vec::new();
    let source = record.client.0;
    v2::announce(&mut early, &RelayedConn { source, destination, tlvs: &tlvs });
    record.header = early.len() as u64;
    // Header and ClientHello are sent in one segment, as the PROXY protocol recommends.
    early.extend_from_slice(&input);
    (io, early.into())
}

/// Route chosen for a connection.
struct ChosenRoute {
    passthrough_listener: Arc<PassthroughListener>,
    route: Arc<PassthroughRoute>,
    /// Length of the ClientHello, if the endpoint may request a second one (TLS 1.3).
    retried_from: Option<usize>,
}

/// Reads the ClientHello, if the listener needs it, and chooses the route.
async fn choose_route(
    service: &Rc<PassthroughService>,
    conn: &mut Conn<TcpStream>,
    record: &mut PassthroughLog,
) -> Result<ChosenRoute, Reason> {
    // Copied, so that a waiting connection does not keep an old generation alive.
    let (reads, within) = {
        let passthrough_listener = service.passthrough_listener.load();
        (passthrough_listener.reads_hello(), passthrough_listener.timeouts.client_hello)
    };
    let read = if reads {
        let read = client_hello::read(conn, within).await.map_err(|none| match none {
            ClientHelloError::Gone => Reason::ClientGone,
            ClientHelloError::TimedOut => Reason::TcpHelloTimeout,
        })?;
        if let HelloProgress::Hello(hello) = &read.progress {
            record.server_name = hello.sni.as_deref().map(Arc::from);
        }
        Some(read)
    } else {
        None
    };
    let (read, retried_from) = match read {
        Some(First { progress, retried_from }) => (Some(progress), retried_from),
        None => (None, None),
    };
    // The current generation decides, which may be newer than the one that admitted the client.
    let passthrough_listener = service.passthrough_listener.load_full();
    let route = Arc::clone(passthrough_listener.judge(read.as_ref())?);
    Ok(ChosenRoute { passthrough_listener, route, retried_from })
}

/// Connects to an endpoint of the route's upstream. Also returns the reservation that counts the
/// connection for the limits of the upstream.
async fn dial(
    passthrough_listener: &PassthroughListener,
    route: &PassthroughRoute,
    record: &mut PassthroughLog,
) -> Result<(TcpStream, Arc<Endpoint>, Use), (Reason, Option<String>)> {
    let to = (&route.upstream, &route.counters);
    let reserving = reserve(to, |quota| quota.account(record.client));
    let reserved = reserving.await.map_err(|reason| (reason, None))?;
    let port = route.same_port.then(|| passthrough_listener.address.port());
    let budget = route.upstream.limits.connect;
    let key = route.upstream.hashes().then(|| place(record.client));
    let attempt = async |chosen: failover::ChosenEndpoint<'_>| {
        let stream = try_one(to, chosen, connect_tcp(chosen.1, port, key, budget)).await?;
        Ok((stream, Arc::clone(chosen.1)))
    };
    let choice = route.upstream.choose(|| place(record.client), None);
    match reach(to, choice, attempt).await {
        Ok((stream, endpoint)) => {
            record.connected(&endpoint, stream.peer_addr().ok());
            Ok((stream, endpoint, reserved))
        }
        Err(Some(error)) => Err((error.reason, Some(error.to_string()))),
        Err(None) => Err((Reason::UpstreamDown, None)),
    }
}
