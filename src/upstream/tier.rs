//! Failover between the primary endpoints of an upstream and its backups. New work never goes to
//! both.
//!
//! The control runtime decides several times a second; workers load an atomic. Failing over is
//! quick, failing back is not: a chat server that was just started has no sessions, and each change
//! makes all customers reconnect.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Times the return is put off for longer, each twice as long as before.
const MAX_DOUBLINGS: u32 = 5;

/// Failing over within so many times `failback_after` of the last return is flapping.
const FLAP_FACTOR: u32 = 10;

/// See [`crate::config::Failover`].
#[derive(Clone, Copy, Debug)]
pub struct FailoverPolicy {
    /// Requests in a row that could not connect to any primary endpoint.
    pub failures: u32,
    /// Time that primary endpoints must be up before they are used again; `None`: until a command.
    pub failback_after: Option<Duration>,
}

/// See the module. One per upstream, for as long as the program runs.
#[derive(Debug, Default)]
pub struct Tiers {
    on_backup: AtomicBool,
    failures: AtomicU32,
    asked_back: AtomicBool,
    state: Mutex<TierState>,
}

#[derive(Debug, Default)]
struct TierState {
    /// Since when the primary endpoints are well, while the others are used.
    well: Option<Instant>,
    returned: Option<Instant>,
    doublings: u32,
    /// Why, and when, in seconds since 1970.
    why: String,
    since: i64,
}

/// State of the two tiers.
#[derive(Clone, Copy, Debug)]
pub struct TierHealth {
    /// There is a primary endpoint that may be used.
    pub primary: bool,
    /// There is a backup that may be used.
    pub backup: bool,
}

/// A change of sides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TierMove {
    /// To the backups.
    pub to_backup: bool,
    /// Why, for people.
    pub why: String,
}

impl Tiers {
    /// Whether the backups are used.
    #[must_use]
    pub fn on_backup(&self) -> bool {
        self.on_backup.load(Ordering::Relaxed)
    }

    /// Records that a request could not connect to any endpoint of the tier in use.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that one could.
    pub fn connected(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Asks for the primary endpoints to be used again as soon as one is well.
    pub fn request_failback(&self) {
        self.asked_back.store(true, Ordering::Relaxed);
    }

    /// When it last changed sides, in seconds since 1970 (0: never), and why.
    #[must_use]
    pub fn last(&self) -> (i64, String) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.since, state.why.clone())
    }

    /// Decides which tier is used from now on.
    pub fn judge(
        &self,
        seen: TierHealth,
        settings: &FailoverPolicy,
        now: Instant,
        date: i64,
    ) -> Option<TierMove> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = if self.on_backup() {
            self.may_return(&mut state, seen, settings, now)
        } else {
            self.asked_back.store(false, Ordering::Relaxed);
            self.must_leave(seen, settings)
        }?;
        if moved.to_backup {
            let flapping = |returned: Instant, after: Duration| {
                now.saturating_duration_since(returned) < after * FLAP_FACTOR
            };
            let flaps =
                state.returned.zip(settings.failback_after).is_some_and(|(r, a)| flapping(r, a));
            state.doublings = if flaps { (state.doublings + 1).min(MAX_DOUBLINGS) } else { 0 };
        } else {
            state.returned = Some(now);
        }
        state.well = None;
        (state.since, state.why) = (date, moved.why.clone());
        self.failures.store(0, Ordering::Relaxed);
        self.asked_back.store(false, Ordering::Relaxed);
        self.on_backup.store(moved.to_backup, Ordering::Relaxed);
        Some(moved)
    }

    fn must_leave(&self, seen: TierHealth, settings: &FailoverPolicy) -> Option<TierMove> {
        let failures = self.failures.load(Ordering::Relaxed);
        let why = if !seen.primary {
            "no primary endpoint is up".to_owned()
        } else if failures >= settings.failures {
            format!("{failures} requests in a row could not connect to a primary endpoint")
        } else {
            return None;
        };
        seen.backup.then_some(TierMove { to_backup: true, why })
    }

    fn may_return(
        &self,
        state: &mut TierState,
        seen: TierHealth,
        settings: &FailoverPolicy,
        now: Instant,
    ) -> Option<TierMove> {
        if !seen.primary {
            state.well = None;
            return None;
        }
        let well = *state.well.get_or_insert(now);
        let after = settings.failback_after.map(|after| after * (1 << state.doublings));
        let why = if !seen.backup {
            "no backup is up, and a primary endpoint is".to_owned()
        } else if self.asked_back.load(Ordering::Relaxed) {
            "asked for by a command".to_owned()
        } else if after.is_some_and(|after| now.saturating_duration_since(well) >= after) {
            format!("a primary endpoint is up for {:?}", after.unwrap_or_default())
        } else {
            return None;
        };
        Some(TierMove { to_backup: false, why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: TierHealth = TierHealth { primary: true, backup: true };
    const NO_PRIMARY: TierHealth = TierHealth { primary: false, backup: true };

    /// Tiers with a start time and a policy, for observations after a number of seconds.
    struct Story(Tiers, Instant, FailoverPolicy);

    impl Story {
        fn new(failback_after: Option<u64>) -> Self {
            let failback_after = failback_after.map(Duration::from_secs);
            Self(Tiers::default(), Instant::now(), FailoverPolicy { failures: 3, failback_after })
        }

        fn at(&self, seconds: u64, seen: TierHealth) -> bool {
            self.0.judge(seen, &self.2, self.1 + Duration::from_secs(seconds), 0);
            self.0.on_backup()
        }
    }

    #[test]
    fn leaves_at_once_and_returns_after_a_stable_time() {
        let story = Story::new(Some(60));
        assert!(!story.at(0, BOTH));
        assert!(story.at(1, NO_PRIMARY));
        assert!(story.at(2, BOTH));
        assert!(story.at(50, NO_PRIMARY), "not stable");
        assert!(story.at(51, BOTH));
        assert!(story.at(110, BOTH));
        assert!(!story.at(111, BOTH));
    }

    #[test]
    fn returns_later_each_time_it_flaps() {
        let story = Story::new(Some(10));
        let mut now = 0;
        for wait in [10, 20, 40] {
            assert!(story.at(now, NO_PRIMARY));
            assert!(story.at(now + 1, BOTH));
            assert!(story.at(now + wait, BOTH));
            assert!(!story.at(now + wait + 1, BOTH), "{wait}");
            now += wait + 2;
        }
    }

    #[test]
    fn requests_that_cannot_connect_count() {
        let story = Story::new(None);
        story.0.failed();
        story.0.failed();
        story.0.connected();
        story.0.failed();
        story.0.failed();
        assert!(!story.at(0, BOTH));
        story.0.failed();
        assert!(
            !story.at(0, TierHealth { primary: true, backup: false }),
            "there is nowhere to go"
        );
        assert!(story.at(0, BOTH));
        assert!(story.at(100_000, BOTH), "only a command brings it back");
        story.0.request_failback();
        assert!(!story.at(100_001, BOTH));
    }

    #[test]
    fn the_better_side_is_used_when_one_is_down() {
        let story = Story::new(None);
        assert!(!story.at(0, TierHealth { primary: false, backup: false }));
        assert!(story.at(1, NO_PRIMARY));
        assert!(!story.at(2, TierHealth { primary: true, backup: false }));
    }
}
