//! Passthrough: forwards connections without terminating TLS, to an upstream selected by server
//! name or by port.
//!
//! ```text
//! accept -> check client -> read ClientHello -> choose route -> connect to endpoint -> tunnel
//! ```
//!
//! Nothing is sent to an endpoint before the connection is open, so all endpoints can be tried in
//! turn. Each client connection has one task. The tunnel runs in a second, smaller task that
//! replaces the first. No byte of the client is changed.

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
    /// Worker on which this listener runs.
    pub worker: Rc<Worker>,
    /// Configuration of the listener in the current generation.
    pub passthrough_listener: Arc<ArcSwap<PassthroughListener>>,
    /// Open connections of the listener on all workers.
    pub admission: Arc<Admission>,
    /// Set when the listener is removed.
    pub closing: Rc<Cell<bool>>,
}
