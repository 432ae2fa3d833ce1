//! Accept loop of a listener, with admission limits and handling of exhausted file descriptors.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpStream};

use crate::addr::ClientAddr;
use crate::config::ProxyProtocol;
use crate::message::Reason;
use crate::net::admission::{Admission, AdmissionError, Permit};
use crate::net::clock::TICK;
use crate::net::{Phase, Shortage, listen};
use crate::telemetry::ListenerMetrics;
use crate::telemetry::listeners::{AdmissionRejection, ProxyHeaderResult};
use crate::telemetry::series_guard::SeriesGuard;

use super::Worker;
use super::balancer::PeerKind;

/// Time for which a removed listener waits for TCP handshakes in progress, which take one round
/// trip. New SYNs are dropped in this time; their clients retry after a second and are refused.
const FINAL_HANDSHAKE_WAIT: Duration = Duration::from_millis(500);
/// Pause after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// One listener on one worker.
pub trait Acceptor: 'static {
    /// Worker on which this listener runs.
    fn worker(&self) -> &Rc<Worker>;

    /// Whether the listener is being removed.
    fn is_closing(&self) -> bool;

    /// Whether new connections and requests are no longer accepted, because the worker drains or
    /// the listener is being removed.
    fn is_draining(&self) -> bool {
        self.is_closing() || self.worker().local.phase() != Phase::Serving
    }

    /// Whether an idle keep-alive connection is closed without waiting for its next request. After
    /// a binary upgrade it is not, because there is time and a request may be on its way.
    fn closes_idle_connections(&self) -> bool {
        self.is_draining() && self.worker().local.phase() != Phase::Succeeded
    }

    /// Serves a connection in a task of the worker, or rejects it.
    fn admit(self: &Rc<Self>, stream: TcpStream, client: ClientAddr);

    /// Records that a client was rejected because the process has no file descriptors left.
    fn reject_out_of_fds(self: &Rc<Self>, client: ClientAddr);
}

/// Permit and gauges of an admitted connection, released on drop.
pub(crate) struct AdmittedConn {
    permit: Permit,
    /// Maximum number of connections per client.
    each: usize,
    /// The connection is from a listed balancer, whose PROXY header names the client.
    pub(crate) from_balancer: bool,
    active: IntGauge,
    _guard: Arc<SeriesGuard>,
}

impl AdmittedConn {
    /// Admits a connection if the listener has fewer than `most` and this client fewer than `each`.
    ///
    /// A balancer has no limit of its own. Its connections are counted for their clients once the
    /// PROXY header is read ([`AdmittedConn::pass_to`]).
    ///
    /// # Errors
    ///
    /// The reason word of the limit that is reached, or of a peer that is not a listed balancer.
    pub(crate) fn new(
        admission: &Arc<Admission>,
        peer: ClientAddr,
        (most, each): (usize, usize),
        balancers: Option<&ProxyProtocol>,
        metrics: &ListenerMetrics,
    ) -> Result<Self, Reason> {
        let peer_kind = PeerKind::classify(peer, balancers);
        if peer_kind == PeerKind::Unlisted {
            metrics.balanced(ProxyHeaderResult::Unlisted);
            return Err(Reason::NotABalancer);
        }
        let from_balancer = peer_kind == PeerKind::Balancer;
        let of_peer = if from_balancer { usize::MAX } else { each };
        let admitted = admission.admit(peer, most, of_peer);
        let permit = admitted.map_err(|full| rejected(full, metrics))?;
        metrics.active.inc();
        let (active, guard) = (metrics.active.clone(), Arc::clone(&metrics.guard));
        Ok(Self { permit, each, from_balancer, active, _guard: guard })
    }

    /// Counts the connection for this client, which a balancer has named.
    ///
    /// # Errors
    ///
    /// If the client has too many connections.
    pub(crate) fn pass_to(
        &mut self,
        client: ClientAddr,
        metrics: &ListenerMetrics,
    ) -> Result<(), Reason> {
        self.permit.count_for(client, self.each).map_err(|full| rejected(full, metrics))
    }
}

