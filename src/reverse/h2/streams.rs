//! State shared by the streams of one HTTP/2 connection and the connection's task.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use prometheus::IntGauge;
use tokio::time::Instant;

use crate::net::{CoarseClock, Timer};

use super::budget::SendBudget;

/// State shared by the streams of one connection.
pub(super) struct StreamSet {
    clock: CoarseClock,
    open: Cell<usize>,
    used: Cell<Instant>,
    /// Timer of the connection.
    pub(super) timer: Timer,
    /// The connection must accept no new streams.
    leaves: Cell<bool>,
    /// Memory budget for buffered answers.
    pub(super) budget: Arc<SendBudget>,
}

impl StreamSet {
    /// The state of a connection without streams. `unsent` counts the buffered bytes of all
    /// connections.
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

    /// Whether no stream is open.
    pub(super) fn is_idle(&self) -> bool {
        self.open.get() == 0
    }

    /// Time at which the last stream ended, or the connection began.
    pub(super) fn used(&self) -> Instant {
        self.used.get()
    }

    /// Whether the connection must accept no new streams.
    pub(super) fn leaves(&self) -> bool {
        self.leaves.get()
    }

    /// Requests that the connection ends after its streams. GOAWAY is sent within a tick.
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
