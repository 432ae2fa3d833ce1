//! Idle timers that others have set, found by what they do: what waits is cut after the same time
//! again and again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cause::TimerSide;

/// Times remembered of each place and side.
const MAX_WAITS: usize = 16;

/// So many alike make a timer, if they are two thirds of all that were cut: people leave at any
/// moment, and by chance three of many would be alike.
const MIN_ALIKE: usize = 3;

/// Shorter waits say nothing: people leave pages all the time.
const MIN_WAIT: Duration = Duration::from_secs(1);

/// Places that are remembered; more than any configuration has chat servers.
const MAX_PLACES: usize = 1000;

/// What was cut longer ago is forgotten: somebody may have set the timer right.
const WAIT_LIFETIME: Duration = Duration::from_secs(3600);

/// When it was cut, and how long it had waited.
type WaitSample = (Instant, Duration);

/// Profile, upstream, and where.
type TimerKey = (String, Arc<str>, TimerSide);

/// See the module.
#[derive(Default)]
pub(super) struct IdleTimers(HashMap<TimerKey, VecDeque<WaitSample>>);

impl IdleTimers {
    /// Notes that something was cut after it had waited so long.
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

    /// Whether a wait that was cut is one of several of that length.
    pub(super) fn explains(
        &self,
        profile: &str,
        upstream: &Arc<str>,
        side: TimerSide,
        waited: Duration,
    ) -> bool {
        // The gateway knows what it did.
        side == TimerSide::Ours
            || self
                .0
                .get(&(profile.to_owned(), Arc::clone(upstream), side))
                .is_some_and(|all| waited >= MIN_WAIT && is_timer(all, waited))
    }

    /// All that were found: profile, upstream, where, and how long.
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

    /// Forgets what is long ago.
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

/// How many are as long as this one: timers are kept to a few hundred milliseconds.
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
    fn equal_waits_are_a_timer() {
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
    fn people_who_leave_are_none() {
        let (timers, _) = timers(&[0.1, 0.1, 0.1, 0.1, 4.0, 9.0, 23.0, 4.1, 14.0, 4.2]);
        assert!(timers.found().is_empty());
    }

    #[test]
    fn is_bounded_and_forgets() {
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
