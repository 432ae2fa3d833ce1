//! Watches directories with inotify, and wakes the watcher on any event.
//!
//! Events carry no detail, and failures are only logged: the periodic comparison finds changes that
//! the kernel does not report.
//!
//! The watches are on directories because an editor, `sed -i` and Kubernetes replace a file. A
//! watch on a file would stay with the old file and never fire again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Device and inode number of a directory. A path may later refer to another directory.
type DirectoryId = (u64, u64);

/// Set of inotify watches.
pub(super) struct Inotify {
    state: InotifyState,
    wake: Arc<Notify>,
    /// Set after a removal or rename: a watch may be gone, or on a directory that was moved away.
    moved: Arc<AtomicBool>,
    watched: BTreeMap<PathBuf, DirectoryId>,
    warned: bool,
}

enum InotifyState {
    Unused,
    Open(RecommendedWatcher),
    Unavailable,
}

impl Inotify {
    /// An empty set. The inotify instance is opened by [`Inotify::watch_only`].
    pub(super) fn new(wake: Arc<Notify>) -> Self {
        Self {
            state: InotifyState::Unused,
            wake,
            moved: Arc::default(),
            watched: BTreeMap::new(),
            warned: false,
        }
    }

    /// A set that never sees events, as on a system without inotify instances left.
    #[cfg(test)]
    pub(super) fn unavailable() -> Self {
        Self { state: InotifyState::Unavailable, ..Self::new(Arc::default()) }
    }

    /// Watches these directories and no others. Blocks briefly, for the thread of the `notify`
    /// crate.
    pub(super) fn watch_only(&mut self, places: &BTreeSet<PathBuf>) {
        if matches!(self.state, InotifyState::Unused) {
            self.open();
        }
        let InotifyState::Open(watcher) = &mut self.state else { return };
        let all_again = self.moved.swap(false, Ordering::Relaxed);
        self.watched.retain(|place, identity| {
            let keep =
                !all_again && places.contains(place) && identify(place).as_ref() == Some(identity);
            if !keep {
                // Fails if the directory was removed, which also removed the watch.
                let _ = watcher.unwatch(place);
            }
            keep
        });
        for place in places {
            if self.watched.contains_key(place) {
                continue;
            }
            // Identify the directory before watching it. If it is replaced in between, the next
            // call notices the difference.
            let Some(identity) = identify(place) else { continue };
            match watcher.watch(place, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(place.clone(), identity);
                }
                Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => {}
                Err(error) if self.warned => tracing::debug!("{}: {error}", place.display()),
                Err(error) => {
                    self.warned = true;
                    let seconds = super::POLL_INTERVAL.as_secs();
                    tracing::warn!(
                        "cannot watch `{}`: {}; changes there are found by reading every {seconds} s",
                        place.display(),
                        describe(&error)
                    );
                }
            }
        }
    }

    fn open(&mut self) {
        let (wake, moved) = (Arc::clone(&self.wake), Arc::clone(&self.moved));
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Some(kind) = event.map_or(Some(EventKind::Other), |event| filter_event(event.kind))
            else {
                return;
            };
            if matches!(
                kind,
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) | EventKind::Other
            ) {
                moved.store(true, Ordering::Relaxed);
            }
            wake.notify_one();
        });
        self.state = match watcher {
            Ok(watcher) => InotifyState::Open(watcher),
            Err(error) => {
                let seconds = super::POLL_INTERVAL.as_secs();
                tracing::warn!(
                    "the system does not report changes of files: {}; they are found by reading \
                     every {seconds} s",
                    describe(&error)
                );
                InotifyState::Unavailable
            }
        };
    }
}

/// Filters events that cannot mean a change, such as those of the watcher's own reads.
fn filter_event(kind: EventKind) -> Option<EventKind> {
    let silent =
        matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write));
    (!silent).then_some(kind)
}

fn identify(place: &Path) -> Option<DirectoryId> {
    fs::metadata(place).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Description of an inotify error, with a remedy if there is one.
fn describe(error: &notify::Error) -> String {
    match &error.kind {
        ErrorKind::MaxFilesWatch => "too many watches (sysctl fs.inotify.max_user_watches)".into(),
        ErrorKind::Io(error)
            if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) =>
        {
            "too many watchers or open files (sysctl fs.inotify.max_user_instances)".into()
        }
        ErrorKind::Io(error) => error.to_string(),
        _ => error.to_string(),
    }
}
