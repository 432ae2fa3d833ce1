//! Looking the names of endpoints up again: every half a minute, and when `/etc/hosts` was edited,
//! which is how sites fail over by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::generation::Generation;
use crate::upstream::resolve;

/// The file that operators edit.
const HOSTS: &str = "/etc/hosts";

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// When names are due.
pub(super) struct Names {
    next: Instant,
    file: PathBuf,
    hosts: Option<SystemTime>,
}

impl Names {
    /// For names that were looked up just now.
    pub(super) fn new() -> Self {
        Self::of(Path::new(HOSTS))
    }

    fn of(file: &Path) -> Self {
        let next = Instant::now() + resolve::REFRESH;
        Self { next, file: file.to_owned(), hosts: edited(file) }
    }

    /// Waits until names are to be looked up again.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub(super) async fn due(&mut self) {
        loop {
            let now = Instant::now();
            let hosts = edited(&self.file);
            if hosts != self.hosts {
                self.hosts = hosts;
                tracing::info!("{} has changed: names are looked up again", self.file.display());
            } else if now < self.next {
                tokio::time::sleep(LOOK.min(self.next - now)).await;
                continue;
            }
            self.next = Instant::now() + resolve::REFRESH;
            return;
        }
    }
}

fn edited(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|hosts| hosts.modified()).ok()
}

/// Looks the names of endpoints up again, on a thread that may block.
pub(super) fn refresh(generation: Arc<Generation>) {
    tokio::task::spawn_blocking(move || {
        for endpoint in generation.endpoints().filter(|endpoint| resolve::is_name(endpoint)) {
            if let Err(error) = resolve::refresh(endpoint) {
                tracing::warn!("{error}; the addresses it had are kept");
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn names_are_due_every_half_a_minute_and_when_the_file_was_edited() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        std::fs::write(&file, "").unwrap();
        let mut names = Names::of(&file);
        let start = Instant::now();
        names.due().await;
        assert!(start.elapsed() >= resolve::REFRESH);
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        std::fs::File::open(&file).unwrap().set_modified(long_ago).unwrap();
        let edited = Instant::now();
        names.due().await;
        assert!(edited.elapsed() <= LOOK);
    }
}
