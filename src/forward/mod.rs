//! The forward proxy: connects chat components to the destinations that rules allow.
//!
//! ```text
//! accept -> (TLS) -> ProxiedHead -> login -> Policy -> Usage -> Names -> Guard -> dial
//!        -> 200, the client's hello, joined      (CONNECT)
//!        -> one exchange                         (http://, and https:// if the operator says so)
//! ```
//!
//! The `egress` module makes all decisions; this module calls it in the right order and carries the
//! decisions out. Each client connection is one task; a tunnel moves on into a small task of its
//! own.
//!
//! This module never dials an unchecked address and never looks up a name that the rules deny.

mod accept;
mod auth;
mod client_hello;
mod connect;
mod dns_cache;
mod exchange;
mod limits;
mod logins;
mod parent;
mod record;
mod registry;
mod rejection;
mod request;
mod runtime;
mod serve;
mod shared;
mod tunnel;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::addr::ClientAddr;
use crate::downstream::Worker;
use crate::downstream::balancer::ProxyHeader;
use crate::generation::forward_proxy::ForwardProxyListener;
use crate::net::admission::Admission;
use crate::tls::ClientHandshake;

pub use registry::{EgressTunnels, OpenTunnel};
pub use runtime::{ForwardListenerState, ForwardRuntime, PROFILE_LABEL};
pub use shared::ForwardShared;

/// One listener on one worker.
pub struct ForwardService {
    /// The worker.
    pub worker: Rc<Worker>,
    /// Current state of the listener, replaced by a reload.
    pub listener_state: Arc<ArcSwap<ForwardListenerState>>,
    /// Its open connections, on all workers.
    pub admission: Arc<Admission>,
    /// State shared by all listeners on all workers.
    pub forward_shared: Arc<ForwardShared>,
    /// The listener is being removed.
    pub closing: Rc<Cell<bool>>,
}

/// Facts about a client connection, from its handshake on.
struct ForwardConn {
    client: ClientAddr,
    /// When it was accepted.
    began: Instant,
    /// The balancer it came through. Boxed: most come through none.
    via: Option<Box<ProxyHeader>>,
    tls: &'static str,
    /// Names in its certificate.
    names: Vec<String>,
    handshake: ClientHandshake,
    /// The configuration change after which `handshake` was judged last.
    judged: Cell<u64>,
    /// The present configuration does not accept `handshake`.
    outdated: Cell<bool>,
}

impl ForwardConn {
    /// A connection on which the client has sent nothing yet.
    fn of(peer: ClientAddr, via: Option<Box<ProxyHeader>>) -> Self {
        let client = via.as_ref().map_or(peer, |via| via.client());
        Self {
            client,
            began: Instant::now(),
            via,
            tls: "",
            names: Vec::new(),
            handshake: ClientHandshake::default(),
            judged: Cell::new(u64::MAX),
            outdated: Cell::new(false),
        }
    }

    /// Whether a client with this handshake may go on using its connection. Names of a certificate
    /// give rights, so they end with the listener's CAs.
    fn is_accepted_by(&self, listener: &ForwardProxyListener) -> bool {
        let tls = listener.tls.as_ref();
        let asks = tls.is_some_and(|tls| tls.client_auth.is_some());
        self.handshake.is_accepted_by(tls) && (asks || self.names.is_empty())
    }

    /// Whether the connection is to be closed, because what its listener asks of clients in their
    /// handshake has changed. Looks at the listener only after a change of configuration.
    fn is_outdated(&self, service: &ForwardService) -> bool {
        let generation = service.worker.local.generation();
        if self.judged.replace(generation) != generation {
            self.outdated.set(!self.is_accepted_by(&service.listener_state.load().listener));
        }
        self.outdated.get()
    }
}
