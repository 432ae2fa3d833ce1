//! Availability of an endpoint, from health checks, request failures and operator commands.
//!
//! One [`EndpointHealth`] per endpoint, shared by all workers and by the generations that have the
//! endpoint. The request path reads and writes atomics; details for people are behind a lock that
//! only the control runtime takes.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::check::{CheckFault, HealthCheck};
use super::eject::Circuit;

/// Time after a failure during which similar failures are not logged.
const REPEAT_SILENCE: Duration = Duration::from_secs(5);

/// Administrative state of an endpoint.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum AdminState {
    /// Everything.
    #[default]
    Up,
    /// Existing sessions only, no new work.
    Drain,
    /// Open WebSockets only, no requests.
    Maintenance,
}

impl AdminState {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

/// An open request or WebSocket of an endpoint.
#[derive(Debug)]
pub struct InFlight(Arc<EndpointHealth>);

impl InFlight {
    /// Counts one, until it is dropped.
    #[must_use]
    pub fn new(health: &Arc<EndpointHealth>) -> Self {
        health.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(health))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See the module.
#[derive(Debug)]
pub struct EndpointHealth {
    /// Marked down by health checks.
    down: AtomicBool,
    /// A check was good once.
    proven: AtomicBool,
    /// Checks in a row that do not agree with `down`.
    contrary: AtomicU32,
    /// Circuit breaker, fed by requests.
    pub circuit: Circuit,
    /// Administrative state set by command.
    duty: AtomicU8,
    /// Open requests and WebSockets.
    open: AtomicUsize,
    /// Milliseconds after `birth` when it came up last; 0: it was never down.
    rose: AtomicU64,
    /// Milliseconds after `birth` when it was last said that it could not be connected to.
    said: AtomicU64,
    birth: Instant,
    request_check: Notify,
    told: Mutex<CheckDetails>,
}

/// Details of an endpoint's health checks, for people.
#[derive(Clone, Debug, Default)]
pub struct CheckDetails {
    /// The latest state is of this time, in seconds since 1970; 0: it never changed.
    pub since: i64,
    /// Why it is in it.
    pub why: String,
    /// When it was checked last.
    pub checked: Option<Instant>,
    /// Failure of the latest check; `None` if it succeeded.
    pub fault: Option<String>,
}

/// A change that a check has brought about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthChange {
    /// It is up now.
    pub up: bool,
    /// Why, for people.
    pub why: String,
}

impl Default for EndpointHealth {
    fn default() -> Self {
        Self {
            down: AtomicBool::new(false),
            proven: AtomicBool::new(false),
            contrary: AtomicU32::new(0),
            circuit: Circuit::default(),
            duty: AtomicU8::new(AdminState::Up as u8),
            open: AtomicUsize::new(0),
            rose: AtomicU64::new(0),
            said: AtomicU64::new(0),
            birth: Instant::now(),
            request_check: Notify::new(),
            told: Mutex::default(),
        }
    }
}

impl EndpointHealth {
    /// Whether health checks mark the endpoint up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// Whether a check was ever good.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// Takes it for up or down without a check: before the first, or where there are none any more.
    pub fn assume_state(&self, up: bool) {
        self.down.store(!up, Ordering::Relaxed);
        self.contrary.store(0, Ordering::Relaxed);
    }

    /// Whether it was ever checked.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.told().checked.is_some()
    }

    /// Records the result of a check and returns the change of state it causes.
    pub fn checked(
        &self,
        result: &Result<(), CheckFault>,
        check: &HealthCheck,
        now: i64,
    ) -> Option<HealthChange> {
        let up = self.is_up();
        let mut told = self.told();
        told.checked = Some(Instant::now());
        told.fault = result.as_ref().err().map(ToString::to_string);
        if result.is_ok() {
            // It can be connected to after all.
            self.circuit.connected();
            self.proven.store(true, Ordering::Relaxed);
        }
        if result.is_ok() == up {
            self.contrary.store(0, Ordering::Relaxed);
            return None;
        }
        let contrary = self.contrary.load(Ordering::Relaxed) + 1;
        let enough = if up { check.fall } else { check.rise };
        if contrary < enough {
            self.contrary.store(contrary, Ordering::Relaxed);
            return None;
        }
        self.contrary.store(0, Ordering::Relaxed);
        self.down.store(up, Ordering::Relaxed);
        if !up {
            self.rise();
        }
        let why = match result {
            Ok(()) => format!("{} in a row", counted(contrary, "good check")),
            Err(fault) => format!("{} in a row: {fault}", counted(contrary, "bad check")),
        };
        told.since = now;
        told.why.clone_from(&why);
        Some(HealthChange { up: !up, why })
    }

