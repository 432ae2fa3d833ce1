//! Listeners of the three services: reverse proxy, forward proxy and passthrough.
//!
//! The rest of the supervisor binds, replaces and closes listeners without knowing which service
//! they belong to.

use std::cell::Cell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;

use crate::downstream::Worker;
use crate::downstream::accept::{self, Acceptor};
use crate::forward::{self, ForwardListenerState, ForwardRuntime, ForwardShared};
use crate::generation::{
    Generation, ListenerAddr, ListenerKind, PassthroughListener, VirtualServer,
};
use crate::net::admission::Admission;
use crate::passthrough;
use crate::reverse;

/// Service of one listening address in one generation.
#[derive(Clone)]
pub(super) enum ListenerSlot {
    Reverse(Arc<VirtualServer>),
    Forward(Arc<ForwardListenerState>),
    Passthrough(Arc<PassthroughListener>),
}

/// State of a listener that all workers share: its current service and its open connections.
#[derive(Clone)]
pub(super) struct SharedListener {
    served: ListenerState,
    admission: Arc<Admission>,
}

#[derive(Clone)]
enum ListenerState {
    Reverse(Arc<ArcSwap<VirtualServer>>),
    Forward(Arc<ArcSwap<ForwardListenerState>>, Arc<ForwardShared>),
    Passthrough(Arc<ArcSwap<PassthroughListener>>),
}

/// Service of a removed listener, which lives as long as connections of that listener are open.
pub(super) enum RetiredListener {
    Reverse(Weak<ArcSwap<VirtualServer>>),
    Forward(Weak<ArcSwap<ForwardListenerState>>, Arc<ForwardShared>),
    Passthrough(Weak<ArcSwap<PassthroughListener>>),
}

impl RetiredListener {
    /// The service, or `None` once all connections of the listener are closed.
    pub(super) fn upgrade(&self) -> Option<SharedListener> {
        let served = match self {
            Self::Reverse(virtual_server) => ListenerState::Reverse(virtual_server.upgrade()?),
            Self::Forward(listener_state, forward_shared) => {
                ListenerState::Forward(listener_state.upgrade()?, Arc::clone(forward_shared))
            }
            Self::Passthrough(passthrough_listener) => {
                ListenerState::Passthrough(passthrough_listener.upgrade()?)
            }
        };
        Some(SharedListener { served, admission: Arc::default() })
    }
}

/// Services of all listeners, in the order of [`Generation::listener_addrs`].
pub(super) fn listener_slots(
    generation: &Generation,
    forward_runtime: Option<&Arc<ForwardRuntime>>,
) -> Vec<ListenerSlot> {
    let out = forward_runtime
        .into_iter()
        .flat_map(|forward_runtime| forward_runtime.stands(generation.names()))
        .map(ListenerSlot::Forward);
    let through = generation.passthrough_listeners.iter().cloned().map(ListenerSlot::Passthrough);
    generation
        .virtual_servers
        .iter()
        .cloned()
        .map(ListenerSlot::Reverse)
        .chain(out)
        .chain(through)
        .collect()
}

impl ListenerSlot {
    pub(super) fn listener_addr(&self) -> ListenerAddr {
        match self {
            Self::Reverse(virtual_server) => ListenerAddr {
                kind: ListenerKind::Reverse,
                address: virtual_server.address,
                place: virtual_server.place,
            },
            Self::Forward(listener_state) => ListenerAddr {
                kind: ListenerKind::Forward,
                address: listener_state.listener.address,
                place: listener_state.listener.place,
            },
            Self::Passthrough(passthrough_listener) => ListenerAddr {
                kind: ListenerKind::Passthrough,
                address: passthrough_listener.address,
                place: passthrough_listener.place,
            },
        }
    }
}

impl SharedListener {
    /// State of a new listener, without connections.
    pub(super) fn new(slot: &ListenerSlot, forward_shared: &Arc<ForwardShared>) -> Self {
        let served = match slot {
            ListenerSlot::Reverse(virtual_server) => {
                ListenerState::Reverse(Arc::new(ArcSwap::new(Arc::clone(virtual_server))))
            }
            ListenerSlot::Forward(listener_state) => {
                let listener_state = Arc::new(ArcSwap::new(Arc::clone(listener_state)));
                ListenerState::Forward(listener_state, Arc::clone(forward_shared))
            }
            ListenerSlot::Passthrough(passthrough_listener) => {
                ListenerState::Passthrough(Arc::new(ArcSwap::new(Arc::clone(passthrough_listener))))
            }
        };
        Self { served, admission: Arc::default() }
    }

