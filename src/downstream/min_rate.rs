//! Protection against slow clients (`body-idle` and `min-rate`), for both directions and both
//! versions of HTTP.
//!
//! Only time spent waiting for the client counts, so that a slow upstream is not held against it. A
//! client may be silent for `idle`. The rate is an average over at least `idle` of waiting: a
//! shorter silence alone is never too slow, and single bytes do not keep a connection open. A
//! complete body is not checked.

use std::time::Duration;

use tokio::time::Instant;

/// Progress of one body, or of the output of one HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct MinRate {
    /// Longest silence, and shortest time over which the average rate is computed.
    idle: Duration,
    /// Minimum rate in bytes per second.
    rate: u64,
    since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl MinRate {
    pub(crate) const fn new(idle: Duration, min_rate: u64) -> Self {
        Self { idle, rate: min_rate, since: None, waited: Duration::ZERO, bytes: 0 }
    }

    /// Starts to count waiting time, if that has not started yet.
    pub(crate) fn wait(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Stops to count waiting time, because the client has moved `bytes` or something else blocks.
    pub(crate) fn moved(&mut self, now: Instant, bytes: u64) {
        if let Some(since) = self.since.take() {
            self.waited += now.saturating_duration_since(since);
        }
        self.bytes += bytes;
    }

    /// Whether the average rate is high enough. Called before each wait for the client.
    pub(crate) fn keeps_up(&mut self) -> bool {
        if self.waited < self.idle {
            return true;
        }
        let keeps_up =
            u128::from(self.bytes) * 1000 >= u128::from(self.rate) * self.waited.as_millis();
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        keeps_up
    }

    /// Time at which the current silence is too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(30);

    fn drip(bytes: u64, every: Duration, rate: u64) -> Option<u64> {
        let mut pace = MinRate::new(IDLE, rate);
        let start = Instant::now();
        let mut now = start;
        for _ in 0..100 {
            pace.wait(now);
            now += every;
            pace.moved(now, bytes);
            if !pace.keeps_up() {
                return Some((now - start).as_secs());
            }
        }
        None
    }

    #[tokio::test]
    async fn a_dripped_body_ends_and_a_slow_line_does_not() {
        assert_eq!(drip(1, Duration::from_secs(1), 200), Some(30));
        assert_eq!(drip(400, Duration::from_secs(1), 200), None);
        assert_eq!(drip(100_000, Duration::from_secs(20), 200), None);
        assert_eq!(drip(1, Duration::from_secs(1), 0), None);
    }

    #[tokio::test]
    async fn one_silence_is_not_too_slow() {
        let mut pace = MinRate::new(IDLE, 200);
        let start = Instant::now();
        pace.wait(start);
        pace.moved(start + Duration::from_secs(29), 5);
        assert!(pace.keeps_up());
        pace.wait(start + Duration::from_secs(29));
        pace.moved(start + Duration::from_secs(31), 5);
        assert!(!pace.keeps_up());
    }

    #[tokio::test]
    async fn only_waiting_counts() {
        let mut pace = MinRate::new(IDLE, 200);
        let start = Instant::now();
        assert_eq!(pace.deadline(), None);
        pace.wait(start);
        pace.wait(start + Duration::from_secs(1));
        assert_eq!(pace.deadline(), Some(start + IDLE));
        pace.moved(start + Duration::from_secs(5), 1);
        pace.moved(start + Duration::from_secs(500), 1);
        assert!(pace.keeps_up());
    }
}
