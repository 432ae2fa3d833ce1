//! Hears from the kernel that something happens in a directory.
//!
//! In: directories. Out: a ring of the bell. Never: says what happened, or fails. Where the kernel
//! does not tell, the regular look finds out.
//!
//! Directories and not files are watched: an editor, `sed -i` and Kubernetes put another file in
//! the place of the old one, and a watch on a file stays with the old one and is silent for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Device and number of a directory. Its path may come to mean another one.
type DirectoryId = (u64, u64);

/// The inotify watches.
pub(super) struct Inotify {
    state: InotifyState,
    bell: Arc<Notify>,
    /// Something was removed or renamed, so a watch may be gone, or on what is now elsewhere.
    moved: Arc<AtomicBool>,
    watched: BTreeMap<PathBuf, DirectoryId>,
    complained: bool,
}

enum InotifyState {
    Unused,
    Open(RecommendedWatcher),
    Deaf,
}

impl Inotify {
    /// Nothing is watched before [`Inotify::watch_only`].
    pub(super) fn new(bell: Arc<Notify>) -> Self {
        Self {
            state: InotifyState::Unused,
            bell,
            moved: Arc::default(),
            watched: BTreeMap::new(),
            complained: false,
        }
    }

    /// As if the system had no inotify instance left.
    #[cfg(test)]
    pub(super) fn deaf() -> Self {
        Self { state: InotifyState::Deaf, ..Self::new(Arc::default()) }
    }

    /// Watches these directories and no others. Waits for the watching thread, shortly.
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
                // It fails if the directory is gone, and the watch with it.
                let _ = watcher.unwatch(place);
            }
            keep
        });
        for place in places {
            if self.watched.contains_key(place) {
                continue;
            }
            // Before the watch: if the directory is replaced in between, the next look sees that.
            let Some(identity) = identify(place) else { continue };
            match watcher.watch(place, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(place.clone(), identity);
                }
                Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => {}
                Err(error) if self.complained => tracing::debug!("{}: {error}", place.display()),
                Err(error) => {
                    self.complained = true;
                    let seconds = super::POLL_INTERVAL.as_secs();
                    tracing::warn!(
                        "cannot watch `{}`: {}; changes there are found by reading every {seconds} s",
                        place.display(),
                        words(&error)
                    );
                }
            }
        }
    }

    fn open(&mut self) {
        let (bell, moved) = (Arc::clone(&self.bell), Arc::clone(&self.moved));
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Some(kind) = event.map_or(Some(EventKind::Other), |event| telling(event.kind))
            else {
                return;
            };
            if matches!(
                kind,
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) | EventKind::Other
            ) {
                moved.store(true, Ordering::Relaxed);
            }
            bell.notify_one();
        });
        self.state = match watcher {
            Ok(watcher) => InotifyState::Open(watcher),
            Err(error) => {
                let seconds = super::POLL_INTERVAL.as_secs();
                tracing::warn!(
                    "the system does not report changes of files: {}; they are found by reading \
                     every {seconds} s",
                    words(&error)
                );
                InotifyState::Deaf
            }
        };
    }
}

/// An event that can mean a change. Reading causes events too, and our own must not wake us.
fn telling(kind: EventKind) -> Option<EventKind> {
    let silent =
        matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write));
    (!silent).then_some(kind)
}

fn identify(place: &Path) -> Option<DirectoryId> {
    fs::metadata(place).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Why inotify failed, with the way out where there is one.
fn words(error: &notify::Error) -> String {
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
