//! Retry budget: limits the retries per second, so that a failing upstream does not get twice the
//! load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Microseconds' worth of retries that may be saved up.
const MAX_SAVED: u64 = 1_000_000;

/// The generic cell rate algorithm in one atomic, touched only when something is retried.
#[derive(Debug)]
pub struct RetryBudget {
    /// Microseconds after `birth` until which retries are paid for.
    paid_until: AtomicU64,
    birth: Instant,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { paid_until: AtomicU64::new(0), birth: Instant::now() }
    }
}

impl RetryBudget {
    /// Takes one, if there is one left of `per_second`.
    pub fn take(&self, per_second: u32) -> bool {
        let now = u64::try_from(self.birth.elapsed().as_micros()).unwrap_or(u64::MAX) + MAX_SAVED;
        self.take_at(now, per_second)
    }

    fn take_at(&self, now: u64, per_second: u32) -> bool {
        let Some(cost) = 1_000_000_u64.checked_div(per_second.into()) else { return false };
        let paid = |until: u64| {
            let until = until.max(now.saturating_sub(MAX_SAVED)) + cost.max(1);
            (until <= now).then_some(until)
        };
        self.paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_rate_after_a_burst() {
        let budget = RetryBudget::default();
        let taken = |from: u64, to: u64| {
            (from..to).step_by(1000).filter(|now| budget.take_at(MAX_SAVED + now, 10)).count()
        };
        assert_eq!(taken(0, 10_000), 10, "a second's worth at once");
        assert!((9..=11).contains(&taken(10_000, 1_010_000)));
        assert!(!budget.take_at(0, 0), "none at all");
    }
}
