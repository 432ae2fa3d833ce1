//! Coarse time for deadlines that are set often and rarely reached.
//!
//! A tokio timer costs a look at the clock, a place in its wheel and sometimes a wake-up of the
//! poller each time it is set. Here setting a deadline is a store; one task per worker looks over
//! the table four times a second, and only while a deadline is set and somebody asks for the time.
//! Where nobody does nothing moves, and it sleeps until the next deadline: a thousand WebSockets that
//! say nothing do not keep a worker awake.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How late a deadline may be noticed.
pub const TICK: Duration = Duration::from_millis(250);

/// A worker's clock.
#[derive(Clone)]
pub struct CoarseClock(Rc<TimerTable>);

struct TimerTable {
    now: Cell<Instant>,
    slots: RefCell<Vec<TimerSlot>>,
    free: RefCell<Vec<usize>>,
    armed: Cell<usize>,
    /// Somebody has asked for the time since the last look.
    asked: Cell<bool>,
    /// `now` stands still until somebody asks or a deadline comes.
    asleep: Cell<bool>,
    started: Notify,
}

#[derive(Default)]
struct TimerSlot {
    deadline: Option<Instant>,
    waker: Option<Waker>,
}

impl CoarseClock {
    /// A clock that stands still until [`CoarseClock::run`] is polled.
    #[must_use]
    pub fn new() -> Self {
        Self(Rc::new(TimerTable {
            now: Cell::new(Instant::now()),
            slots: RefCell::default(),
            free: RefCell::default(),
            armed: Cell::new(0),
            asked: Cell::new(false),
            asleep: Cell::new(false),
            started: Notify::new(),
        }))
    }

    /// The time, at most [`TICK`] old while any deadline is set.
    #[must_use]
    pub fn now(&self) -> Instant {
        if self.0.armed.get() == 0 {
            self.0.now.set(Instant::now());
        } else {
            self.0.stir();
        }
        self.0.now.get()
    }

    /// A deadline to be set later; it belongs to one task.
    #[must_use]
    pub fn timer(&self) -> Timer {
        let slot = self.0.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut slots = self.0.slots.borrow_mut();
            slots.push(TimerSlot::default());
            slots.len() - 1
        });
        Timer { clock: self.clone(), slot }
    }

    /// Wakes every task that waits on an alarm, so that it looks at what has changed.
    pub fn wake_all(&self) {
        self.wake(|_| true);
    }

    /// Ticks for ever; a worker runs this as one of its tasks.
    pub async fn run(self) {
        loop {
            if self.0.armed.get() == 0 {
                self.0.started.notified().await;
            }
            self.0.asked.set(false);
            tokio::time::sleep(TICK).await;
            self.look();
            if self.0.asked.get() {
                continue;
            }
            if let Some(next) = self.0.next() {
                self.0.asleep.set(true);
                let _ = tokio::time::timeout_at(next, self.0.started.notified()).await;
                self.0.asleep.set(false);
                self.look();
            }
        }
    }

    fn look(&self) {
        let now = Instant::now();
        self.0.now.set(now);
        self.wake(|slot| slot.deadline.is_some_and(|deadline| deadline <= now));
    }

    fn wake(&self, due: impl Fn(&TimerSlot) -> bool) {
        let slots = self.0.slots.borrow();
        let due: Vec<Waker> =
            slots.iter().filter(|slot| due(slot)).filter_map(|slot| slot.waker.clone()).collect();
        drop(slots);
        for waker in due {
            waker.wake();
        }
    }
}

impl TimerTable {
    /// Notes that the time is asked for, and sees to it that it is the present one.
    fn stir(&self) {
        self.asked.set(true);
        if self.asleep.replace(false) {
            self.now.set(Instant::now());
            self.started.notify_one();
        }
    }

    /// The earliest deadline.
    fn next(&self) -> Option<Instant> {
        self.slots.borrow().iter().filter_map(|slot| slot.deadline).min()
    }
}

impl Default for CoarseClock {
    fn default() -> Self {
        Self::new()
    }
}

/// One deadline. Dropping it forgets it.
pub struct Timer {
    clock: CoarseClock,
    slot: usize,
}

impl Timer {
    /// Sets the deadline to `after` from now, give or take [`TICK`], never early.
    pub fn set(&self, after: Duration) {
        self.set_at(self.clock.now() + after + TICK);
    }

