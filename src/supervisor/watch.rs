//! Notices that the configuration was edited, so that nobody has to say so.
//!
//! In: the configuration directory and the files it names. Out: [`ConfigWatcher::changed`], once what was
//! written is complete. Never: reads events as facts. An event, or five seconds without one, only
//! says when to look; whether something changed is decided by the content alone. So a `touch` is
//! no change, and a file that is mounted, on an overlay or on a network, where the kernel reports
//! nothing, is still noticed.

mod content;
mod inotify;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use content::{ContentSnapshot, WatchedPaths};
use inotify::Inotify;

/// How long nothing may happen before what is there counts as complete.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Longest wait for quiet. In a directory where something else writes all the time there is none.
const MAX_SETTLE: Duration = Duration::from_secs(1);

/// How often to look without an event.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Watches a configuration directory, and the files that the configuration in it names.
pub struct ConfigWatcher {
    subject: WatchedPaths,
    /// What the last reload has seen.
    known: ContentSnapshot,
    /// What the reload in progress will at least see.
    seen: Option<ContentSnapshot>,
    /// Differs from `known`, found without waiting for quiet: counts if it is the same later.
    candidate: Option<(ContentSnapshot, Instant)>,
    /// First and last event since the last look.
    heard: Option<(Instant, Instant)>,
    poll: Duration,
    next_poll: Instant,
    bell: Arc<Notify>,
    watcher: Arc<Mutex<Inotify>>,
}

impl ConfigWatcher {
    /// Watches the `*.toml` files of `directory`. What is in them now is known. Blocks to read it.
    ///
    /// Call it before the configuration is read, so that no change falls between.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        let bell = Arc::<Notify>::default();
        let watcher = Inotify::new(Arc::clone(&bell));
        Self::with(directory, POLL_INTERVAL, bell, watcher)
    }

    fn with(directory: PathBuf, poll: Duration, bell: Arc<Notify>, watcher: Inotify) -> Self {
        let subject = WatchedPaths { directory, files: Vec::new() };
        Self {
            known: subject.read(),
            subject,
            seen: None,
            candidate: None,
            heard: None,
            poll,
            next_poll: Instant::now(),
            bell,
            watcher: Arc::new(Mutex::new(watcher)),
        }
    }

    /// Watches these files too, in place of the ones of an earlier call. What is in those that were
    /// not watched before is known. Blocks to read them.
    pub fn also(&mut self, mut files: Vec<PathBuf>) {
        files.sort();
        files.dedup();
        for content in [Some(&mut self.known), self.seen.as_mut()].into_iter().flatten() {
            content.name(&files);
        }
        self.subject.files = files;
        self.look_again();
    }

    /// Resolves when the content differs from what is known and nothing has happened for 200 ms.
    /// Without [`ConfigWatcher::settle`] it resolves again.
    ///
    /// # Cancellation
    ///
    /// Safe: what was noticed is kept for the next call.
    pub async fn changed(&mut self) {
        loop {
            self.due().await;
            let started = Instant::now();
            let found = self.look().await;
            let quiet = self.heard.take().is_some_and(|(_, last)| last + SETTLE_TIME <= started);
            self.next_poll = Instant::now() + self.poll;
            let Some(found) = found.filter(|found| *found != self.known) else {
                self.candidate = None;
                continue;
            };
            // An event while files were read may mean that they were read half written.
            let complete = (quiet && !self.rang().await)
                || self.candidate.as_ref().is_some_and(|(candidate, _)| *candidate == found);
            if complete {
                self.seen = Some(found.clone());
            }
            self.candidate = Some((found, started));
            if complete {
                return;
            }
        }
    }

    /// Remembers the present content as what the reload that follows will read. For reloads that
    /// were asked for: with this, what changes while they run is not lost.
    ///
    /// # Cancellation
    ///
    /// Safe: it has happened or not.
    pub async fn remember(&mut self) {
        if let Some(found) = self.look().await {
            self.seen = Some(found);
        }
    }

    /// Takes the content as known, after a reload was tried: a refused configuration is not tried
    /// again until it changes.
    ///
    /// That is the content at the last [`ConfigWatcher::changed`] or [`ConfigWatcher::remember`], so a change
    /// since then is reported; without either, what is there now, and this blocks to read it.
    pub fn settle(&mut self) {
        self.known = self.seen.take().unwrap_or_else(|| self.subject.read());
        self.look_again();
    }

    /// Looks at the next opportunity, without an event.
    fn look_again(&mut self) {
        self.candidate = None;
        self.next_poll = Instant::now();
    }

    /// Waits until it is time to look. All it learns is in `self` before it waits again.
    async fn due(&mut self) {
        loop {
            let at = match (self.heard, &self.candidate) {
                (Some((first, last)), _) => (last + SETTLE_TIME).min(first + MAX_SETTLE),
                (None, Some((_, since))) => *since + SETTLE_TIME,
                (None, None) => self.next_poll,
            };
            tokio::select! {
                biased;
                () = sleep_until(at) => return,
                () = self.bell.notified() => self.hear(),
            }
        }
    }

    fn hear(&mut self) {
        let now = Instant::now();
        let first = self.heard.map_or(now, |(first, _)| first);
        self.heard = Some((first, now));
    }

    /// Whether there was an event since the last one that was heard.
    async fn rang(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.bell.notified() => {}
            () = std::future::ready(()) => return false,
        }
        self.hear();
        true
    }

    /// Reads everything, on a thread of its own. `None` if the runtime is going away.
    async fn look(&self) -> Option<ContentSnapshot> {
        let (subject, watcher) = (self.subject.clone(), Arc::clone(&self.watcher));
        let looking = tokio::task::spawn_blocking(move || {
            // Listen first: what is written after that, the reading below may miss.
            watcher.lock().unwrap_or_else(PoisonError::into_inner).watch_only(&subject.places());
            subject.read()
        });
        looking.await.ok()
    }
}
