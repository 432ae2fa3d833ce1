//! Counters of units, bytes, latency and the proxy's CPU time.

use hdrhistogram::Histogram;
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::io::Write;
use std::time::Duration;

/// Maximum latency of the histogram, in microseconds.
const MAX_LATENCY_MICROS: u64 = 60_000_000;

/// A histogram of latencies with three significant digits.
pub(crate) struct Latencies(RefCell<Histogram<u64>>);

impl Latencies {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        Ok(Self(RefCell::new(Histogram::new_with_bounds(1, MAX_LATENCY_MICROS, 3)?)))
    }

    pub(crate) fn record(&self, taken: Duration) {
        let micros = u64::try_from(taken.as_micros()).unwrap_or(MAX_LATENCY_MICROS);
        self.0.borrow_mut().saturating_record(micros.max(1));
    }

    pub(crate) fn clear(&self) {
        self.0.borrow_mut().reset();
    }

    /// Adds count, p50, p99, p99.9 and maximum, in microseconds.
    pub(crate) fn report(&self, prefix: &str, report: &mut Map<String, Value>) {
        let latencies = self.0.borrow();
        report.insert(format!("{prefix}count"), latencies.len().into());
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("longest", 1.0)] {
            report.insert(format!("{prefix}{name}"), latencies.value_at_quantile(quantile).into());
        }
    }
}

/// The counters of one load. Everything runs on one thread.
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

    /// Resets the counters at the start of the window, except failures.
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

/// CPU clocks of the proxy's processes, as the scheduler counts them: nanoseconds of user and
/// system time, including threads that have ended.
pub(crate) struct Cpu(Vec<ClockId>);

impl Cpu {
    pub(crate) fn of(pids: &[i32]) -> Result<Self, Box<dyn Error>> {
        Ok(Self(
            pids.iter()
                .map(|&pid| clock_getcpuclockid(Pid::from_raw(pid)))
                .collect::<Result<_, _>>()?,
        ))
    }

    /// CPU seconds used so far.
    pub(crate) fn read(&self) -> Result<f64, Box<dyn Error>> {
        let mut used = Duration::ZERO;
        for &clock in &self.0 {
            used += Duration::from_nanos(clock_gettime(clock)?.num_nanoseconds().try_into()?);
        }
        Ok(used.as_secs_f64())
    }
}

/// Prints a report as one line of JSON.
pub(crate) fn print_report(report: &Map<String, Value>) {
    let mut out = std::io::stdout().lock();
    // A closed standard output is not an error of the measurement.
    let _ = writeln!(out, "{}", Value::Object(report.clone())).and_then(|()| out.flush());
}
