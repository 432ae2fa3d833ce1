//! What is served at each listening address: a site on the way in, a stand on the way out, a passage
//! where TLS stays closed.
//!
//! The rest of the supervisor binds, holds, swaps and closes without asking which.

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

/// What one address serves in one generation.
#[derive(Clone)]
pub(super) enum ListenerSlot {
    In(Arc<VirtualServer>),
    Out(Arc<ForwardListenerState>),
    Through(Arc<PassthroughListener>),
}

/// What serves at one address, and what the workers share of it.
#[derive(Clone)]
pub(super) struct SharedListener {
    served: ListenerState,
    admission: Arc<Admission>,
}

#[derive(Clone)]
enum ListenerState {
    In(Arc<ArcSwap<VirtualServer>>),
    Out(Arc<ArcSwap<ForwardListenerState>>, Arc<ForwardShared>),
    Through(Arc<ArcSwap<PassthroughListener>>),
}

/// What a listener that was removed served.
pub(super) enum RetiredListener {
    In(Weak<ArcSwap<VirtualServer>>),
    Out(Weak<ArcSwap<ForwardListenerState>>, Arc<ForwardShared>),
    Through(Weak<ArcSwap<PassthroughListener>>),
}

impl RetiredListener {
    /// What it serves, if a connection of it is left.
    pub(super) fn upgrade(&self) -> Option<SharedListener> {
        let served = match self {
            Self::In(site) => ListenerState::In(site.upgrade()?),
            Self::Out(stand, commons) => ListenerState::Out(stand.upgrade()?, Arc::clone(commons)),
            Self::Through(passage) => ListenerState::Through(passage.upgrade()?),
        };
        Some(SharedListener { served, admission: Arc::default() })
    }
}

/// All of a generation, in the order of its spots.
pub(super) fn posts(
    generation: &Generation,
    way: Option<&Arc<ForwardRuntime>>,
) -> Vec<ListenerSlot> {
    let out = way.into_iter().flat_map(|way| way.stands(generation.names())).map(ListenerSlot::Out);
    let through = generation.passages.iter().cloned().map(ListenerSlot::Through);
    generation.sites.iter().cloned().map(ListenerSlot::In).chain(out).chain(through).collect()
}

impl ListenerSlot {
    pub(super) fn spot(&self) -> ListenerAddr {
        match self {
            Self::In(site) => {
                ListenerAddr { kind: ListenerKind::In, address: site.address, place: site.place }
            }
            Self::Out(stand) => ListenerAddr {
                kind: ListenerKind::Out,
                address: stand.listener.address,
                place: stand.listener.place,
            },
            Self::Through(passage) => ListenerAddr {
                kind: ListenerKind::Through,
                address: passage.address,
                place: passage.place,
            },
        }
    }
}

impl SharedListener {
    /// For a listener that is new.
    pub(super) fn new(post: &ListenerSlot, commons: &Arc<ForwardShared>) -> Self {
        let served = match post {
            ListenerSlot::In(site) => ListenerState::In(Arc::new(ArcSwap::new(Arc::clone(site)))),
            ListenerSlot::Out(stand) => {
                let stand = Arc::new(ArcSwap::new(Arc::clone(stand)));
                ListenerState::Out(stand, Arc::clone(commons))
            }
            ListenerSlot::Through(passage) => {
                ListenerState::Through(Arc::new(ArcSwap::new(Arc::clone(passage))))
            }
        };
        Self { served, admission: Arc::default() }
    }

    /// Serves what stands at the same address now; if nothing does, connections that are left are
    /// judged by what is nearest.
    pub(super) fn swap(
        &self,
        generation: &Generation,
        posts: &[ListenerSlot],
        way: Option<&Arc<ForwardRuntime>>,
    ) {
        match &self.served {
            ListenerState::In(site) => {
                let old = site.load_full();
                let heir = generation.heir(&old).cloned();
                site.store(heir.unwrap_or_else(|| Arc::new(old.emptied())));
            }
            ListenerState::Out(stand, _) => {
                let old = stand.load_full();
                let mut stands = posts.iter().filter_map(ListenerSlot::stand);
                let kept = stands.find(|stand| stand.listener.address == old.listener.address);
                let heir = || match way {
                    Some(way) => old.under(way),
                    None => old.closed(),
                };
                stand.store(kept.cloned().unwrap_or_else(|| Arc::new(heir())));
            }
            ListenerState::Through(passage) => {
                let old = passage.load_full();
                let heir = generation.heir_of_passage(&old).cloned();
                passage.store(heir.unwrap_or_else(|| Arc::new(old.emptied())));
            }
        }
    }

    /// For as long as a listener that was removed has connections.
    pub(super) fn downgrade(&self) -> RetiredListener {
        match &self.served {
            ListenerState::In(site) => RetiredListener::In(Arc::downgrade(site)),
            ListenerState::Out(stand, commons) => {
                RetiredListener::Out(Arc::downgrade(stand), Arc::clone(commons))
            }
            ListenerState::Through(passage) => RetiredListener::Through(Arc::downgrade(passage)),
        }
    }

    /// Takes connections from a socket, as a task of this worker.
    pub(super) fn listen(self, worker: &Rc<Worker>, socket: TcpListener) -> Option<ListenerHandle> {
        let (worker, closing) = (Rc::clone(worker), Rc::new(Cell::new(false)));
        let mark = Rc::clone(&closing);
        let address = socket.local_addr().ok()?;
        let admission = self.admission;
        let kind = match self.served {
            ListenerState::In(site) => {
                let service = reverse::ReverseService { worker, site, admission, closing };
                run(Rc::new(service), socket);
                ListenerKind::In
            }
            ListenerState::Out(stand, commons) => {
                let service =
                    forward::ForwardService { worker, stand, admission, commons, closing };
                run(Rc::new(service), socket);
                ListenerKind::Out
            }
            ListenerState::Through(passage) => {
                let service =
                    passthrough::PassthroughService { worker, passage, admission, closing };
                run(Rc::new(service), socket);
                ListenerKind::Through
            }
        };
        Some(ListenerHandle { kind, address, closing: mark })
    }
}

impl ListenerSlot {
    fn stand(&self) -> Option<&Arc<ForwardListenerState>> {
        if let Self::Out(stand) = self { Some(stand) } else { None }
    }
}

fn run<D: Acceptor>(door: Rc<D>, socket: TcpListener) {
    match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => {
            let local = Rc::clone(&door.worker().local);
            local.spawn(accept::run(door, listener));
        }
        Err(error) => tracing::error!("a worker cannot take connections from a socket: {error}"),
    }
}

/// A listener of a worker, for closing it.
pub(super) struct ListenerHandle {
    kind: ListenerKind,
    address: SocketAddr,
    closing: Rc<Cell<bool>>,
}

impl ListenerHandle {
    /// Whether it is the one to close; then it takes no more.
    pub(super) fn close(&self, kind: ListenerKind, address: SocketAddr) -> bool {
        let closes = self.kind == kind && self.address == address;
        if closes {
            self.closing.set(true);
        }
        closes
    }
}
