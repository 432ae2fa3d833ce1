//! Periodic name resolution of endpoints, at the configured interval, and at once after an edit of
//! `/etc/hosts`, with which operators fail over between sites by hand.
//!
//! Each name has its own schedule. A resolver that hangs on one name does not delay the others, and
//! look-ups do not come in bursts.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::generation::Generation;
use crate::upstream::{Endpoint, resolve};

use super::checks::jittered;

/// The hosts file, which operators edit to fail over.
const HOSTS_FILE: &str = "/etc/hosts";

/// Interval between checks of the hosts file and of endpoints with failed connections.
const HOSTS_INTERVAL: Duration = Duration::from_millis(250);

/// First and longest delay before the next look-up of a name after a failed connection to its
/// endpoint.
const EARLY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// Longest delay before a failed look-up is repeated.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Maximum number of concurrent look-ups, each on a blocking thread.
const MAX_LOOKUPS: usize = 16;

/// Schedule of the name look-ups of all endpoints.
pub(super) struct DnsRefresher {
    file: PathBuf,
    hosts: Option<SystemTime>,
    /// Schedules by the identity of the endpoint.
    times: HashMap<u64, DueTime>,
    /// Look-ups in progress; each returns the identity of its endpoint, and `true` if it failed.
    under_way: JoinSet<(u64, bool)>,
}

/// Schedule of one name.
struct DueTime {
    next: Instant,
    /// Whether a look-up is in progress.
    in_progress: bool,
    /// Start of the previous look-up.
    last: Instant,
    /// Number of consecutive look-ups that were brought forward by failed connections.
    early: u32,
}

impl DueTime {
    /// Brings the look-up forward after a failed connection. The delay doubles each time, because
    /// the endpoint may be down although its address is right.
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
    /// An empty schedule. The first look-up of each name comes one interval later, because the
    /// start has just resolved all names.
    pub(super) fn new() -> Self {
        Self::with_hosts_file(Path::new(HOSTS_FILE))
    }

    fn with_hosts_file(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            hosts: edited(file),
            times: HashMap::new(),
            under_way: JoinSet::new(),
        }
    }

    /// Looks up every name when it is due. Never ends.
    ///
    /// # Cancellation
    ///
    /// Safe: the schedule is kept. Call it again with the current generation.
    pub(super) async fn run(&mut self, generation: &Generation) {
        let all: Vec<_> = generation.named_endpoints().collect();
        self.run_with(&all, look_up).await;
    }

    async fn run_with(
        &mut self,
        all: &[(Arc<Endpoint>, Duration)],
        look_up: fn(&Endpoint) -> bool,
    ) {
        let here: HashSet<_> = all.iter().map(|(endpoint, _)| endpoint.identity).collect();
        self.times.retain(|identity, _| here.contains(identity));
        loop {
            self.start_due(all, look_up);
            tokio::select! {
                () = tokio::time::sleep(HOSTS_INTERVAL) => {}
                Some(done) = self.under_way.join_next() => self.done(done.ok()),
            }
        }
    }

    /// Makes all names due now. A rollback needs this, because the addresses of the previous
    /// generation may be out of date.
    pub(super) fn all_due(&mut self) {
        for time in self.times.values_mut() {
            time.next = Instant::now();
        }
    }

    /// Starts all look-ups that are due.
    fn start_due(&mut self, all: &[(Arc<Endpoint>, Duration)], look_up: fn(&Endpoint) -> bool) {
        let now = Instant::now();
        let hosts = edited(&self.file);
        let changed = hosts != self.hosts;
        if changed {
            self.hosts = hosts;
            tracing::info!("{} has changed; looking up all names again", self.file.display());
        }
        for (endpoint, every) in all {
            let identity = endpoint.identity;
            let fresh = || {
                let known = !endpoint.addresses.load().is_empty();
                let pause = if known { jittered(*every) } else { RETRY_INTERVAL.min(*every) };
                DueTime { next: now + pause, in_progress: false, last: now, early: 0 }
            };
            let time = self.times.entry(identity).or_insert_with(fresh);
            // A reload may have shortened the interval. Jitter adds up to a tenth.
            time.next = if changed { now } else { time.next.min(now + *every + *every / 10) };
            if !time.in_progress && endpoint.rotation.take_stale() {
                time.request_check();
            }
            if time.in_progress || now < time.next || self.under_way.len() >= MAX_LOOKUPS {
                continue;
            }
            // A look-up at the regular time ends a series of early ones.
            let early = if now < time.last + *every - *every / 10 { time.early } else { 0 };
            *time = DueTime { next: now + jittered(*every), in_progress: true, last: now, early };
            let endpoint = Arc::clone(endpoint);
            self.under_way.spawn_blocking(move || (identity, !look_up(&endpoint)));
        }
    }

    fn done(&mut self, done: Option<(u64, bool)>) {
        let Some((identity, failed)) = done else {
            // A look-up has panicked. Its endpoint is unknown, so all schedules start anew.
            self.times.clear();
            return;
        };
        let Some(time) = self.times.get_mut(&identity) else { return };
        time.in_progress = false;
        if failed {
            time.next = time.next.min(Instant::now() + RETRY_INTERVAL);
        }
    }
}

