//! What belongs to one data worker.

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

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Takes connections.
    Serving,
    /// Another process takes them. Answers what comes on those it has, each for the last time, and
    /// leaves tunnels alone.
    Succeeded,
    /// Takes no more and finishes what it has.
    Draining,
    /// Cuts what is left.
    Cutting,
}

/// A worker's own things: nothing in here is shared with another thread.
pub struct WorkerLocal {
    /// Deadlines.
    pub clock: CoarseClock,
    /// Empty pipes, for splicing.
    pub pipes: SparePipes,
    scratch: RefCell<Box<[u8]>>,
    phase: Cell<Phase>,
    spread: Cell<Duration>,
    generation: Cell<u64>,
    shifts: Cell<u64>,
    open: Cell<usize>,
    emptied: Notify,
}

impl WorkerLocal {
    /// For the current thread.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            clock: CoarseClock::new(),
            pipes: SparePipes::default(),
            scratch: RefCell::new(vec![0; SCRATCH_SIZE].into_boxed_slice()),
            phase: Cell::new(Phase::Serving),
            spread: Cell::new(Duration::ZERO),
            generation: Cell::new(0),
            shifts: Cell::new(0),
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

    /// Moves on and tells every task that waits on an alarm. `spread` is the time over which
    /// tunnels are closed while draining; zero: they are left alone.
    pub fn enter(&self, phase: Phase, spread: Duration) {
        self.phase.set(phase);
        self.spread.set(spread);
        self.clock.wake_all();
    }

    /// Number of configuration changes this worker has heard of.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Tells every task that waits on an alarm that the configuration has changed.
    pub fn reloaded(&self) {
        self.generation.set(self.generation.get() + 1);
        self.clock.wake_all();
    }

    /// Number of times this worker has heard that new work goes elsewhere than before.
    #[must_use]
    pub fn shifts(&self) -> u64 {
        self.shifts.get()
    }

    /// Tells every task that waits on an alarm that new work goes elsewhere than before.
    pub fn shifted(&self) {
        self.shifts.set(self.shifts.get() + 1);
        self.clock.wake_all();
    }

    /// A moment for a tunnel to close while draining, somewhere in the time over which all are
    /// closed: clients that reconnect must not all come at once. `None`: it is left alone.
    #[must_use]
    pub fn closing_time(&self) -> Option<Duration> {
        let spread = self.spread.get();
        (!spread.is_zero()).then(|| moment_within(spread))
    }

    /// Runs a task that a drain waits for.
    pub fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let open = OpenTasks::new(Rc::clone(self));
        // Boxed: a future that awaits one it was given holds room for it twice.
        let task = Box::pin(task);
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

/// Any moment within `spread`: what is closed at such moments does not come back all at once.
#[must_use]
pub fn moment_within(spread: Duration) -> Duration {
    // A new hasher is differently keyed each time, which is all the chance that is needed.
    let chance = RandomState::new().build_hasher().finish();
    let share = u32::from(u16::try_from(chance & 0xffff).unwrap_or_default());
    spread * share / 0x1_0000
}

/// What draining means for one tunnel.
#[derive(Clone, Copy, Debug, Default)]
pub enum DrainDeadline {
    /// It has not begun.
    #[default]
    NotYet,
    /// It is left alone.
    Never,
    /// It closes then.
    At(Instant),
}

impl DrainDeadline {
    /// Notices once that the worker drains; the moment at which the tunnel closes, if it is now that
    /// this was decided.
    pub fn notice(&mut self, local: &WorkerLocal, now: Instant) -> Option<Instant> {
        if local.phase() != Phase::Draining || !matches!(self, Self::NotYet) {
            return None;
        }
        *self = local.closing_time().map_or(Self::Never, |after| Self::At(now + after));
        self.at()
    }

    /// The moment at which the tunnel closes, if there is one.
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
