//! State of one data worker, which no other thread touches.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::clock::CoarseClock;
use super::splice::SparePipes;

/// Size of the scratch buffer, in bytes: four TLS records.
const SCRATCH_SIZE: usize = 64 * 1024;

/// The phase of a worker, from start to exit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Accepts connections.
    Serving,
    /// The child of a binary upgrade accepts connections. This worker answers one more request on
    /// each connection, then closes it, and leaves tunnels open.
    Succeeded,
    /// Accepts no connections and finishes those it has.
    Draining,
    /// Closes all remaining connections at once.
    Cutting,
}

/// Worker-local state. It is not shared with other threads.
pub struct WorkerLocal {
    /// The clock for deadlines.
    pub clock: CoarseClock,
    /// Empty pipes for splicing.
    pub pipes: SparePipes,
    scratch: RefCell<Box<[u8]>>,
    phase: Cell<Phase>,
    spread: Cell<Duration>,
    generation: Cell<u64>,
    failovers: Cell<u64>,
    open: Cell<usize>,
    emptied: Notify,
}

impl WorkerLocal {
    /// Creates the state of the current thread.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            clock: CoarseClock::new(),
            pipes: SparePipes::default(),
            scratch: RefCell::new(vec![0; SCRATCH_SIZE].into_boxed_slice()),
            phase: Cell::new(Phase::Serving),
            spread: Cell::new(Duration::ZERO),
            generation: Cell::new(0),
            failovers: Cell::new(0),
            open: Cell::new(0),
            emptied: Notify::new(),
        })
    }

    /// Lends the scratch buffer for the duration of one call. It contains data of earlier uses, so
    /// `use_it` may read only the bytes it has written.
    ///
    /// # Panics
    ///
    /// Panics if `use_it` borrows the buffer again. Code that runs inside a poll of a socket does
    /// not.
    pub fn with_scratch<T>(&self, use_it: impl FnOnce(&mut [u8]) -> T) -> T {
        use_it(&mut self.scratch.borrow_mut())
    }

    /// The current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Enters a phase and wakes every task that polls a timer. While draining, tunnels are closed
    /// spread over `spread`; if it is zero, they stay open.
    pub fn enter(&self, phase: Phase, spread: Duration) {
        self.phase.set(phase);
        self.spread.set(spread);
        self.clock.wake_all();
    }

    /// Number of configuration changes that this worker has applied.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Counts a configuration change and wakes every task that polls a timer.
    pub fn reloaded(&self) {
        self.generation.set(self.generation.get() + 1);
        self.clock.wake_all();
    }

    /// Number of failover notifications that this worker has received: new work of some upstream
    /// goes to other endpoints than before.
    #[must_use]
    pub fn failovers(&self) -> u64 {
        self.failovers.get()
    }

    /// Counts a failover notification and wakes every task that polls a timer.
    pub fn note_failover(&self) {
        self.failovers.set(self.failovers.get() + 1);
        self.clock.wake_all();
    }

    /// A random time until a tunnel closes while draining, within the time over which all tunnels
    /// are closed, so that clients do not all reconnect at once. `None`: the tunnel stays open.
    #[must_use]
    pub fn closing_time(&self) -> Option<Duration> {
        let spread = self.spread.get();
        (!spread.is_zero()).then(|| moment_within(spread))
    }

    /// Spawns a task that a drain waits for.
    pub fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let open = OpenTasks::new(Rc::clone(self));
        // Boxed, because an async block that awaits a captured future reserves space for it twice.
        let task = Box::pin(task);
        tokio::task::spawn_local(async move {
            let _open = open;
            task.await;
        });
    }

    /// Number of running tasks that a drain waits for.
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

/// A random duration below `spread`, for closing connections spread over that time so that they do
/// not all come back at once.
#[must_use]
pub fn moment_within(spread: Duration) -> Duration {
    // Each new `RandomState` has different keys, which is random enough here.
    let chance = RandomState::new().build_hasher().finish();
    let share = u32::from(u16::try_from(chance & 0xffff).unwrap_or_default());
    spread * share / 0x1_0000
}

/// The time at which a tunnel closes because the worker drains.
#[derive(Clone, Copy, Debug, Default)]
pub enum DrainDeadline {
    /// The drain has not begun.
    #[default]
    NotYet,
    /// The tunnel stays open.
    Never,
    /// The tunnel closes at this time.
    At(Instant),
}

impl DrainDeadline {
    /// Decides once, when the worker begins to drain, at what time the tunnel closes. Returns that
    /// time on the call that decides it.
    pub fn decide(&mut self, local: &WorkerLocal, now: Instant) -> Option<Instant> {
        if local.phase() != Phase::Draining || !matches!(self, Self::NotYet) {
            return None;
        }
        *self = local.closing_time().map_or(Self::Never, |after| Self::At(now + after));
        self.at()
    }

    /// The time at which the tunnel closes, if that is decided.
    #[must_use]
    pub fn at(&self) -> Option<Instant> {
        if let Self::At(at) = self { Some(*at) } else { None }
    }
}

struct OpenTasks(Rc<WorkerLocal>);

impl OpenTasks {
    fn new(local: Rc<WorkerLocal>) -> Self {
        local.open.set(local.open.get() + 1);
        Self(local)
    }
}

impl Drop for OpenTasks {
    fn drop(&mut self) {
        let left = self.0.open.get() - 1;
        self.0.open.set(left);
        if left == 0 {
            self.0.emptied.notify_one();
        }
    }
}
