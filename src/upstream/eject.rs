//! Ejection of endpoints after failed requests (passive failure detection).
//!
//! A circuit breaker per endpoint in one atomic: 0 is closed, a time in the future is open, a time
//! in the past is half-open. The first request that finds it half-open moves the time on and
//! becomes the trial; its result closes the circuit or opens it for longer.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time that a trial request on a half-open circuit has before another one may start.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Ejections that lengthen the next one; more make no difference.
const MAX_STREAK: u32 = 16;

/// In [`Circuit::until`]: a request is trying it.
const ON_TRIAL: u64 = 1;

/// When endpoints are left out; see [`crate::config::Eject`].
#[derive(Clone, Debug)]
pub struct EjectPolicy {
    /// Kinds of trouble that count.
    pub failure_kinds: Vec<FailureKind>,
    /// Statuses that count, first and last of each range.
    pub statuses: Vec<(u16, u16)>,
    /// Number of failures within the window that opens the circuit.
    pub count: u32,
    /// The window.
    pub window: Duration,
    /// Duration of the first ejection.
    pub base_time: Duration,
    /// Maximum duration of an ejection.
    pub max_time: Duration,
    /// Share of the endpoints of a tier that may be left out, in percent.
    pub max_percent: u32,
}

/// Kinds of failure of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum FailureKind {
    /// No connection.
    Connect = 1,
    /// No TLS handshake.
    Tls,
    /// The connection closed before an answer, or the answer was not HTTP.
    Reset,
    /// No answer in time.
    Timeout,
    /// An answer with a status that counts.
    Status,
}

impl FailureKind {
    /// The word for it, as in the configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status => "status",
        }
    }
}

impl EjectPolicy {
    /// Whether an answer with this status is trouble.
    #[must_use]
    pub fn counts(&self, status: u16) -> bool {
        self.statuses.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}

/// The circuit of one endpoint.
#[derive(Debug)]
pub struct Circuit {
    /// Twice the milliseconds after `birth` at which the circuit becomes half-open, plus 1 while a
    /// trial runs; 0 if it is closed.
    until: AtomicU64,
    /// Why it was opened last, and when.
    cause: AtomicU8,
    opened: AtomicU64,
    /// Number of recent ejections in a row.
    streak: AtomicU32,
    /// When trouble began to be counted.
    window: AtomicU64,
    errors: AtomicU32,
    birth: Instant,
}

/// State of a circuit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CircuitState {
    /// Requests pass.
    Closed,
    /// One request may try.
    HalfOpen,
    /// No request passes, while another endpoint is available.
    Open,
}

impl Default for Circuit {
    fn default() -> Self {
        Self {
            until: AtomicU64::new(0),
            cause: AtomicU8::new(0),
            opened: AtomicU64::new(0),
            streak: AtomicU32::new(0),
            window: AtomicU64::new(0),
            errors: AtomicU32::new(0),
            birth: Instant::now(),
        }
    }
}

impl Circuit {
    /// State of the circuit.
    #[must_use]
    pub fn circuit_state(&self) -> CircuitState {
        match self.until.load(Ordering::Relaxed) {
            0 => CircuitState::Closed,
            until if self.age() < until >> 1 => CircuitState::Open,
            _ => CircuitState::HalfOpen,
        }
    }

    /// Starts the trial of a half-open circuit; `false` if another request has started it.
    pub fn try_it(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        let now = self.age();
        if until == 0 {
            return true;
        }
        let next = ((now + millis(TRIAL_TIMEOUT)) << 1) | ON_TRIAL;
        let (ours, theirs) = (Ordering::Relaxed, Ordering::Relaxed);
        now >= until >> 1 && self.until.compare_exchange(until, next, ours, theirs).is_ok()
    }

    /// Counts a failure; returns whether the limit is reached. While the circuit is not closed, any
    /// failure reaches it.
    pub fn count(&self, eject: &EjectPolicy) -> bool {
        if self.until.load(Ordering::Relaxed) != 0 {
            return true;
        }
        let now = self.age() + 1;
        let began = self.window.load(Ordering::Relaxed);
        if began == 0 || now > began + millis(eject.window) {
            // Two workers may both begin a window; that loses one error.
            self.window.store(now, Ordering::Relaxed);
            self.errors.store(1, Ordering::Relaxed);
            return eject.count <= 1;
        }
        self.errors.fetch_add(1, Ordering::Relaxed) + 1 >= eject.count
    }

