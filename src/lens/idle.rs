//! Idle timers that others have set, found by what they do: what waits is cut after the same time
//! again and again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cause::Side;

/// Times remembered of each place and side.
const REMEMBERED: usize = 16;

/// So many alike make a timer, if they are two thirds of all that were cut: people leave at any
/// moment, and by chance three of many would be alike.
const ALIKE: usize = 3;

/// Shorter waits say nothing: people leave pages all the time.
const SHORTEST: Duration = Duration::from_secs(1);

/// Places that are remembered; more than any configuration has chat servers.
const PLACES: usize = 1000;

/// What was cut longer ago is forgotten: somebody may have set the timer right.
const KEPT: Duration = Duration::from_secs(3600);

/// When it was cut, and how long it had waited.
type Wait = (Instant, Duration);

/// Profile, upstream, and where.
type Whose = (String, Arc<str>, Side);

/// See the module.
#[derive(Default)]
pub(super) struct Timers(HashMap<Whose, VecDeque<Wait>>);

impl Timers {
    /// Notes that something was cut after it had waited so long.
    pub(super) fn note(
        &mut self,
        (profile, upstream): (&str, &Arc<str>),
        side: Side,
        (at, waited): Wait,
    ) {
        let whose = (profile.to_owned(), Arc::clone(upstream), side);
        if waited < SHORTEST || (self.0.len() >= PLACES && !self.0.contains_key(&whose)) {
            return;
        }
        let all = self.0.entry(whose).or_default();
        if all.len() == REMEMBERED {
            all.pop_front();
        }
        all.push_back((at, waited));
    }

    /// Whether a wait that was cut is one of several of that length.
    pub(super) fn explains(
        &self,
        profile: &str,
        upstream: &Arc<str>,
        side: Side,
        waited: Duration,
    ) -> bool {
        // The gateway knows what it did.
        side == Side::Ours
            || self
                .0
                .get(&(profile.to_owned(), Arc::clone(upstream), side))
                .is_some_and(|all| waited >= SHORTEST && is_timer(all, waited))
    }

    /// All that were found: profile, upstream, where, and how long.
    pub(super) fn found(&self) -> Vec<(&str, &str, Side, Duration)> {
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
            all.retain(|(at, _)| now.saturating_duration_since(*at) < KEPT);
            !all.is_empty()
        });
    }
}

fn is_timer(all: &VecDeque<Wait>, waited: Duration) -> bool {
    let alike = alike(all, waited);
    alike >= ALIKE && alike * 3 >= all.len() * 2
}

/// How many are as long as this one: timers are kept to a few hundred milliseconds.
fn alike(all: &VecDeque<Wait>, waited: Duration) -> usize {
    let slack = (waited / 25).max(Duration::from_millis(300));
    all.iter().filter(|(_, one)| one.abs_diff(waited) <= slack).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timers(waits: &[f64]) -> (Timers, Arc<str>) {
        let (mut timers, upstream) = (Timers::default(), Arc::from("chat"));
        for seconds in waits {
            let wait = (Instant::now(), Duration::from_secs_f64(*seconds));
            timers.note(("p", &upstream), Side::Front, wait);
        }
        (timers, upstream)
    }

    #[test]
    fn equal_waits_are_a_timer() {
        let (timers, upstream) = timers(&[20.01, 7.5, 20.2, 19.9]);
        let explains =
            |side, seconds| timers.explains("p", &upstream, side, Duration::from_secs_f64(seconds));
        assert!(explains(Side::Front, 20.0) && !explains(Side::Front, 7.5));
        assert!(!explains(Side::Behind, 20.0) && explains(Side::Ours, 20.0));
        let found = timers.found();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1, found[0].2), ("p", "chat", Side::Front));
    }

    #[test]
    fn people_who_leave_are_none() {
        let (timers, _) = timers(&[0.1, 0.1, 0.1, 0.1, 4.0, 9.0, 23.0, 4.1, 14.0, 4.2]);
        assert!(timers.found().is_empty());
    }

    #[test]
    fn is_bounded_and_forgets() {
        let (mut timers, upstream) = timers(&[5.0; 100]);
        assert_eq!(timers.0.values().map(VecDeque::len).sum::<usize>(), REMEMBERED);
        for number in 0..2 * PLACES {
            let place = number.to_string();
            timers.note((&place, &upstream), Side::Behind, (Instant::now(), SHORTEST));
        }
        assert_eq!(timers.0.len(), PLACES);
        timers.forget(Instant::now() + KEPT);
        assert!(timers.0.is_empty());
    }
}
