//! The forward proxy: the way out for chat components, and for nothing else.
//!
//! ```text
//! accept -> (TLS) -> ProxiedHead -> who asks -> Policy -> Usage -> Names -> Guard -> dial
//!        -> 200, the client's hello, joined      (CONNECT)
//!        -> one exchange                         (http://, and https:// if the operator says so)
//! ```
//!
//! What is decided is decided by `egress`; here it is asked in the right order, and carried out.
//! One task per client connection; a tunnel moves on into a small one of its own.
//!
//! Never: dials what the guard has not checked, looks up what the rules do not allow.

mod accept;
mod commons;
mod exchange;
mod hello;
mod live;
mod names;
mod parent;
mod reach;
mod record;
mod refusal;
mod request;
mod serve;
mod tunnel;
mod usage;
mod way;
mod who;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::addr::ClientAddr;
use crate::downstream::Worker;
use crate::downstream::balancer::Via;
use crate::net::admission::Admission;

pub use commons::Commons;
pub use live::{Live, Open};
pub use way::{Stand, Way};

/// One listener on one worker.
pub struct Service {
    /// The worker.
    pub worker: Rc<Worker>,
    /// What the listener serves at present.
    pub stand: Arc<ArcSwap<Stand>>,
    /// Its open connections, on all workers.
    pub admission: Arc<Admission>,
    /// What all listeners on all workers share.
    pub commons: Arc<Commons>,
    /// The listener is being removed.
    pub closing: Rc<Cell<bool>>,
}

/// What is known about a client connection, from its handshake on.
struct Facts {
    client: ClientAddr,
    /// The balancer it came through. Boxed: most come through none.
    via: Option<Box<Via>>,
    tls: &'static str,
    /// Names in its certificate.
    names: Vec<String>,
}

impl Facts {
    /// Of a connection on which the client itself has said nothing yet.
    fn of(peer: ClientAddr, via: Option<Box<Via>>) -> Self {
        let client = via.as_ref().map_or(peer, |via| via.client());
        Self { client, via, tls: "", names: Vec::new() }
    }
}