    /// Delay before the next check, from the end of the last one.
    #[must_use]
    pub fn pause(&self, check: &HealthCheck) -> Duration {
        if self.contrary.load(Ordering::Relaxed) > 0 { check.interval / 5 } else { check.interval }
    }

    /// Waits until a request has found something wrong.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn check_requested(&self) {
        self.request_check.notified().await;
    }

    /// Details for people.
    pub fn told(&self) -> MutexGuard<'_, CheckDetails> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a request has found something wrong: it is to be checked soon.
    pub fn request_check(&self) {
        self.request_check.notify_one();
    }

    /// Administrative state set by command.
    #[must_use]
    pub fn duty(&self) -> AdminState {
        match self.duty.load(Ordering::Relaxed) {
            0 => AdminState::Up,
            1 => AdminState::Drain,
            _ => AdminState::Maintenance,
        }
    }

    /// Sets the administrative state.
    pub fn assign(&self, duty: AdminState) {
        if duty == AdminState::Up && self.duty() != AdminState::Up {
            self.rise();
        }
        self.duty.store(duty as u8, Ordering::Relaxed);
    }

    /// Open requests and WebSockets, of upstreams that count them.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Percentage of its share of new work that the endpoint takes: a tenth when it has just come
    /// up, all of it after `slow_start`.
    #[must_use]
    pub fn share(&self, slow_start: Duration) -> u64 {
        let rose = self.rose.load(Ordering::Relaxed);
        if rose == 0 || slow_start.is_zero() {
            return 100;
        }
        let (since, all) = (self.age().saturating_sub(rose), millis(slow_start).max(1));
        if since >= all {
            // So that the clock is not looked at again.
            self.rose.store(0, Ordering::Relaxed);
            return 100;
        }
        (100 * since / all).max(10)
    }

    /// Whether it is worth saying that it could not be connected to: it was not said a moment ago.
    #[must_use]
    pub fn is_news(&self) -> bool {
        let now = self.age().max(1);
        let said = self.said.load(Ordering::Relaxed);
        let news = said == 0 || now > said + millis(REPEAT_SILENCE);
        if news {
            self.said.store(now, Ordering::Relaxed);
        }
        news
    }

    /// Records that it came up.
    pub fn rise(&self) {
        self.rose.store(self.age().max(1), Ordering::Relaxed);
    }

    fn age(&self) -> u64 {
        millis(self.birth.elapsed())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX >> 8)
}

fn counted(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::check::{CheckKind, FaultKind};

    fn check(rise: u32, fall: u32) -> HealthCheck {
        let second = Duration::from_secs(1);
        HealthCheck {
            kind: CheckKind::Tcp,
            port: None,
            plain: false,
            interval: 5 * second,
            timeout: second,
            rise,
            fall,
            initially_up: true,
            announces: false,
        }
    }

    fn bad() -> Result<(), CheckFault> {
        Err(CheckFault { word: FaultKind::Connect, detail: "refused".to_owned() })
    }

    #[test]
    fn falls_after_so_many_bad_checks_in_a_row_and_rises_after_good_ones() {
        let (health, check) = (EndpointHealth::default(), check(2, 3));
        let told = |result: &Result<(), CheckFault>| health.checked(result, &check, 7);
        for result in [bad(), bad(), Ok(()), bad(), bad()] {
            assert_eq!(told(&result), None);
        }
        let change = told(&bad()).unwrap();
        assert_eq!((change.up, &*change.why), (false, "3 bad checks in a row: connect: refused"));
        assert!(!health.is_up());
        for result in [bad(), Ok(()), bad(), Ok(())] {
            assert_eq!(told(&result), None);
        }
        let change = told(&Ok(())).unwrap();
        assert_eq!((change.up, &*change.why), (true, "2 good checks in a row"));
        assert_eq!((health.is_up(), health.told().since), (true, 7));
    }

    #[test]
    fn asks_faster_while_in_doubt() {
        let (health, check) = (EndpointHealth::default(), check(2, 3));
        assert_eq!(health.pause(&check), check.interval);
        health.checked(&bad(), &check, 0);
        assert_eq!(health.pause(&check), check.interval / 5);
        health.checked(&Ok(()), &check, 0);
        assert_eq!(health.pause(&check), check.interval);
    }

    #[test]
    fn takes_its_share_slowly_after_it_came_up() {
        let health = EndpointHealth::default();
        let minute = Duration::from_mins(1);
        assert_eq!(health.share(minute), 100, "it was never down");
        health.assign(AdminState::Drain);
        health.assign(AdminState::Up);
        assert_eq!(health.share(minute), 10);
        assert_eq!(health.share(Duration::ZERO), 100);
    }

    #[test]
    fn counts_what_is_open() {
        let health = Arc::<EndpointHealth>::default();
        let (one, _two) = (InFlight::new(&health), InFlight::new(&health));
        drop(one);
        assert_eq!(health.open(), 1);
    }
}