fn rejected(full: AdmissionError, metrics: &ListenerMetrics) -> Reason {
    match full {
        AdmissionError::Listener => {
            metrics.reject(AdmissionRejection::Listener);
            Reason::TooManyConnections
        }
        AdmissionError::Client => {
            metrics.reject(AdmissionRejection::Client);
            Reason::TooManyFromClient
        }
    }
}

impl Drop for AdmittedConn {
    fn drop(&mut self) {
        self.active.dec();
    }
}

/// Accepts connections from `listener` until the worker drains or the listener is removed.
///
/// Connections that are then still in the queue of the kernel are accepted too, because closing the
/// socket would reset them. A removed listener first drops new SYNs, and gives handshakes in
/// progress time to finish.
pub async fn run<D: Acceptor>(acceptor: Rc<D>, listener: TcpListener) {
    let local = &acceptor.worker().local;
    let timer = local.clock.timer();
    let mut closes_at = None;
    listen::accept_new_syns(&listener);
    loop {
        let accepted = poll_fn(|cx| {
            // After a binary upgrade the child uses the same socket, which must keep accepting
            // SYNs.
            let serving = local.phase() == Phase::Serving;
            let removed = serving && acceptor.is_closing();
            if removed && closes_at.is_none() && listen::drop_new_syns(&listener).is_ok() {
                closes_at = Some(local.clock.now() + FINAL_HANDSHAKE_WAIT + TICK);
            }
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(Some(accepted));
            }
            match closes_at {
                Some(at) if serving && local.clock.now() < at => {
                    timer.set_at(at);
                }
                _ if acceptor.is_draining() => return Poll::Ready(None),
                _ => {}
            }
            timer.poll(cx).map(|()| None)
        });
        match accepted.await {
            None => return accept_queued(&acceptor, listener),
            Some(Ok((stream, peer))) => match reserve_fd(acceptor.worker(), stream) {
                Some(stream) => acceptor.admit(stream, ClientAddr(peer)),
                None => acceptor.reject_out_of_fds(ClientAddr(peer)),
            },
            Some(Err(error)) if Shortage::from_error(&error) == Some(Shortage::Descriptors) => {
                reject_out_of_fds(&acceptor, &listener).await;
            }
            // The client closed the connection before it was accepted.
            Some(Err(_)) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Accepts connections in the queue of the kernel that the runtime has not reported yet.
fn accept_queued<D: Acceptor>(acceptor: &Rc<D>, listener: TcpListener) {
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let taken = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = taken {
            acceptor.admit(stream, ClientAddr(peer));
        }
    }
}

/// Makes sure that the worker has its spare descriptor, before it serves `stream`.
///
/// While [`reject_out_of_fds`] has closed the spare descriptor, another thread of the process may
/// take it. Without a spare descriptor no further client could be rejected, and clients would wait
/// in the queue of the kernel. The connection with the next free descriptor is then closed for it
/// (`None`).
fn reserve_fd(worker: &Worker, stream: TcpStream) -> Option<TcpStream> {
    let mut spare = worker.spare.borrow_mut();
    if spare.is_some() {
        return Some(stream);
    }
    *spare = Worker::open_spare();
    if spare.is_some() {
        return Some(stream);
    }
    drop(stream);
    *spare = Worker::open_spare();
    None
}

/// Handles exhausted file descriptors: closes idle upstream connections, or if there are none,
/// accepts one client with the spare descriptor and closes its connection, so that clients fail
/// fast and do not fill the queue of the kernel.
async fn reject_out_of_fds<D: Acceptor>(acceptor: &Rc<D>, listener: &TcpListener) {
    let worker = acceptor.worker();
    if !worker.pool.is_empty() {
        worker.pool.clear();
        return;
    }
    drop(worker.spare.take());
    let waiting = poll_fn(|cx| match listener.poll_accept(cx) {
        Poll::Ready(Ok(accepted)) => Poll::Ready(Some(accepted)),
        Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
    });
    if let Some((stream, peer)) = waiting.await {
        drop(stream);
        acceptor.reject_out_of_fds(ClientAddr(peer));
    }
    *worker.spare.borrow_mut() = Worker::open_spare();
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
