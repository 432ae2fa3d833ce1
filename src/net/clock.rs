//! A coarse clock for deadlines that are set often and rarely reached.
//!
//! Setting a tokio timer reads the clock, takes a place in the timer wheel and sometimes wakes the
//! poller. Setting a deadline here is one store. One task per worker checks the table of deadlines
//! four times a second, but only while a deadline is set and the time is read. Otherwise the task
//! sleeps until the next deadline, so that a thousand silent WebSockets do not keep a worker awake.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Resolution of the clock: a deadline is noticed at most this late.
pub const TICK: Duration = Duration::from_millis(250);

/// The coarse clock of a worker. Clones share their state.
#[derive(Clone)]
pub struct CoarseClock(Rc<TimerTable>);

struct TimerTable {
    now: Cell<Instant>,
    slots: RefCell<Vec<TimerSlot>>,
    free: RefCell<Vec<usize>>,
    armed: Cell<usize>,
    /// The time was read since the last tick.
    is_used: Cell<bool>,
    /// The clock task sleeps until the next deadline, so `now` may be out of date.
    asleep: Cell<bool>,
    started: Notify,
}

#[derive(Default)]
struct TimerSlot {
    deadline: Option<Instant>,
    waker: Option<Waker>,
}

impl CoarseClock {
    /// Creates a clock. Its deadlines are noticed only while [`CoarseClock::run`] is polled.
    #[must_use]
    pub fn new() -> Self {
        Self(Rc::new(TimerTable {
            now: Cell::new(Instant::now()),
            slots: RefCell::default(),
            free: RefCell::default(),
            armed: Cell::new(0),
            is_used: Cell::new(false),
            asleep: Cell::new(false),
            started: Notify::new(),
        }))
    }

    /// The current time, at most [`TICK`] old while any deadline is set.
    #[must_use]
    pub fn now(&self) -> Instant {
        if self.0.armed.get() == 0 {
            self.0.now.set(Instant::now());
        } else {
            self.0.mark_used();
        }
        self.0.now.get()
    }

    /// Creates a timer without a deadline, for use by one task.
    #[must_use]
    pub fn timer(&self) -> Timer {
        let slot = self.0.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut slots = self.0.slots.borrow_mut();
            slots.push(TimerSlot::default());
            slots.len() - 1
        });
        Timer { clock: self.clone(), slot }
    }

    /// Wakes every task that polls a timer, so that it notices a change of the worker's state.
    pub fn wake_all(&self) {
        self.wake(|_| true);
    }

    /// Ticks for ever. A worker runs this future as one of its tasks.
    pub async fn run(self) {
        loop {
            if self.0.armed.get() == 0 {
                self.0.started.notified().await;
            }
            self.0.is_used.set(false);
            tokio::time::sleep(TICK).await;
            self.tick();
            if self.0.is_used.get() {
                continue;
            }
            if let Some(next) = self.0.next() {
                self.0.asleep.set(true);
                let _ = tokio::time::timeout_at(next, self.0.started.notified()).await;
                self.0.asleep.set(false);
                self.tick();
            }
        }
    }

    fn tick(&self) {
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
    /// Marks the clock as in use. Updates the time first if the clock task is asleep.
    fn mark_used(&self) {
        self.is_used.set(true);
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

/// One deadline. Dropping the timer clears it.
pub struct Timer {
    clock: CoarseClock,
    slot: usize,
}

impl Timer {
    /// Sets the deadline to `after` from now. It is reached up to [`TICK`] late and never early.
    pub fn set(&self, after: Duration) {
        self.set_at(self.clock.now() + after + TICK);
    }

    /// Sets the deadline.
    pub fn set_at(&self, deadline: Instant) {
        self.change(Some(deadline));
    }

    /// Clears the deadline. The task is still woken by [`CoarseClock::wake_all`].
    pub fn clear(&self) {
        self.change(None);
    }

    fn change(&self, deadline: Option<Instant>) {
        let table = &self.clock.0;
        if deadline.is_some() {
            table.mark_used();
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

    /// Ready once the deadline has passed; until then, registers the task to be woken at the
    /// deadline.
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
    fn a_timer_is_ready_at_its_deadline_and_not_before() {
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
    fn an_unused_clock_sleeps_and_is_accurate_when_read() {
        run(async {
            let clock = CoarseClock::new();
            tokio::task::spawn_local(clock.clone().run());
            let far = clock.timer();
            far.set(Duration::from_mins(10));
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert!(clock.0.asleep.get());
            assert_eq!(clock.now(), Instant::now());
            tokio::time::sleep(Duration::from_secs(100)).await;
            // This deadline is earlier than the one that the clock task sleeps for.
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
    fn a_dropped_timer_leaves_no_deadline() {
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
    fn wake_all_wakes_tasks_without_a_deadline() {
        run(async {
            let clock = CoarseClock::new();
            let timer = clock.timer();
            let is_set = Rc::new(Cell::new(false));
            let waiting = tokio::task::spawn_local({
                let is_set = Rc::clone(&is_set);
                poll_fn(move |cx| {
                    let _ = timer.poll(cx);
                    if is_set.get() { Poll::Ready(()) } else { Poll::Pending }
                })
            });
            tokio::task::yield_now().await;
            is_set.set(true);
            clock.wake_all();
            waiting.await.unwrap();
        });
    }
}
