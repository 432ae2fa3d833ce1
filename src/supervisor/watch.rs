//! File watcher: notices edits of the configuration, for automatic reloads.
//!
//! It watches the configuration directory and the files that the configuration names.
//! [`ConfigWatcher::changed`] resolves once an edit is complete. Only the content of the files
//! decides whether there was a change; events of the kernel, or five seconds without one, only
//! cause a comparison. A `touch` is therefore no change, and edits on mounts, overlays and network
//! file systems are noticed although the kernel reports no events for them.

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

/// Time without events after which an edit counts as complete.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Longest wait for such a time, because another program may write to the directory all the time.
const MAX_SETTLE: Duration = Duration::from_secs(1);

/// Interval between comparisons without an event.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Watches a configuration directory and the files that its configuration names.
pub struct ConfigWatcher {
    subject: WatchedPaths,
    /// Content at the time of the last reload.
    known: ContentSnapshot,
    /// Content before the reload in progress, which reads this or something newer.
    seen: Option<ContentSnapshot>,
    /// Content that differs from `known` and may be incomplete. It counts as a change if the next
    /// comparison finds the same content.
    candidate: Option<(ContentSnapshot, Instant)>,
    /// First and last event since the last comparison.
    events: Option<(Instant, Instant)>,
    poll: Duration,
    next_poll: Instant,
    wake: Arc<Notify>,
    watcher: Arc<Mutex<Inotify>>,
}

impl ConfigWatcher {
    /// Watches the `*.toml` files of `directory`. Their current content counts as known. Blocks
    /// while it reads them.
    ///
    /// Must be called before the configuration is read, so that no change in between is missed.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        let wake = Arc::<Notify>::default();
        let watcher = Inotify::new(Arc::clone(&wake));
        Self::with(directory, POLL_INTERVAL, wake, watcher)
    }

    fn with(directory: PathBuf, poll: Duration, wake: Arc<Notify>, watcher: Inotify) -> Self {
        let subject = WatchedPaths { directory, files: Vec::new() };
        Self {
            known: subject.read(),
            subject,
            seen: None,
            candidate: None,
            events: None,
            poll,
            next_poll: Instant::now(),
            wake,
            watcher: Arc::new(Mutex::new(watcher)),
        }
    }

    /// Watches these files too, in place of those of an earlier call. The current content of newly
    /// watched files counts as known. Blocks while it reads them.
    pub fn watch_files(&mut self, mut files: Vec<PathBuf>) {
        files.sort();
        files.dedup();
        for content in [Some(&mut self.known), self.seen.as_mut()].into_iter().flatten() {
            content.set_files(&files);
        }
        self.subject.files = files;
        self.make_due();
    }

    /// Waits until the content differs from the known one and there was no event for
    /// `SETTLE_TIME`. Returns the same change again until [`ConfigWatcher::settle`] is called.
    ///
    /// # Cancellation
    ///
    /// Safe: events and comparisons so far are kept for the next call.
    pub async fn changed(&mut self) {
        loop {
            self.due().await;
            let started = Instant::now();
            let found = self.read_content().await;
            let quiet = self.events.take().is_some_and(|(_, last)| last + SETTLE_TIME <= started);
            self.next_poll = Instant::now() + self.poll;
            let Some(found) = found.filter(|found| *found != self.known) else {
                self.candidate = None;
                continue;
            };
            // After an event during the comparison, a file may have been read half written.
            let complete = (quiet && !self.has_new_event().await)
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

    /// Records the current content before a reload that a command or signal requested, so that
    /// changes during the reload are noticed.
    ///
    /// # Cancellation
    ///
    /// Safe: the content is either recorded or not.
    pub async fn remember(&mut self) {
        if let Some(found) = self.read_content().await {
            self.seen = Some(found);
        }
    }

    /// Marks the content as known after a reload, even a refused one: a refused configuration is
    /// not tried again until it changes.
    ///
    /// This is the content at the last [`ConfigWatcher::changed`] or [`ConfigWatcher::remember`],
    /// so that later changes are still reported. Without either it is the current content, and this
    /// blocks while it reads it.
    pub fn settle(&mut self) {
        self.known = self.seen.take().unwrap_or_else(|| self.subject.read());
        self.make_due();
    }

    /// Makes a comparison due now, without an event.
    fn make_due(&mut self) {
        self.candidate = None;
        self.next_poll = Instant::now();
    }

    /// Waits until a comparison is due. Events are stored in `self` before each wait, so that a
    /// dropped future loses none.
    async fn due(&mut self) {
        loop {
            let at = match (self.events, &self.candidate) {
                (Some((first, last)), _) => (last + SETTLE_TIME).min(first + MAX_SETTLE),
                (None, Some((_, since))) => *since + SETTLE_TIME,
                (None, None) => self.next_poll,
            };
            tokio::select! {
                biased;
                () = sleep_until(at) => return,
                () = self.wake.notified() => self.record_event(),
            }
        }
    }

    fn record_event(&mut self) {
        let now = Instant::now();
        let first = self.events.map_or(now, |(first, _)| first);
        self.events = Some((first, now));
    }

    /// Whether there was an event since the last call of `record_event`.
    async fn has_new_event(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.wake.notified() => {}
            () = std::future::ready(()) => return false,
        }
        self.record_event();
        true
    }

    /// Reads all watched files on a blocking thread. `None` if the runtime is shutting down.
    async fn read_content(&self) -> Option<ContentSnapshot> {
        let (subject, watcher) = (self.subject.clone(), Arc::clone(&self.watcher));
        let looking = tokio::task::spawn_blocking(move || {
            // Add the watches before reading, so that edits which the read misses cause an event.
            watcher.lock().unwrap_or_else(PoisonError::into_inner).watch_only(&subject.places());
            subject.read()
        });
        looking.await.ok()
    }
}
