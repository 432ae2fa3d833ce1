//! Looking the names of endpoints up again: as often as is configured, and when `/etc/hosts` was
//! edited, which is how sites fail over by hand.
//!
//! Each name has a time of its own, so a resolver that hangs over one does not hold the others up,
//! and names do not come in one burst.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::generation::Generation;
use crate::upstream::{Endpoint, resolve};

use super::checks::jittered;

/// The file that operators edit.
const HOSTS_FILE: &str = "/etc/hosts";

/// How often it is looked at, and which endpoints could not be connected to.
const HOSTS_INTERVAL: Duration = Duration::from_millis(250);

/// A name whose endpoint could not be connected to is looked up again after this, at first and at most.
const EARLY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// A look-up that failed is made again after this at the latest.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Look-ups under way at once, each on a thread that may block.
const MAX_LOOKUPS: usize = 16;

/// When names are due.
pub(super) struct DnsRefresher {
    file: PathBuf,
    hosts: Option<SystemTime>,
    /// By the endpoint's identity.
    times: HashMap<u64, DueTime>,
    /// Identity, and whether it failed.
    under_way: JoinSet<(u64, bool)>,
}

/// When a name is due; not while it is being looked up.
struct DueTime {
    next: Instant,
    asked: bool,
    /// When it was looked up last.
    last: Instant,
    /// Look-ups in a row that failed connections brought forward.
    early: u32,
}

impl DueTime {
    /// Brings the look-up forward after a failed connection; each time a little later, as the endpoint
    /// may just be down.
    fn request_check(&mut self) {
        let (first, most) = EARLY;
        let pause = first.saturating_mul(1 << self.early.min(8)).min(most);
        let next = self.last + pause;
        if next < self.next {
            self.early += 1;
            self.next = next;
        }
    }
}

impl DnsRefresher {
    /// For names that were looked up just now.
    pub(super) fn new() -> Self {
        Self::of(Path::new(HOSTS_FILE))
    }

    fn of(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            hosts: edited(file),
            times: HashMap::new(),
            under_way: JoinSet::new(),
        }
    }

    /// Looks names up whenever they are due, for ever.
    ///
    /// # Cancellation
    ///
    /// Safe: call it again, with the generation that serves then.
    pub(super) async fn keep(&mut self, generation: &Generation) {
        let all: Vec<_> = generation.named().collect();
        self.keep_by(&all, look_up).await;
    }

    async fn keep_by(&mut self, all: &[(Arc<Endpoint>, Duration)], look_up: fn(&Endpoint) -> bool) {
        let here: HashSet<_> = all.iter().map(|(endpoint, _)| endpoint.identity).collect();
        self.times.retain(|identity, _| here.contains(identity));
        loop {
            self.turn(all, look_up);
            tokio::select! {
                () = tokio::time::sleep(HOSTS_INTERVAL) => {}
                Some(done) = self.under_way.join_next() => self.done(done.ok()),
            }
        }
    }

    /// What may be out of date: a generation that served a while ago.
    pub(super) fn all_due(&mut self) {
        for time in self.times.values_mut() {
            time.next = Instant::now();
        }
    }

    /// Starts what is due.
    fn turn(&mut self, all: &[(Arc<Endpoint>, Duration)], look_up: fn(&Endpoint) -> bool) {
        let now = Instant::now();
        let hosts = edited(&self.file);
        let changed = hosts != self.hosts;
        if changed {
            self.hosts = hosts;
            tracing::info!("{} has changed: names are looked up again", self.file.display());
        }
        for (endpoint, every) in all {
            let identity = endpoint.identity;
            let fresh = || {
                let known = !endpoint.addresses.load().is_empty();
                let pause = if known { jittered(*every) } else { RETRY_INTERVAL.min(*every) };
                DueTime { next: now + pause, asked: false, last: now, early: 0 }
            };
            let time = self.times.entry(identity).or_insert_with(fresh);
            // It may have been configured to come more often. Jitter adds up to a tenth.
            time.next = if changed { now } else { time.next.min(now + *every + *every / 10) };
            if !time.asked && endpoint.rotation.take_stale() {
                time.request_check();
            }
            if time.asked || now < time.next || self.under_way.len() >= MAX_LOOKUPS {
                continue;
            }
            // One that came at its regular time ends a series of early ones.
            let early = if now < time.last + *every - *every / 10 { time.early } else { 0 };
            *time = DueTime { next: now + jittered(*every), asked: true, last: now, early };
            let endpoint = Arc::clone(endpoint);
            self.under_way.spawn_blocking(move || (identity, !look_up(&endpoint)));
        }
    }

    fn done(&mut self, done: Option<(u64, bool)>) {
        let Some((identity, failed)) = done else {
            // One has panicked, and nobody knows which.
            self.times.clear();
            return;
        };
        let Some(time) = self.times.get_mut(&identity) else { return };
        time.asked = false;
        if failed {
            time.next = time.next.min(Instant::now() + RETRY_INTERVAL);
        }
    }
}

