//! State that the streams of one HTTP/2 connection share with the connection's own task.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use prometheus::IntGauge;
use tokio::time::Instant;

use crate::net::{CoarseClock, Timer};

use super::budget::SendBudget;

/// State that the streams of one connection share.
pub(super) struct StreamSet {
    clock: CoarseClock,
    open: Cell<usize>,
    used: Cell<Instant>,
    /// The connection's own.
    pub(super) timer: Timer,
    /// The connection is to carry no new streams.
    leaves: Cell<bool>,
    /// Memory for answers that the client has not taken yet.
    pub(super) budget: Arc<SendBudget>,
}

impl StreamSet {
    /// Of a connection that has none yet; `unsent` counts the bytes that all connections hold.
    pub(super) fn new(clock: &CoarseClock, unsent: &IntGauge) -> Rc<Self> {
        Rc::new(Self {
            open: Cell::new(0),
            used: Cell::new(clock.now()),
            timer: clock.timer(),
            leaves: Cell::new(false),
            budget: SendBudget::new(unsent),
            clock: clock.clone(),
        })
    }

    /// Whether none is open.
    pub(super) fn is_idle(&self) -> bool {
        self.open.get() == 0
    }

    /// When the last one ended, or the connection began.
    pub(super) fn used(&self) -> Instant {
        self.used.get()
    }

    /// Whether the connection is to carry no new streams.
    pub(super) fn leaves(&self) -> bool {
        self.leaves.get()
    }

    /// Lets the connection end once its streams have; its client is told within a tick.
    pub(super) fn leave(&self) {
        self.leaves.set(true);
        self.timer.set_at(self.clock.now());
    }
}

/// Counts a stream as open until it is dropped.
pub(super) struct OpenStream(Rc<StreamSet>);

impl OpenStream {
    pub(super) fn new(streams: &Rc<StreamSet>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Self(Rc::clone(streams))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.used.set(self.0.clock.now());
    }
}
