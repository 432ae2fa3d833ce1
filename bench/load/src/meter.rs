//! What is counted: units, bytes, latency, and the proxy's CPU time.

use hdrhistogram::Histogram;
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::io::Write;
use std::time::Duration;

/// Longest latency that is told apart from longer ones, in microseconds.
const LONGEST: u64 = 60_000_000;

/// Latencies, to three digits.
pub(crate) struct Latencies(RefCell<Histogram<u64>>);

impl Latencies {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        Ok(Self(RefCell::new(Histogram::new_with_bounds(1, LONGEST, 3)?)))
    }

    pub(crate) fn record(&self, taken: Duration) {
        let micros = u64::try_from(taken.as_micros()).unwrap_or(LONGEST);
        self.0.borrow_mut().saturating_record(micros.max(1));
    }

    pub(crate) fn clear(&self) {
        self.0.borrow_mut().reset();
    }

    /// Adds count, p50, p99, p99.9 and the longest, in microseconds.
    pub(crate) fn report(&self, prefix: &str, report: &mut Map<String, Value>) {
        let latencies = self.0.borrow();
        report.insert(format!("{prefix}count"), latencies.len().into());
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("longest", 1.0)] {
            report.insert(format!("{prefix}{name}"), latencies.value_at_quantile(quantile).into());
        }
    }
}

/// What one load counts. Everything runs on one thread.
pub(crate) struct Meter {
    pub(crate) units: Cell<u64>,
    pub(crate) bytes: Cell<u64>,
    pub(crate) failed: Cell<u64>,
    pub(crate) latencies: Latencies,
    first_error: RefCell<Option<String>>,
}

impl Meter {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            units: Cell::new(0),
            bytes: Cell::new(0),
            failed: Cell::new(0),
            latencies: Latencies::new()?,
            first_error: RefCell::new(None),
        })
    }

    pub(crate) fn done(&self, taken: Duration) {
        self.units.set(self.units.get() + 1);
        self.latencies.record(taken);
    }

    pub(crate) fn moved(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    pub(crate) fn failed(&self, error: &dyn std::fmt::Display) {
        self.failed.set(self.failed.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(|| error.to_string());
    }

    /// Forgets what was before the window. Failures are never forgotten.
    pub(crate) fn restart(&self) {
        self.units.set(0);
        self.bytes.set(0);
        self.latencies.clear();
    }

    pub(crate) fn report(&self) -> Map<String, Value> {
        let mut report = Map::new();
        report.insert("units".to_owned(), self.units.get().into());
        report.insert("bytes".to_owned(), self.bytes.get().into());
        report.insert("failed".to_owned(), self.failed.get().into());
        report.insert("error".to_owned(), self.first_error.borrow().clone().into());
        self.latencies.report("", &mut report);
        report
    }
}

/// CPU clocks of the proxy's processes, as the scheduler keeps them: nanoseconds, user and system, threads
/// that have ended included.
pub(crate) struct Cpu(Vec<ClockId>);

impl Cpu {
    pub(crate) fn of(pids: &[i32]) -> Result<Self, Box<dyn Error>> {
        Ok(Self(
            pids.iter()
                .map(|&pid| clock_getcpuclockid(Pid::from_raw(pid)))
                .collect::<Result<_, _>>()?,
        ))
    }

    /// Seconds used so far.
    pub(crate) fn read(&self) -> Result<f64, Box<dyn Error>> {
        let mut used = Duration::ZERO;
        for &clock in &self.0 {
            used += Duration::from_nanos(clock_gettime(clock)?.num_nanoseconds().try_into()?);
        }
        Ok(used.as_secs_f64())
    }
}

/// Prints a report as a line.
pub(crate) fn tell(report: &Map<String, Value>) {
    let mut out = std::io::stdout().lock();
    // Nobody to tell is no reason to go on or to fail.
    let _ = writeln!(out, "{}", Value::Object(report.clone())).and_then(|()| out.flush());
}
