//! Protection against slow clients (`body-idle` and `min-rate`), for both directions and both
//! versions of HTTP.
//!
//! Only time spent waiting for the client counts, so that a slow upstream is not held against it. A
//! client may be silent for `idle`. The rate is an average over at least `idle` of waiting: a
//! shorter silence alone is never too slow, and single bytes do not keep a connection open. A
//! complete body is not checked.
//!
//! A socket takes more only after a large part of its send queue has left, which at a low rate takes
//! longer than `idle`. So before a silence counts, the number of bytes that the client's host has
//! acknowledged is compared with that at the start of the silence.

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
    /// Bytes acknowledged so far, if that is known, and when this was looked up during this wait.
    acknowledged: Option<(Option<i64>, Instant)>,
    /// Acknowledged bytes that have been counted and that [`Self::moved`] has not counted yet.
    credited: u64,
    waited: Duration,
    bytes: u64,
}

/// Acknowledged bytes are first looked up after this part of `idle`: short waits cost nothing.
const FIRST_CHECK: u32 = 8;

impl MinRate {
    pub(crate) const fn new(idle: Duration, min_rate: u64) -> Self {
        Self {
            idle,
            rate: min_rate,
            since: None,
            acknowledged: None,
            credited: 0,
            waited: Duration::ZERO,
            bytes: 0,
        }
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
        self.acknowledged = None;
        let counted = self.credited.min(bytes);
        self.credited -= counted;
        self.bytes += bytes - counted;
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

    /// Time at which the current silence is too long, if no byte is acknowledged before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + self.idle)
    }

    /// When [`Self::is_late`] has to be asked next.
    pub(crate) fn next_check(&self) -> Option<Instant> {
        let wait = if self.acknowledged.is_none() { self.idle / FIRST_CHECK } else { self.idle };
        self.since.map(|since| since + wait)
    }

    /// Whether the client is silent for too long, or too slow.
    ///
    /// `acknowledged` counts the bytes that the client's host has acknowledged, from any start, and
    /// is `None` where this is not known.
    pub(crate) fn is_late(
        &mut self,
        now: Instant,
        acknowledged: impl FnOnce() -> Option<i64>,
    ) -> bool {
        let Some(since) = self.since else { return false };
        let Some((before, checked)) = self.acknowledged else {
            if since + self.idle / FIRST_CHECK <= now {
                self.acknowledged = Some((acknowledged(), now));
            }
            return since + self.idle <= now;
        };
        if now < since + self.idle {
            return false;
        }
        let after = acknowledged();
        let (Some(from), Some(to)) = (before, after) else { return true };
        let Some(bytes) = u64::try_from(to - from).ok().filter(|bytes| *bytes > 0) else {
            return true;
        };
        self.waited += now.saturating_duration_since(checked);
        self.bytes += bytes;
        self.credited += bytes;
        (self.since, self.acknowledged) = (Some(now), Some((after, now)));
        !self.keeps_up()
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

    /// Seconds until a client is late that acknowledges `rate` bytes per second, up to `length`.
    fn drains(length: i64, rate: i64, min_rate: u64) -> Option<u64> {
        let mut pace = MinRate::new(IDLE, min_rate);
        let start = Instant::now();
        pace.wait(start);
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            let acknowledged = Some(length.min(rate * i64::try_from(second).unwrap()));
            let is_due = pace.next_check().is_some_and(|at| at <= now);
            if is_due && pace.is_late(now, || acknowledged) {
                return Some(second);
            }
        }
        None
    }

    #[tokio::test]
    async fn acknowledged_bytes_are_progress() {
        assert_eq!(drains(4_000_000, 1000, 200), None);
        assert_eq!(drains(4_000_000, 1, 0), None);
        // No byte leaves: late at once. Too few: late after the average is known.
        assert_eq!(drains(4_000_000, 0, 200), Some(30));
        assert_eq!(drains(4_000_000, 1, 200), Some(60));
        // Everything was acknowledged before the first look.
        assert_eq!(drains(1000, 1000, 200), Some(30));
        let mut unknown = MinRate::new(IDLE, 200);
        let start = Instant::now();
        unknown.wait(start);
        assert!(!unknown.is_late(start + IDLE / 2, || None));
        assert!(unknown.is_late(start + IDLE, || None));
    }

    #[tokio::test]
    async fn a_byte_counts_once() {
        let mut pace = MinRate::new(IDLE, 200);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        pace.wait(start);
        assert!(!pace.is_late(at(4), || Some(-10_000)));
        assert!(!pace.is_late(at(30), || Some(-1000)));
        // The socket has taken 9,000 bytes in place of those that were acknowledged.
        pace.moved(at(30), 9000);
        pace.wait(at(30));
        assert!(!pace.is_late(at(34), || Some(-10_000)));
        assert!(pace.is_late(at(60), || Some(-9999)));
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
