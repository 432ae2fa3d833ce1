//! Work that blocks, on threads of its own, so that a worker never does.
//!
//! Not tokio's blocking pool: that belongs to a runtime, and a runtime waits at its end for what
//! its pool is doing. A look-up that hangs must not hold up the end of a worker. Starting a thread
//! takes some tens of microseconds, which is little next to what is done on it.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

/// A bounded number of threads; shared by the workers.
#[derive(Clone, Debug)]
pub struct Aside {
    room: Arc<Semaphore>,
    name: &'static str,
}

impl Aside {
    /// At most `threads` at a time, all of this name.
    #[must_use]
    pub fn new(threads: usize, name: &'static str) -> Self {
        Self { room: Arc::new(Semaphore::new(threads)), name }
    }

    /// Runs `work` and waits for what comes of it, and for room before that. `None` if no thread
    /// can be started, or `work` panics.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves work that has begun to its end, and its place taken until then.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let place = Arc::clone(&self.room).acquire_owned().await.ok()?;
        let (sender, done) = oneshot::channel();
        let thread = std::thread::Builder::new().name(self.name.to_owned());
        thread
            .spawn(move || {
                let result = work();
                drop(place);
                // Whoever asked may have gone.
                let _ = sender.send(result);
            })
            .ok()?;
        done.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc;

    #[tokio::test]
    async fn no_more_run_at_a_time_than_there_is_room_for() {
        let aside = Aside::new(2, "aside");
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let begun = Arc::new(Semaphore::new(0));
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let (aside, wait, begun) = (aside.clone(), Arc::clone(&wait), Arc::clone(&begun));
                tokio::spawn(async move {
                    aside
                        .run(move || {
                            begun.add_permits(1);
                            let _ = wait.lock().unwrap().recv();
                        })
                        .await
                })
            })
            .collect();
        begun.acquire_many(2).await.unwrap().forget();
        tokio::task::yield_now().await;
        assert_eq!(begun.available_permits(), 0);
        release.send(()).unwrap();
        begun.acquire().await.unwrap().forget();
        drop(release);
        for task in tasks {
            assert_eq!(task.await.unwrap(), Some(()));
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let aside = Aside::new(1, "aside");
        assert_eq!(aside.run(|| -> u8 { panic!("on purpose") }).await, None);
        assert_eq!(aside.run(|| 1).await, Some(1));
    }
}