    /// Replaces the service by that of the same address in the new generation. If there is none,
    /// remaining connections are served by another listener of the same profile or table, and
    /// without one they are denied everything.
    pub(super) fn swap(
        &self,
        generation: &Generation,
        listener_slots: &[ListenerSlot],
        forward_runtime: Option<&Arc<ForwardRuntime>>,
    ) {
        match &self.served {
            ListenerState::Reverse(virtual_server) => {
                let old = virtual_server.load_full();
                let replacement = generation.replacement(&old).cloned();
                virtual_server.store(replacement.unwrap_or_else(|| Arc::new(old.without_routes())));
            }
            ListenerState::Forward(listener_state, _) => {
                let old = listener_state.load_full();
                let mut states = listener_slots.iter().filter_map(ListenerSlot::listener_state);
                let kept = states
                    .find(|listener_state| listener_state.listener.address == old.listener.address);
                let replacement = || match forward_runtime {
                    Some(forward_runtime) => old.under(forward_runtime),
                    None => old.closed(),
                };
                listener_state.store(kept.cloned().unwrap_or_else(|| Arc::new(replacement())));
            }
            ListenerState::Passthrough(passthrough_listener) => {
                let old = passthrough_listener.load_full();
                let replacement = generation.passthrough_replacement(&old).cloned();
                passthrough_listener
                    .store(replacement.unwrap_or_else(|| Arc::new(old.without_routes())));
            }
        }
    }

    /// Weak reference to the service of a listener that was removed.
    pub(super) fn downgrade(&self) -> RetiredListener {
        match &self.served {
            ListenerState::Reverse(virtual_server) => {
                RetiredListener::Reverse(Arc::downgrade(virtual_server))
            }
            ListenerState::Forward(listener_state, forward_shared) => {
                RetiredListener::Forward(Arc::downgrade(listener_state), Arc::clone(forward_shared))
            }
            ListenerState::Passthrough(passthrough_listener) => {
                RetiredListener::Passthrough(Arc::downgrade(passthrough_listener))
            }
        }
    }

    /// Accepts connections from a socket, in a task of this worker.
    pub(super) fn listen(self, worker: &Rc<Worker>, socket: TcpListener) -> Option<ListenerHandle> {
        let (worker, closing) = (Rc::clone(worker), Rc::new(Cell::new(false)));
        let mark = Rc::clone(&closing);
        let address = socket.local_addr().ok()?;
        let admission = self.admission;
        let kind = match self.served {
            ListenerState::Reverse(virtual_server) => {
                let service =
                    reverse::ReverseService { worker, virtual_server, admission, closing };
                run(Rc::new(service), socket);
                ListenerKind::Reverse
            }
            ListenerState::Forward(listener_state, forward_shared) => {
                let service = forward::ForwardService {
                    worker,
                    listener_state,
                    admission,
                    forward_shared,
                    closing,
                };
                run(Rc::new(service), socket);
                ListenerKind::Forward
            }
            ListenerState::Passthrough(passthrough_listener) => {
                let service = passthrough::PassthroughService {
                    worker,
                    passthrough_listener,
                    admission,
                    closing,
                };
                run(Rc::new(service), socket);
                ListenerKind::Passthrough
            }
        };
        Some(ListenerHandle { kind, address, closing: mark })
    }
}

impl ListenerSlot {
    fn listener_state(&self) -> Option<&Arc<ForwardListenerState>> {
        if let Self::Forward(listener_state) = self { Some(listener_state) } else { None }
    }
}

fn run<D: Acceptor>(acceptor: Rc<D>, socket: TcpListener) {
    match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => {
            let local = Rc::clone(&acceptor.worker().local);
            local.spawn(accept::run(acceptor, listener));
        }
        Err(error) => tracing::error!("a worker cannot accept connections from a socket: {error}"),
    }
}

/// Handle that closes a listener of a worker.
pub(super) struct ListenerHandle {
    kind: ListenerKind,
    address: SocketAddr,
    closing: Rc<Cell<bool>>,
}

impl ListenerHandle {
    /// Closes the listener if it has this kind and address, and returns whether it has.
    pub(super) fn close(&self, kind: ListenerKind, address: SocketAddr) -> bool {
        let closes = self.kind == kind && self.address == address;
        if closes {
            self.closing.set(true);
        }
        closes
    }
}
