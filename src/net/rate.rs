//! A limit in bytes per second, shared by whatever counts towards it.
//!
//! The generic cell rate algorithm: one number says until when what has already moved would take
//! at the allowed rate. While that is less than `MAX_BURST` ahead of the clock, more may move; a
//! piece may overshoot and is then waited for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How far ahead of the rate bytes may run; longer than a coarse clock's tick.
const MAX_BURST: Duration = Duration::from_millis(500);

/// Fewest bytes worth a system call.
const MIN_CHUNK: usize = 512;

/// One limit. Shared between workers; touched once per piece moved.
#[derive(Debug)]
pub struct Rate {
    /// Nanoseconds that one byte takes, times 1024.
    cost: u64,
    piece: usize,
    epoch: Instant,
    /// Nanoseconds after `epoch`.
    paid_until: AtomicU64,
}

impl Rate {
    /// A limit of this many bytes per second, at least 1.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        let cost = (1_000_000_000_u128 << 10) / u128::from(bytes_per_second.max(1));
        Self {
            cost: u64::try_from(cost).unwrap_or(u64::MAX).max(1),
            piece: usize::try_from(bytes_per_second / 16).unwrap_or(usize::MAX).max(MIN_CHUNK),
            epoch: Instant::now(),
            paid_until: AtomicU64::new(0),
        }
    }

    /// Bytes that should move at a time, at most: a larger piece would have to be waited for long.
    #[must_use]
    pub const fn piece(&self) -> usize {
        self.piece
    }

    /// Notes that `bytes` have moved.
    pub fn moved(&self, now: Instant, bytes: usize) {
        let cost = (u128::from(self.cost) * bytes as u128) >> 10;
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let now = self.since(now);
        let _ = self.paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
            Some(until.max(now).saturating_add(cost))
        });
    }

    /// When more may move; `None`: now.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Option<Instant> {
        let until = self.epoch + Duration::from_nanos(self.paid_until.load(Ordering::Relaxed));
        (until > now + MAX_BURST).then(|| until.checked_sub(MAX_BURST).unwrap_or(until))
    }

    fn since(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lets_a_burst_through_and_then_holds_the_rate() {
        let rate = Rate::new(1000);
        let start = Instant::now();
        let (mut now, mut moved) = (start, 0);
        while now < start + Duration::from_secs(10) {
            if let Some(until) = rate.wait(now) {
                now = until;
            } else {
                rate.moved(now, 100);
                moved += 100;
                now += Duration::from_millis(1);
            }
        }
        assert!((10_000..=10_700).contains(&moved), "{moved}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_silence_is_not_saved_up() {
        let rate = Rate::new(1000);
        let now = Instant::now() + Duration::from_secs(3600);
        rate.moved(now, 10_000);
        assert!(rate.wait(now).is_some_and(|until| until > now + Duration::from_secs(9)));
        assert!(rate.wait(now + Duration::from_secs(10)).is_none());
    }
}
