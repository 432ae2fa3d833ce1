//! Detection of idle timers of other devices on the path: they cut waiting requests after the same
//! time again and again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cause::TimerSide;

/// Limit on the samples kept per upstream and side.
const MAX_WAITS: usize = 16;

/// Smallest number of similar samples that indicate a timer. They must also be two thirds of all
/// samples, because users leave at any time and three of many samples are similar by chance.
const MIN_ALIKE: usize = 3;

/// Shorter waits are ignored, because users often leave pages early.
const MIN_WAIT: Duration = Duration::from_secs(1);

/// Limit on the number of keys, larger than the number of chat servers in any configuration.
const MAX_PLACES: usize = 1000;

/// Age at which samples are dropped, because the timer may have been corrected since.
const WAIT_LIFETIME: Duration = Duration::from_secs(3600);

/// Time at which a wait was cut, and its length.
type WaitSample = (Instant, Duration);

/// Profile, upstream and side.
type TimerKey = (String, Arc<str>, TimerSide);

/// Lengths of recent waits that were cut, by profile, upstream and side.
#[derive(Default)]
pub(super) struct IdleTimers(HashMap<TimerKey, VecDeque<WaitSample>>);

impl IdleTimers {
    /// Adds the length of a wait that was cut.
    pub(super) fn note(
        &mut self,
        (profile, upstream): (&str, &Arc<str>),
        side: TimerSide,
        (at, waited): WaitSample,
    ) {
        let selected = (profile.to_owned(), Arc::clone(upstream), side);
        if waited < MIN_WAIT || (self.0.len() >= MAX_PLACES && !self.0.contains_key(&selected)) {
            return;
        }
        let all = self.0.entry(selected).or_default();
        if all.len() == MAX_WAITS {
            all.pop_front();
        }
        all.push_back((at, waited));
    }

    /// Whether a wait of this length was cut by a detected timer.
    pub(super) fn explains(
        &self,
        profile: &str,
        upstream: &Arc<str>,
        side: TimerSide,
        waited: Duration,
    ) -> bool {
        // The gateway's own timers are known and need no detection.
        side == TimerSide::Ours
            || self
                .0
                .get(&(profile.to_owned(), Arc::clone(upstream), side))
                .is_some_and(|all| waited >= MIN_WAIT && is_timer(all, waited))
    }

    /// All detected timers: profile, upstream, side and timeout.
    pub(super) fn found(&self) -> Vec<(&str, &str, TimerSide, Duration)> {
        let mut found = Vec::new();
        for ((profile, upstream, side), all) in &self.0 {
            let waits = all.iter().map(|(_, waited)| waited);
            let most = waits.max_by_key(|waited| alike(all, **waited));
            if let Some(waited) = most.filter(|waited| is_timer(all, **waited)) {
                found.push((profile.as_str(), &**upstream, *side, *waited));
            }
        }
        found.sort_unstable_by_key(|(profile, upstream, _, waited)| (*profile, *upstream, *waited));
        found
    }

    /// Drops old samples.
    pub(super) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, all| {
            all.retain(|(at, _)| now.saturating_duration_since(*at) < WAIT_LIFETIME);
            !all.is_empty()
        });
    }
}

fn is_timer(all: &VecDeque<WaitSample>, waited: Duration) -> bool {
    let alike = alike(all, waited);
    alike >= MIN_ALIKE && alike * 3 >= all.len() * 2
}

/// Number of samples of about this length. The tolerance covers the accuracy of timers, which is a
/// few hundred milliseconds.
fn alike(all: &VecDeque<WaitSample>, waited: Duration) -> usize {
    let slack = (waited / 25).max(Duration::from_millis(300));
    all.iter().filter(|(_, one)| one.abs_diff(waited) <= slack).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timers(waits: &[f64]) -> (IdleTimers, Arc<str>) {
        let (mut timers, upstream) = (IdleTimers::default(), Arc::from("chat"));
        for seconds in waits {
            let wait = (Instant::now(), Duration::from_secs_f64(*seconds));
            timers.note(("p", &upstream), TimerSide::Front, wait);
        }
        (timers, upstream)
    }

    #[test]
    fn equal_waits_indicate_a_timer() {
        let (timers, upstream) = timers(&[20.01, 7.5, 20.2, 19.9]);
        let explains =
            |side, seconds| timers.explains("p", &upstream, side, Duration::from_secs_f64(seconds));
        assert!(explains(TimerSide::Front, 20.0) && !explains(TimerSide::Front, 7.5));
        assert!(!explains(TimerSide::Behind, 20.0) && explains(TimerSide::Ours, 20.0));
        let found = timers.found();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1, found[0].2), ("p", "chat", TimerSide::Front));
    }

    #[test]
    fn waits_of_different_length_indicate_no_timer() {
        let (timers, _) = timers(&[0.1, 0.1, 0.1, 0.1, 4.0, 9.0, 23.0, 4.1, 14.0, 4.2]);
        assert!(timers.found().is_empty());
    }

    #[test]
    fn is_bounded_and_drops_old_samples() {
        let (mut timers, upstream) = timers(&[5.0; 100]);
        assert_eq!(timers.0.values().map(VecDeque::len).sum::<usize>(), MAX_WAITS);
        for number in 0..2 * MAX_PLACES {
            let place = number.to_string();
            timers.note((&place, &upstream), TimerSide::Behind, (Instant::now(), MIN_WAIT));
        }
        assert_eq!(timers.0.len(), MAX_PLACES);
        timers.forget(Instant::now() + WAIT_LIFETIME);
        assert!(timers.0.is_empty());
    }
}
