//! A limit in bytes per second, shared by several streams.
//!
//! Implements the generic cell rate algorithm. One number holds the time until which the bytes
//! moved so far use up the allowed rate. While that time is less than `MAX_BURST` ahead of the
//! clock, more bytes may move. A chunk may exceed the limit; the next one then waits longer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Largest burst, as time ahead of the allowed rate. Longer than a tick of the coarse clock.
const MAX_BURST: Duration = Duration::from_millis(500);

/// Smallest chunk that is worth a system call, in bytes.
const MIN_CHUNK: usize = 512;

/// One rate limit, shared by workers and updated once per chunk.
#[derive(Debug)]
pub struct Rate {
    /// Time of one byte at the allowed rate, in nanoseconds times 1024.
    cost: u64,
    piece: usize,
    epoch: Instant,
    /// Time until which the rate is used up, in nanoseconds after `epoch`.
    paid_until: AtomicU64,
}

impl Rate {
    /// A limit of `bytes_per_second`; 0 counts as 1.
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

    /// Largest chunk that should be moved at once, in bytes. A larger one would cause a long wait.
    #[must_use]
    pub const fn piece(&self) -> usize {
        self.piece
    }

    /// Counts `bytes` that have moved.
    pub fn moved(&self, now: Instant, bytes: usize) {
        let cost = (u128::from(self.cost) * bytes as u128) >> 10;
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let now = self.since(now);
        let _ = self.paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
            Some(until.max(now).saturating_add(cost))
        });
    }

    /// The time at which more bytes may move. `None`: now.
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
    async fn a_burst_passes_and_then_the_rate_is_kept() {
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
    async fn idle_time_does_not_add_up_to_a_larger_burst() {
        let rate = Rate::new(1000);
        let now = Instant::now() + Duration::from_secs(3600);
        rate.moved(now, 10_000);
        assert!(rate.wait(now).is_some_and(|until| until > now + Duration::from_secs(9)));
        assert!(rate.wait(now + Duration::from_secs(10)).is_none());
    }
}
