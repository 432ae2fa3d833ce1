//! Taking connections: the accept loop, admission, and what to do when descriptors run out.

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

/// How long a listener that was removed waits for the last word of handshakes: that of TCP, which
/// takes one way there and back. A client turned away in this time tries again after a second, and
/// is refused then.
const FINAL_HANDSHAKE_WAIT: Duration = Duration::from_millis(500);
/// Pause after the system could not give us a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// One listener on one worker.
pub trait Acceptor: 'static {
    /// The worker.
    fn worker(&self) -> &Rc<Worker>;

    /// Whether the listener is being removed.
    fn is_closing(&self) -> bool;

    /// Whether nothing new is taken: the worker drains, or the listener is being removed.
    fn is_draining(&self) -> bool {
        self.is_closing() || self.worker().local.phase() != Phase::Serving
    }

    /// Whether a kept connection is closed without waiting for its next request. Not if another
    /// process has taken over: there is time, and a request may be on its way.
    fn closes_idle_connections(&self) -> bool {
        self.is_draining() && self.worker().local.phase() != Phase::Succeeded
    }

    /// Lets a connection in, as a task of the worker, or refuses it.
    fn admit(self: &Rc<Self>, stream: TcpStream, client: ClientAddr);

    /// Notes that a client was turned away because the system has no more descriptors.
    fn reject_out_of_fds(self: &Rc<Self>, client: ClientAddr);
}

/// A connection that was let in.
pub(crate) struct AdmittedConn {
    permit: Permit,
    /// Connections each client may have.
    each: usize,
    /// It is a balancer's, and has yet to say whose it is.
    pub(crate) is_balancers: bool,
    active: IntGauge,
    _guard: Arc<SeriesGuard>,
}

impl AdmittedConn {
    /// Lets a connection in if there are fewer than `most`, and fewer than `each` of this client; `metrics` are the
    /// listener's. How many a balancer has is not limited: they are counted as its clients' once it has said whose
    /// they are ([`AdmittedConn::pass_to`]).
    ///
    /// # Errors
    ///
    /// Which limit is reached, or that only balancers may connect.
    pub(crate) fn new(
        admission: &Arc<Admission>,
        peer: ClientAddr,
        (most, each): (usize, usize),
        balancers: Option<&ProxyProtocol>,
        metrics: &ListenerMetrics,
    ) -> Result<Self, Reason> {
        let caller = PeerKind::of(peer, balancers);
        if caller == PeerKind::Stranger {
            metrics.balanced(ProxyHeaderResult::Unlisted);
            return Err(Reason::NotABalancer);
        }
        let is_balancers = caller == PeerKind::Balancer;
        let of_peer = if is_balancers { usize::MAX } else { each };
        let admitted = admission.admit(peer, most, of_peer);
        let permit = admitted.map_err(|full| rejected(full, metrics))?;
        metrics.active.inc();
        let (active, guard) = (metrics.active.clone(), Arc::clone(&metrics.guard));
        Ok(Self { permit, each, is_balancers, active, _guard: guard })
    }

    /// Counts the connection as this client's, for whom a balancer made it.
    ///
    /// # Errors
    ///
    /// The client has too many.
    pub(crate) fn pass_to(
        &mut self,
        client: ClientAddr,
        metrics: &ListenerMetrics,
    ) -> Result<(), Reason> {
        self.permit.pass_to(client, self.each).map_err(|full| rejected(full, metrics))
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

/// Takes connections from `listener` until the worker drains or the listener is removed; those that already wait in the
/// kernel's queue then are taken too, because closing the socket would reset them. A listener that is removed first
/// turns new clients away, and gives those whose handshake has begun the time to end it.
pub async fn run<D: Acceptor>(acceptor: Rc<D>, listener: TcpListener) {
    let local = &acceptor.worker().local;
    let timer = local.clock.timer();
    let mut leaves = None;
    listen::accept_new_syns(&listener);
    loop {
        let accepted = poll_fn(|cx| {
            // A socket that another process has taken over is not ours to close to anybody.
            let serving = local.phase() == Phase::Serving;
            let removed = serving && acceptor.is_closing();
            if removed && leaves.is_none() && listen::drop_new_syns(&listener).is_ok() {
                leaves = Some(local.clock.now() + FINAL_HANDSHAKE_WAIT + TICK);
            }
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(Some(accepted));
            }
            match leaves {
                Some(at) if serving && local.clock.now() < at => {
                    timer.set_at(at);
                }
                _ if acceptor.is_draining() => return Poll::Ready(None),
                _ => {}
            }
            timer.poll(cx).map(|()| None)
        });
        match accepted.await {
            None => return take_the_rest(&acceptor, listener),
            Some(Ok((stream, peer))) => match reserve_fd(acceptor.worker(), stream) {
                Some(stream) => acceptor.admit(stream, ClientAddr(peer)),
                None => acceptor.reject_out_of_fds(ClientAddr(peer)),
            },
            Some(Err(error)) if Shortage::of(&error) == Some(Shortage::Descriptors) => {
                reject_out_of_fds(&acceptor, &listener).await;
            }
            // The client was gone before we came to it.
            Some(Err(_)) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Takes what waits in the kernel's queue without the poller having told of it yet.
fn take_the_rest<D: Acceptor>(acceptor: &Rc<D>, listener: TcpListener) {
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let taken = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = taken {
            acceptor.admit(stream, ClientAddr(peer));
        }
    }
}

/// Sees to it that the worker has its spare descriptor, before it takes `stream` in.
///
/// While [`reject_out_of_fds`] has given the spare one up for a moment, others of the process may take it (a configuration that is
/// read, another worker). Then nobody could be turned away, and clients would wait in the kernel's queue; so the
/// connection that gets the next free descriptor is closed for it (`None`).
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

/// Out of file descriptors: gives up idle upstream connections; failing that, takes one waiting
/// client only to close its connection, so that the queue does not fill with clients who wait for
/// nothing.
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