fn edited(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|hosts| hosts.modified()).ok()
}

/// Looks up the name of an endpoint and returns whether that succeeded. Blocks.
fn look_up(endpoint: &Endpoint) -> bool {
    let answer = resolve::refresh(endpoint);
    if let Err(error) = &answer {
        tracing::warn!("{error}; keeping the known addresses");
    }
    answer.is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    /// An endpoint with an address. Its `resolved` counts the look-ups.
    fn endpoint(identity: u64) -> Arc<Endpoint> {
        let endpoint = Endpoint::new("127.0.0.1".to_owned(), 1, None, identity);
        resolve::refresh(&endpoint).unwrap();
        endpoint.resolved.store(0, Ordering::Relaxed);
        Arc::new(endpoint)
    }

    fn look_ups(endpoint: &Endpoint) -> i64 {
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
        let _ = tokio::time::timeout(time, names.run_with(all, look_up)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_name_has_its_own_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        std::fs::write(&file, "").unwrap();
        let mut names = DnsRefresher::with_hosts_file(&file);
        let seconds = Duration::from_secs;
        let all = [(endpoint(1), seconds(30)), (endpoint(2), seconds(300))];
        after(&mut names, &all, seconds(20), good).await;
        assert_eq!(
            (look_ups(&all[0].0), look_ups(&all[1].0)),
            (0, 0),
            "they were looked up at the start"
        );
        // Frequent cancellation by other events must not change the schedule.
        for _ in 0..400 {
            after(&mut names, &all, Duration::from_millis(700), good).await;
        }
        let often = look_ups(&all[0].0);
        assert!((8..=12).contains(&often), "{often} times in 300 s");
        assert!(look_ups(&all[1].0) <= 1);

        let before = (look_ups(&all[0].0), look_ups(&all[1].0));
        std::fs::File::open(&file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        after(&mut names, &all, seconds(2), good).await;
        assert!(
            look_ups(&all[0].0) > before.0 && look_ups(&all[1].0) > before.1,
            "the file was edited"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_connection_brings_the_next_look_up_forward() {
        let dir = tempfile::tempdir().unwrap();
        let mut names = DnsRefresher::with_hosts_file(&dir.path().join("none"));
        let seconds = Duration::from_secs;
        let all = [(endpoint(1), seconds(30)), (endpoint(2), seconds(30))];
        after(&mut names, &all, seconds(3), good).await;
        assert_eq!(look_ups(&all[0].0), 0);
        all[0].0.rotation.mark_stale();
        after(&mut names, &all, seconds(1), good).await;
        assert_eq!((look_ups(&all[0].0), look_ups(&all[1].0)), (1, 0), "within a second");
        // An endpoint that stays down causes look-ups less and less often.
        for _ in 0..100 {
            all[0].0.rotation.mark_stale();
            after(&mut names, &all, Duration::from_millis(300), good).await;
        }
        let often = look_ups(&all[0].0);
        assert!((5..=12).contains(&often), "{often} times in 30 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_look_up_is_repeated_soon() {
        let dir = tempfile::tempdir().unwrap();
        let mut names = DnsRefresher::with_hosts_file(&dir.path().join("none"));
        let seconds = Duration::from_secs;
        let all = [(endpoint(1), seconds(3600))];
        after(&mut names, &all, seconds(4000), bad).await;
        let often = look_ups(&all[0].0);
        assert!(often > 2, "{often}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_schedule_counts_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut names = DnsRefresher::with_hosts_file(&dir.path().join("none"));
        let seconds = Duration::from_secs;
        let one = endpoint(1);
        after(&mut names, &[(Arc::clone(&one), seconds(3600))], seconds(5), good).await;
        after(&mut names, &[(Arc::clone(&one), seconds(5))], seconds(12), good).await;
        assert!(look_ups(&one) >= 1);
    }
}
