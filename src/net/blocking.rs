//! Blocking work on threads of its own, shared fairly between client networks.
//!
//! Not tokio's blocking pool: that belongs to a runtime, and a runtime waits at its end for what
//! its pool is doing. A look-up that hangs must not hold up the end of a worker. Threads end when
//! there is nothing left to do; starting one takes some tens of microseconds, which is little next
//! to what is done on it.
//!
//! Each client network has a queue of its own, the queues take turns, and no network runs more jobs
//! at once than its share: a client that asks for more than it can have waits behind itself only.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Queued jobs of all networks; more are refused.
const MAX_QUEUED: usize = 1024;

/// Queued jobs of one network; more are refused.
const MAX_QUEUED_PER_NETWORK: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

/// A bounded number of threads; shared by the workers.
#[derive(Clone)]
pub struct BlockingPool(Arc<PoolShared>);

struct PoolShared {
    /// Threads at a time.
    threads: usize,
    /// Jobs of one network at a time.
    share: usize,
    name: &'static str,
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    /// Threads that run.
    running: usize,
    queued: usize,
    networks: HashMap<IpAddr, Network>,
    /// Networks with a queued job that are below their share, each once.
    turns: VecDeque<IpAddr>,
}

/// Jobs of one client network.
#[derive(Default)]
struct Network {
    queue: VecDeque<Job>,
    running: usize,
}

impl BlockingPool {
    /// At most `threads` at a time, all of this name; at most `share` of them for one network.
    #[must_use]
    pub fn new(threads: usize, share: usize, name: &'static str) -> Self {
        Self(Arc::new(PoolShared { threads, share, name, state: Mutex::default() }))
    }

    /// Begins `job` for a client network, or queues it; it runs to its end whether or not anybody
    /// waits. `false` if it never will: the queue is full, or no thread can be had.
    pub fn start(&self, network: IpAddr, job: impl FnOnce() + Send + 'static) -> bool {
        let mut state = self.0.lock();
        if state.queued >= MAX_QUEUED || !state.add(network, Box::new(job), self.0.share) {
            return false;
        }
        if state.running >= self.0.threads || state.turns.is_empty() {
            return true;
        }
        let crew = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name(self.0.name.to_owned());
        if thread.spawn(move || crew.work()).is_ok() {
            state.running += 1;
        } else if state.running == 0 {
            // Nothing runs, so this job is the only one.
            *state = PoolState::default();
            return false;
        }
        true
    }

    /// Runs `work` for a client network and waits for the result. `None` if it does not run, or
    /// panics.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the work to its end.
    pub async fn run<T: Send + 'static>(
        &self,
        network: IpAddr,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, done) = oneshot::channel();
        let begun = self.start(network, move || {
            // Whoever asked may have gone.
            let _ = sender.send(work());
        });
        if begun { done.await.ok() } else { None }
    }
}

impl PoolState {
    /// Queues a job; `false` if its network has too many queued.
    fn add(&mut self, address: IpAddr, job: Job, share: usize) -> bool {
        let network = self.networks.entry(address).or_default();
        if network.queue.len() >= MAX_QUEUED_PER_NETWORK {
            return false;
        }
        network.queue.push_back(job);
        self.queued += 1;
        if network.queue.len() == 1 && network.running < share {
            self.turns.push_back(address);
        }
        true
    }

    /// Takes the next job, and the network it is for.
    fn next(&mut self, share: usize) -> Option<(IpAddr, Job)> {
        let address = self.turns.pop_front()?;
        let network = self.networks.get_mut(&address)?;
        let job = network.queue.pop_front()?;
        self.queued -= 1;
        network.running += 1;
        if !network.queue.is_empty() && network.running < share {
            self.turns.push_back(address);
        }
        Some((address, job))
    }

    /// Notes that a job has ended.
    fn ended(&mut self, address: IpAddr, share: usize) {
        let Some(network) = self.networks.get_mut(&address) else { return };
        let was_full = network.running == share;
        network.running -= 1;
        if network.queue.is_empty() {
            if network.running == 0 {
                self.networks.remove(&address);
            }
        } else if was_full {
            self.turns.push_back(address);
        }
    }
}

impl PoolShared {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a thread.
    fn work(&self) {
        loop {
            let mut state = self.lock();
            let Some((network, job)) = state.next(self.share) else {
                state.running -= 1;
                return;
            };
            drop(state);
            // A panic must not take the queue behind it along; the panic hook has reported it.
            let _ = catch_unwind(AssertUnwindSafe(job));
            self.lock().ended(network, self.share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    fn network(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[tokio::test]
    async fn no_more_run_at_a_time_than_there_is_room_for() {
        let aside = BlockingPool::new(2, 2, "aside");
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
                    aside.run(network(1), work).await
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
        let aside = BlockingPool::new(1, 1, "aside");
        assert_eq!(aside.run(network(1), || -> u8 { panic!("on purpose") }).await, None);
        assert_eq!(aside.run(network(1), || 1).await, Some(1));
        // The thread takes note of the end of a job after the job has answered.
        while !aside.0.lock().networks.is_empty() {
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn a_network_that_blocks_its_share_leaves_the_rest_to_others() {
        let aside = BlockingPool::new(2, 1, "aside");
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let begun: Vec<bool> = (0..MAX_QUEUED_PER_NETWORK + 10)
            .map(|_| {
                let wait = Arc::clone(&wait);
                aside.start(network(1), move || {
                    let _ = wait.lock().unwrap().recv();
                })
            })
            .collect();
        let refused = begun.iter().filter(|begun| !**begun).count();
        assert!((9..=10).contains(&refused), "{refused}");
        let other = tokio::time::timeout(Duration::from_secs(20), aside.run(network(2), || 1));
        assert_eq!(other.await.unwrap(), Some(1));
        drop(release);
        while !aside.0.lock().networks.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(aside.0.lock().queued, 0);
    }
}