    /// Sets the deadline.
    pub fn set_at(&self, deadline: Instant) {
        self.change(Some(deadline));
    }

    /// Takes the deadline away. The task is still woken by [`CoarseClock::wake_all`].
    pub fn clear(&self) {
        self.change(None);
    }

    fn change(&self, deadline: Option<Instant>) {
        let table = &self.clock.0;
        if deadline.is_some() {
            table.stir();
        }
        let mut slots = table.slots.borrow_mut();
        let Some(slot) = slots.get_mut(self.slot) else { return };
        let armed = table.armed.get();
        match (slot.deadline.is_some(), deadline.is_some()) {
            (false, true) => {
                table.armed.set(armed + 1);
                if armed == 0 {
                    table.started.notify_one();
                }
            }
            (true, false) => table.armed.set(armed - 1),
            _ => {}
        }
        slot.deadline = deadline;
    }

    /// Ready once the deadline has passed; otherwise the task is woken when it has.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut slots = self.clock.0.slots.borrow_mut();
        let Some(slot) = slots.get_mut(self.slot) else { return Poll::Pending };
        match &slot.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => slot.waker = Some(cx.waker().clone()),
        }
        match slot.deadline {
            Some(deadline) if deadline <= self.clock.0.now.get() => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.clear();
        if let Some(slot) = self.clock.0.slots.borrow_mut().get_mut(self.slot) {
            slot.waker = None;
        }
        self.clock.0.free.borrow_mut().push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        runtime.block_on(test);
    }

    #[test]
    fn an_alarm_goes_off_after_its_time_and_not_before() {
        run(async {
            let clock = CoarseClock::new();
            tokio::task::spawn_local(clock.clone().run());
            let start = Instant::now();
            let timer = clock.timer();
            timer.set(Duration::from_secs(3));
            poll_fn(|cx| timer.poll(cx)).await;
            let waited = start.elapsed();
            assert!(
                waited >= Duration::from_secs(3) && waited <= Duration::from_secs(4),
                "{waited:?}"
            );
        });
    }

    #[test]
    fn a_clock_that_nobody_asks_sleeps_and_is_right_when_asked() {
        run(async {
            let clock = CoarseClock::new();
            tokio::task::spawn_local(clock.clone().run());
            let far = clock.timer();
            far.set(Duration::from_mins(10));
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert!(clock.0.asleep.get());
            assert_eq!(clock.now(), Instant::now());
            tokio::time::sleep(Duration::from_secs(100)).await;
            // One that is nearer than what it sleeps for.
            let start = Instant::now();
            let near = clock.timer();
            near.set(Duration::from_secs(3));
            poll_fn(|cx| near.poll(cx)).await;
            assert!(start.elapsed() >= Duration::from_secs(3));
            assert!(start.elapsed() <= Duration::from_secs(4), "{:?}", start.elapsed());
            drop(near);
            poll_fn(|cx| far.poll(cx)).await;
            let since = start.elapsed() + Duration::from_secs(200);
            assert!(since >= Duration::from_mins(10) && since <= Duration::from_secs(602));
        });
    }

    #[test]
    fn a_dropped_alarm_leaves_nothing_armed() {
        run(async {
            let clock = CoarseClock::new();
            let timer = clock.timer();
            timer.set(Duration::from_secs(1));
            timer.set(Duration::from_secs(2));
            assert_eq!(clock.0.armed.get(), 1);
            drop(timer);
            assert_eq!(clock.0.armed.get(), 0);
            let _reused = clock.timer();
            assert_eq!(clock.0.slots.borrow().len(), 1);
        });
    }

    #[test]
    fn wakes_everyone_when_asked() {
        run(async {
            let clock = CoarseClock::new();
            let timer = clock.timer();
            let told = Rc::new(Cell::new(false));
            let waiting = tokio::task::spawn_local({
                let told = Rc::clone(&told);
                poll_fn(move |cx| {
                    let _ = timer.poll(cx);
                    if told.get() { Poll::Ready(()) } else { Poll::Pending }
                })
            });
            tokio::task::yield_now().await;
            told.set(true);
            clock.wake_all();
            waiting.await.unwrap();
        });
    }
}
