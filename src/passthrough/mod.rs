//! The way through: connections passed to an upstream as they are, chosen by the name in the
//! client's TLS hello, or by the port alone.
//!
//! ```text
//! accept -> clients -> hello -> Passage -> an endpoint, dialled -> hello sent on, joined
//! ```
//!
//! Nothing is sent before there is a connection to send it on, so the next endpoint is tried as
//! long as there is one. One task per client connection; once it is joined it moves on into a
//! small one of its own.
//!
//! Never: opens TLS, changes a byte.

mod accept;
mod record;
mod tunnel;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::downstream::Worker;
use crate::generation::PassthroughListener;
use crate::net::admission::Admission;

/// One listener on one worker.
pub struct PassthroughService {
    /// The worker.
    pub worker: Rc<Worker>,
    /// What the listener serves at present.
    pub passthrough_listener: Arc<ArcSwap<PassthroughListener>>,
    /// Its open connections, on all workers.
    pub admission: Arc<Admission>,
    /// The listener is being removed.
    pub closing: Rc<Cell<bool>>,
}
