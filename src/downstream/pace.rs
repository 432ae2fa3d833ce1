//! Whether a client keeps up.
//!
//! Only time spent waiting for the client counts: a body held up by its upstream is not the
//! client's fault. A client may be silent for `idle`, and over the time we wait for it must move
//! `min_rate` bytes a second on average, so that a byte now and then does not keep a connection.

use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pace {
    idle: Duration,
    min_rate: u64,
    since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    pub(crate) const fn new(idle: Duration, min_rate: u64) -> Self {
        Self { idle, min_rate, since: None, waited: Duration::ZERO, bytes: 0 }
    }

    /// We wait for the client.
    pub(crate) fn wait(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// We do not: it has moved `bytes`, or something else holds us up. Whether it keeps up.
    pub(crate) fn moved(&mut self, now: Instant, bytes: u64) -> bool {
        if let Some(since) = self.since.take() {
            self.waited += now.saturating_duration_since(since);
        }
        self.bytes += bytes;
        // Below this, an average says little.
        if self.waited < self.idle / 3 {
            return true;
        }
        let keeps_up =
            u128::from(self.bytes) * 1000 >= u128::from(self.min_rate) * self.waited.as_millis();
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        keeps_up
    }

    /// When the present silence will have lasted too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drip(bytes: u64, every: Duration, rate: u64) -> Option<u64> {
        let mut pace = Pace::new(Duration::from_secs(30), rate);
        let start = Instant::now();
        let mut now = start;
        for _ in 0..100 {
            pace.wait(now);
            now += every;
            if !pace.moved(now, bytes) {
                return Some((now - start).as_secs());
            }
        }
        None
    }

    #[tokio::test]
    async fn a_dripped_body_ends_and_a_slow_line_does_not() {
        assert_eq!(drip(1, Duration::from_secs(1), 200), Some(10));
        assert_eq!(drip(400, Duration::from_secs(1), 200), None);
        assert_eq!(drip(100_000, Duration::from_secs(20), 200), None);
        assert_eq!(drip(1, Duration::from_secs(1), 0), None);
    }

    #[tokio::test]
    async fn only_waiting_counts() {
        let mut pace = Pace::new(Duration::from_secs(30), 200);
        let start = Instant::now();
        assert_eq!(pace.deadline(), None);
        pace.wait(start);
        assert_eq!(pace.deadline(), Some(start + Duration::from_secs(30)));
        assert!(pace.moved(start + Duration::from_secs(5), 1));
        assert!(pace.moved(start + Duration::from_secs(500), 1));
    }
}
