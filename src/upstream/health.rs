//! Whether an endpoint is to be used: what checks, requests and operators say about it.
//!
//! One [`Health`] per endpoint, shared by all workers and by the generations that have the endpoint.
//! The request path reads and writes atomics; what is only for people is behind a lock that only
//! the control runtime takes.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::check::{Check, Fault};

/// How long an endpoint that could not be connected to is passed over while others are left.
const SHUNNED: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Health {
    /// Checks say that it is not well.
    down: AtomicBool,
    /// Checks in a row that do not agree with `down`.
    contrary: AtomicU32,
    /// Milliseconds after `birth` until which it is passed over.
    shunned_until: AtomicU64,
    birth: Instant,
    hurry: Notify,
    told: Mutex<Told>,
}

/// What is known about an endpoint's checks, for people.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The latest state is of this time, in seconds since 1970; 0: it never changed.
    pub since: i64,
    /// Why it is in it.
    pub why: String,
    /// When it was checked last.
    pub checked: Option<Instant>,
    /// What was wrong then; `None`: nothing.
    pub fault: Option<String>,
}

/// A change that a check has brought about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// It is up now.
    pub up: bool,
    /// Why, for people.
    pub why: String,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            down: AtomicBool::new(false),
            contrary: AtomicU32::new(0),
            shunned_until: AtomicU64::new(0),
            birth: Instant::now(),
            hurry: Notify::new(),
            told: Mutex::default(),
        }
    }
}

impl Health {
    /// Whether checks say that it is well.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// Takes it for up or down without a check: before the first, or where there are none any more.
    pub fn presume(&self, up: bool) {
        self.down.store(!up, Ordering::Relaxed);
        self.contrary.store(0, Ordering::Relaxed);
    }

    /// Whether it was ever checked.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.told().checked.is_some()
    }

    /// Notes what came of a check. The result is the change it has brought about.
    pub fn checked(&self, result: &Result<(), Fault>, check: &Check, now: i64) -> Option<Change> {
        let up = self.is_up();
        let mut told = self.told();
        told.checked = Some(Instant::now());
        told.fault = result.as_ref().err().map(ToString::to_string);
        if result.is_ok() {
            // It can be connected to after all.
            self.welcome();
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
        let why = match result {
            Ok(()) => format!("{} in a row", counted(contrary, "good check")),
            Err(fault) => format!("{} in a row: {fault}", counted(contrary, "bad check")),
        };
        told.since = now;
        told.why.clone_from(&why);
        Some(Change { up: !up, why })
    }

    /// How long to wait for the next check, from the end of the last one.
    #[must_use]
    pub fn pause(&self, check: &Check) -> Duration {
        if self.contrary.load(Ordering::Relaxed) > 0 { check.every / 5 } else { check.every }
    }

    /// Waits until a request has found something wrong.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// What is for people.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that it could not be connected to.
    pub fn shun(&self) {
        self.shunned_until.store(self.age(SHUNNED), Ordering::Relaxed);
        self.hurry.notify_one();
    }

    /// Notes that it could.
    pub fn welcome(&self) {
        if self.shunned_until.load(Ordering::Relaxed) != 0 {
            self.shunned_until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether it could not be connected to a moment ago.
    #[must_use]
    pub fn is_shunned(&self) -> bool {
        let until = self.shunned_until.load(Ordering::Relaxed);
        until != 0 && self.age(Duration::ZERO) < until
    }

    fn age(&self, more: Duration) -> u64 {
        u64::try_from((self.birth.elapsed() + more).as_millis()).unwrap_or(u64::MAX)
    }
}

fn counted(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::check::{Kind, Word};

    fn check(rise: u32, fall: u32) -> Check {
        let second = Duration::from_secs(1);
        Check {
            kind: Kind::Tcp,
            every: 5 * second,
            timeout: second,
            rise,
            fall,
            initially_up: true,
        }
    }

    fn bad() -> Result<(), Fault> {
        Err(Fault { word: Word::Connect, detail: "refused".to_owned() })
    }

    #[test]
    fn falls_after_so_many_bad_checks_in_a_row_and_rises_after_good_ones() {
        let (health, check) = (Health::default(), check(2, 3));
        let told = |result: &Result<(), Fault>| health.checked(result, &check, 7);
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
        let (health, check) = (Health::default(), check(2, 3));
        assert_eq!(health.pause(&check), check.every);
        health.checked(&bad(), &check, 0);
        assert_eq!(health.pause(&check), check.every / 5);
        health.checked(&Ok(()), &check, 0);
        assert_eq!(health.pause(&check), check.every);
    }

    #[test]
    fn a_good_check_ends_being_passed_over() {
        let (health, check) = (Health::default(), check(1, 1));
        health.shun();
        assert!(health.is_shunned());
        health.checked(&Ok(()), &check, 0);
        assert!(!health.is_shunned());
    }
}
