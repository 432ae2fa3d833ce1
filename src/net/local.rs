//! What belongs to one data worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::Notify;

use super::clock::Clock;

/// Size of the scratch buffer, in bytes: four TLS records.
const SCRATCH: usize = 64 * 1024;

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Takes connections.
    Serving,
    /// Takes no more and finishes what it has.
    Draining,
    /// Cuts what is left.
    Cutting,
}

/// A worker's own things: nothing in here is shared with another thread.
pub struct Local {
    /// Deadlines.
    pub clock: Clock,
    scratch: RefCell<Box<[u8]>>,
    phase: Cell<Phase>,
    open: Cell<usize>,
    emptied: Notify,
}

impl Local {
    /// For the current thread.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            clock: Clock::new(),
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            phase: Cell::new(Phase::Serving),
            open: Cell::new(0),
            emptied: Notify::new(),
        })
    }

    /// Lends the scratch buffer for the length of one call. Its contents are left over from
    /// others; only what `use_it` writes may be read.
    ///
    /// # Panics
    ///
    /// Never, as long as `use_it` does not itself borrow the buffer; nothing that runs inside a
    /// poll of a socket does.
    pub fn with_scratch<T>(&self, use_it: impl FnOnce(&mut [u8]) -> T) -> T {
        use_it(&mut self.scratch.borrow_mut())
    }

    /// Where the worker is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Moves on and tells every task that waits on an alarm.
    pub fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.clock.wake_all();
    }

    /// Runs a task that a drain waits for.
    pub fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let open = Open::new(Rc::clone(self));
        tokio::task::spawn_local(async move {
            let _open = open;
            task.await;
        });
    }

    /// Number of tasks that a drain waits for.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Waits until all tasks have ended.
    pub async fn emptied(&self) {
        while self.open.get() > 0 {
            self.emptied.notified().await;
        }
    }
}

struct Open(Rc<Local>);

impl Open {
    fn new(local: Rc<Local>) -> Self {
        local.open.set(local.open.get() + 1);
        Self(local)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let left = self.0.open.get() - 1;
        self.0.open.set(left);
        if left == 0 {
            self.0.emptied.notify_one();
        }
    }
}
