//! Thread pool for blocking work, shared fairly between client networks.
//!
//! It replaces tokio's blocking pool, which belongs to a runtime: a runtime that shuts down waits
//! for the jobs of its pool, so a name look-up that hangs would delay the exit of a worker. A
//! thread ends when no job is queued; starting one takes some tens of microseconds, little compared
//! with a job.
//!
//! Each client network has its own queue, the queues are served round-robin, and no network runs
//! more jobs at once than its share. A client with many jobs delays only its own jobs.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Queued jobs of all networks. Further jobs are refused.
const MAX_QUEUED: usize = 1024;

/// Queued jobs of one network. Further jobs are refused.
const MAX_QUEUED_PER_NETWORK: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

/// A pool with a bounded number of threads, shared by the workers.
#[derive(Clone)]
pub struct BlockingPool(Arc<PoolShared>);

struct PoolShared {
    /// Maximum number of threads.
    threads: usize,
    /// Maximum number of running jobs of one network.
    share: usize,
    name: &'static str,
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    /// Number of threads.
    running: usize,
    queued: usize,
    networks: HashMap<IpAddr, Network>,
    /// Networks with a queued job that are below their share, in round-robin order, each once.
    ready: VecDeque<IpAddr>,
}

/// Jobs of one client network.
#[derive(Default)]
struct Network {
    queue: VecDeque<Job>,
    running: usize,
}

impl BlockingPool {
    /// Creates a pool of at most `threads` threads called `name`. One network gets at most `share`
    /// of them.
    #[must_use]
    pub fn new(threads: usize, share: usize, name: &'static str) -> Self {
        Self(Arc::new(PoolShared { threads, share, name, state: Mutex::default() }))
    }

    /// Starts `job` for a client network, or queues it. The job runs to its end even if its result
    /// is no longer needed. Returns `false` if the queue is full or no thread can be started; the
    /// job is then dropped.
    pub fn start(&self, network: IpAddr, job: impl FnOnce() + Send + 'static) -> bool {
        let mut state = self.0.lock();
        if state.queued >= MAX_QUEUED || !state.add(network, Box::new(job), self.0.share) {
            return false;
        }
        if state.running >= self.0.threads || state.ready.is_empty() {
            return true;
        }
        let pool = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name(self.0.name.to_owned());
        if thread.spawn(move || pool.run_jobs()).is_ok() {
            state.running += 1;
        } else if state.running == 0 {
            // No thread is running, so the queue contains only this job.
            *state = PoolState::default();
            return false;
        }
        true
    }

    /// Runs `work` for a client network and waits for the result. `None` if the work is refused or
    /// panics.
    ///
    /// # Cancellation
    ///
    /// Dropping the future does not cancel the work.
    pub async fn run<T: Send + 'static>(
        &self,
        network: IpAddr,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, done) = oneshot::channel();
        let begun = self.start(network, move || {
            // The receiver is dropped if the caller was cancelled.
            let _ = sender.send(work());
        });
        if begun { done.await.ok() } else { None }
    }
}

impl PoolState {
    /// Queues a job. `false` if its network has too many queued jobs.
    fn add(&mut self, address: IpAddr, job: Job, share: usize) -> bool {
        let network = self.networks.entry(address).or_default();
        if network.queue.len() >= MAX_QUEUED_PER_NETWORK {
            return false;
        }
        network.queue.push_back(job);
        self.queued += 1;
        if network.queue.len() == 1 && network.running < share {
            self.ready.push_back(address);
        }
        true
    }

    /// Takes the next job, with its network.
    fn next(&mut self, share: usize) -> Option<(IpAddr, Job)> {
        let address = self.ready.pop_front()?;
        let network = self.networks.get_mut(&address)?;
        let job = network.queue.pop_front()?;
        self.queued -= 1;
        network.running += 1;
        if !network.queue.is_empty() && network.running < share {
            self.ready.push_back(address);
        }
        Some((address, job))
    }

    /// Updates the counts after the end of a job.
    fn ended(&mut self, address: IpAddr, share: usize) {
        let Some(network) = self.networks.get_mut(&address) else { return };
        let was_full = network.running == share;
        network.running -= 1;
        if network.queue.is_empty() {
            if network.running == 0 {
                self.networks.remove(&address);
            }
        } else if was_full {
            self.ready.push_back(address);
        }
    }
}

impl PoolShared {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs queued jobs until there are none. The main function of a thread.
    fn run_jobs(&self) {
        loop {
            let mut state = self.lock();
            let Some((network, job)) = state.next(self.share) else {
                state.running -= 1;
                return;
            };
            drop(state);
            // A panic must not stop the thread while jobs are queued. The panic hook has logged it.
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
    async fn the_number_of_running_jobs_is_limited() {
        let pool = BlockingPool::new(2, 2, "pool");
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let (pool, wait) = (pool.clone(), Arc::clone(&wait));
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                tokio::spawn(async move {
                    let work = move || {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        let _ = wait.lock().unwrap().recv();
                        now.fetch_sub(1, Ordering::SeqCst);
                    };
                    pool.run(network(1), work).await
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
        let pool = BlockingPool::new(1, 1, "pool");
        assert_eq!(pool.run(network(1), || -> u8 { panic!("on purpose") }).await, None);
        assert_eq!(pool.run(network(1), || 1).await, Some(1));
        // The result is sent before the thread updates its counts.
        while !pool.0.lock().networks.is_empty() {
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn a_network_that_blocks_its_share_does_not_delay_other_networks() {
        let pool = BlockingPool::new(2, 1, "pool");
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let begun: Vec<bool> = (0..MAX_QUEUED_PER_NETWORK + 10)
            .map(|_| {
                let wait = Arc::clone(&wait);
                pool.start(network(1), move || {
                    let _ = wait.lock().unwrap().recv();
                })
            })
            .collect();
        let refused = begun.iter().filter(|begun| !**begun).count();
        assert!((9..=10).contains(&refused), "{refused}");
        let other = tokio::time::timeout(Duration::from_secs(20), pool.run(network(2), || 1));
        assert_eq!(other.await.unwrap(), Some(1));
        drop(release);
        while !pool.0.lock().networks.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.0.lock().queued, 0);
    }
}
