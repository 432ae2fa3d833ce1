//! Looking the names of endpoints up again: every half a minute, and when `/etc/hosts` was edited,
//! which is how sites fail over by hand.

use std::path::Path;
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
    hosts: Option<SystemTime>,
}

impl Names {
    /// For names that were looked up just now.
    pub(super) fn new() -> Self {
        Self { next: Instant::now() + resolve::REFRESH, hosts: edited() }
    }

    /// Waits until names are to be looked up again.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub(super) async fn due(&mut self) {
        loop {
            let now = Instant::now();
            let hosts = edited();
            if hosts != self.hosts {
                self.hosts = hosts;
                tracing::info!("{HOSTS} has changed: names are looked up again");
            } else if now < self.next {
                tokio::time::sleep(LOOK.min(self.next - now)).await;
                continue;
            }
            self.next = Instant::now() + resolve::REFRESH;
            return;
        }
    }
}

fn edited() -> Option<SystemTime> {
    Path::new(HOSTS).metadata().and_then(|hosts| hosts.modified()).ok()
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
