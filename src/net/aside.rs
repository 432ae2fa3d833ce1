//! Work that blocks, on threads of its own, so that a worker never does.
//!
//! Not tokio's blocking pool: that belongs to a runtime, and a runtime waits at its end for what
//! its pool is doing. A look-up that hangs must not hold up the end of a worker. Threads end when
//! there is nothing left to do; starting one takes some tens of microseconds, which is little next
//! to what is done on it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Jobs that may wait for a thread; more are refused.
const QUEUE: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// A bounded number of threads; shared by the workers.
#[derive(Clone)]
pub struct Aside(Arc<Crew>);

struct Crew {
    most: usize,
    name: &'static str,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    queue: VecDeque<Job>,
}

impl Aside {
    /// At most `threads` at a time, all of this name.
    #[must_use]
    pub fn new(threads: usize, name: &'static str) -> Self {
        Self(Arc::new(Crew { most: threads, name, state: Mutex::default() }))
    }

    /// Begins `job`, or queues it; it runs to its end whether or not anybody waits. `false` if it
    /// never will: the queue is full, or no thread can be had.
    pub fn start(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let mut state = self.0.lock();
        if state.queue.len() >= QUEUE {
            return false;
        }
        state.queue.push_back(Box::new(job));
        if state.running >= self.0.most {
            return true;
        }
        let crew = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name(self.0.name.to_owned());
        if thread.spawn(move || crew.work()).is_ok() {
            state.running += 1;
        } else if state.running == 0 {
            state.queue.pop_back();
            return false;
        }
        true
    }

    /// Runs `work` and waits for what comes of it. `None` if it does not run, or panics.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the work to its end.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, done) = oneshot::channel();
        let begun = self.start(move || {
            // Whoever asked may have gone.
            let _ = sender.send(work());
        });
        if begun { done.await.ok() } else { None }
    }
}

impl Crew {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a thread.
    fn work(&self) {
        loop {
            let mut state = self.lock();
            let Some(job) = state.queue.pop_front() else {
                state.running -= 1;
                return;
            };
            drop(state);
            // A job that panics must not take the queue behind it along; its panic has been told.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[tokio::test]
    async fn no_more_run_at_a_time_than_there_is_room_for() {
        let aside = Aside::new(2, "aside");
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let (aside, wait) = (aside.clone(), Arc::clone(&wait));
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                tokio::spawn(async move {
                    let work = move || {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        let _ = wait.lock().unwrap().recv();
                        now.fetch_sub(1, Ordering::SeqCst);
                    };
                    aside.run(work).await
                })
            })
            .collect();
        for _ in 0..5 {
            release.send(()).unwrap();
        }
        for task in tasks {
            assert_eq!(task.await.unwrap(), Some(()));
        }
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    }

    #[tokio::test]
    async fn a_panic_ends_one_job_only() {
        let aside = Aside::new(1, "aside");
        assert_eq!(aside.run(|| -> u8 { panic!("on purpose") }).await, None);
        assert_eq!(aside.run(|| 1).await, Some(1));
    }
}