    /// Opens it. The result is for how long; `None` if it was open already.
    pub fn open(&self, eject: &EjectPolicy, cause: FailureKind) -> Option<Duration> {
        let now = self.age();
        let until = self.until.load(Ordering::Relaxed);
        if now < until >> 1 && until & ON_TRIAL == 0 {
            return None;
        }
        let opened = self.opened.load(Ordering::Relaxed);
        // After a long time without, it begins anew.
        let calm = until == 0 && now > opened + millis(eject.max_time).saturating_mul(4);
        let streak = if calm { 0 } else { self.streak.load(Ordering::Relaxed) };
        let time = eject.base_time.saturating_mul(1 << streak.min(MAX_STREAK)).min(eject.max_time);
        self.streak.store((streak + 1).min(MAX_STREAK), Ordering::Relaxed);
        self.opened.store(now, Ordering::Relaxed);
        self.cause.store(cause as u8, Ordering::Relaxed);
        self.until.store((now + millis(time)).max(1) << 1, Ordering::Relaxed);
        self.errors.store(0, Ordering::Relaxed);
        Some(time)
    }

    /// Opens it for this time, whatever it was.
    pub fn open_for(&self, time: Duration) {
        self.cause.store(FailureKind::Connect as u8, Ordering::Relaxed);
        self.until.store((self.age() + millis(time)).max(1) << 1, Ordering::Relaxed);
    }

    /// Closes it because a connection was made, if it was opened for want of one. Whether it was
    /// open.
    pub fn connected(&self) -> bool {
        let cause = self.cause.load(Ordering::Relaxed);
        (cause == FailureKind::Connect as u8 || cause == FailureKind::Tls as u8) && self.close()
    }

    /// Closes it because an answer was good. Whether it was open.
    pub fn close(&self) -> bool {
        self.until.load(Ordering::Relaxed) != 0 && self.until.swap(0, Ordering::Relaxed) != 0
    }

    /// Milliseconds since it was made.
    fn age(&self) -> u64 {
        millis(self.birth.elapsed())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    fn eject(count: u32, base_time: u64, max_time: u64) -> EjectPolicy {
        let millis = Duration::from_millis;
        EjectPolicy {
            failure_kinds: vec![FailureKind::Connect],
            statuses: vec![(502, 504)],
            count,
            window: millis(60_000),
            base_time: millis(base_time),
            max_time: millis(max_time),
            max_percent: 50,
        }
    }

    #[test]
    fn opens_after_so_much_trouble() {
        let (circuit, eject) = (Circuit::default(), eject(3, 60_000, 60_000));
        assert_eq!([circuit.count(&eject), circuit.count(&eject)], [false, false]);
        assert_eq!(circuit.circuit_state(), CircuitState::Closed);
        assert!(circuit.count(&eject));
        assert!(circuit.open(&eject, FailureKind::Connect).is_some());
        assert_eq!(circuit.circuit_state(), CircuitState::Open);
        assert_eq!(circuit.open(&eject, FailureKind::Connect), None, "it is open already");
    }

    #[test]
    fn lets_one_try_and_grows_if_that_fails() {
        let (circuit, eject) = (Circuit::default(), eject(1, 1, 3));
        let millis = Duration::from_millis;
        let mut times = Vec::new();
        for _ in 0..4 {
            times.extend(circuit.open(&eject, FailureKind::Reset));
            sleep(millis(5));
            assert_eq!(circuit.circuit_state(), CircuitState::HalfOpen);
            assert!(circuit.try_it());
            assert!(!circuit.try_it(), "only one");
            assert_eq!(circuit.circuit_state(), CircuitState::Open);
        }
        assert_eq!(times, [millis(1), millis(2), millis(3), millis(3)]);
        assert!(!circuit.connected(), "a connection proves nothing about resets");
        assert!(circuit.close());
        assert_eq!(circuit.circuit_state(), CircuitState::Closed);
    }

    #[test]
    fn a_connection_ends_what_was_for_want_of_one() {
        let (circuit, eject) = (Circuit::default(), eject(1, 60_000, 60_000));
        circuit.open(&eject, FailureKind::Tls);
        assert!(circuit.connected());
        assert!(!circuit.connected());
    }
}