fn edited(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|hosts| hosts.modified()).ok()
}

/// Looks a name up; whether there was an answer. Blocks.
fn look_up(endpoint: &Endpoint) -> bool {
    let answer = resolve::refresh(endpoint);
    if let Err(error) = &answer {
        tracing::warn!("{error}; the addresses it had are kept");
    }
    answer.is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    /// An endpoint with an address; its look-ups are counted in `resolved`.
    fn endpoint(identity: u64) -> Arc<Endpoint> {
        let endpoint = Endpoint::new("127.0.0.1".to_owned(), 1, None, identity);
        resolve::refresh(&endpoint).unwrap();
        endpoint.resolved.store(0, Ordering::Relaxed);
        Arc::new(endpoint)
    }

    fn asked(endpoint: &Endpoint) -> i64 {
        endpoint.resolved.load(Ordering::Relaxed)
    }

    fn good(endpoint: &Endpoint) -> bool {
        endpoint.resolved.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn bad(endpoint: &Endpoint) -> bool {
        !good(endpoint)
    }

    async fn after(
        names: &mut DnsRefresher,
        all: &[(Arc<Endpoint>, Duration)],
        time: Duration,
        look_up: fn(&Endpoint) -> bool,
    ) {
        let _ = tokio::time::timeout(time, names.keep_by(all, look_up)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_name_has_its_own_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        std::fs::write(&file, "").unwrap();
        let mut names = DnsRefresher::of(&file);
        let seconds = Duration::from_secs;
        let all = [(endpoint(1), seconds(30)), (endpoint(2), seconds(300))];
        after(&mut names, &all, seconds(20), good).await;
        assert_eq!(
            (asked(&all[0].0), asked(&all[1].0)),
            (0, 0),
            "they were looked up at the start"
        );
        // Interrupted by other events again and again, which changes nothing.
        for _ in 0..400 {
            after(&mut names, &all, Duration::from_millis(700), good).await;
        }
        let often = asked(&all[0].0);
        assert!((8..=12).contains(&often), "{often} times in 300 s");
        assert!(asked(&all[1].0) <= 1);

        let before = (asked(&all[0].0), asked(&all[1].0));
        std::fs::File::open(&file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        after(&mut names, &all, seconds(2), good).await;
        assert!(asked(&all[0].0) > before.0 && asked(&all[1].0) > before.1, "the file was edited");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_connection_brings_the_next_look_up_forward() {
        let dir = tempfile::tempdir().unwrap();
        let mut names = DnsRefresher::of(&dir.path().join("none"));
        let seconds = Duration::from_secs;
        let all = [(endpoint(1), seconds(30)), (endpoint(2), seconds(30))];
        after(&mut names, &all, seconds(3), good).await;
        assert_eq!(asked(&all[0].0), 0);
        all[0].0.rotation.mark_stale();
        after(&mut names, &all, seconds(1), good).await;
        assert_eq!((asked(&all[0].0), asked(&all[1].0)), (1, 0), "within a second");
        // One that stays down is asked for more rarely.
        for _ in 0..100 {
            all[0].0.rotation.mark_stale();
            after(&mut names, &all, Duration::from_millis(300), good).await;
        }
        let often = asked(&all[0].0);
        assert!((5..=12).contains(&often), "{often} times in 30 s");
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_comes_again_soon() {
        let dir = tempfile::tempdir().unwrap();
        let mut names = DnsRefresher::of(&dir.path().join("none"));
        let seconds = Duration::from_secs;
        let all = [(endpoint(1), seconds(3600))];
        after(&mut names, &all, seconds(4000), bad).await;
        let often = asked(&all[0].0);
        assert!(often > 2, "{often}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_schedule_counts_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut names = DnsRefresher::of(&dir.path().join("none"));
        let seconds = Duration::from_secs;
        let one = endpoint(1);
        after(&mut names, &[(Arc::clone(&one), seconds(3600))], seconds(5), good).await;
        after(&mut names, &[(Arc::clone(&one), seconds(5))], seconds(12), good).await;
        assert!(asked(&one) >= 1);
    }
}
