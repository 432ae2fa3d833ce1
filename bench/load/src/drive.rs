//! Drives units of work, in a closed loop (the next one starts when one is done) or on a fixed
//! schedule.
//!
//! On a schedule the latency of a unit is counted from the moment at which it was due, whether or
//! not a connection was free. A proxy that stalls for a second therefore slows all units of that
//! second and not only one (no coordinated omission).

use crate::Load;
use crate::meter::{Cpu, Meter};
use serde_json::{Map, Value};
use std::cell::Cell;
use std::error::Error;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

/// Limit for the completion of the last units after the measuring window.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the connections of a load.
pub(crate) trait Source {
    type Unit: Unit + 'static;
    async fn open(&self) -> io::Result<Self::Unit>;
}

/// A connection that repeats one unit of work.
pub(crate) trait Unit {
    async fn once(&mut self, meter: &Meter) -> io::Result<()>;
}

/// Calls a function at a fixed rate. It has a thread of its own, because the timer of the runtime
/// has a resolution of a millisecond.
pub(crate) struct Pacer {
    stop: Arc<AtomicBool>,
}

impl Pacer {
    pub(crate) fn start(rate: f64, mut due: impl FnMut(u64, Instant) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            let begun = Instant::now();
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                let at = begun + Duration::from_secs_f64(seconds_until(number, rate));
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                due(number, at);
                number += 1;
            }
        });
        Self { stop }
    }
}

#[expect(clippy::cast_precision_loss, reason = "no load has 2^52 units")]
fn seconds_until(number: u64, rate: f64) -> f64 {
    number as f64 / rate
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Opens the connections, warms up, and counts for the measuring window.
pub(crate) async fn drive<S: Source>(
    load: &Load,
    source: &S,
) -> Result<Map<String, Value>, Box<dyn Error>> {
    let meter = Rc::new(Meter::new()?);
    if let Some(count) = load.count {
        let mut unit = source.open().await?;
        for _ in 0..count {
            let begun = Instant::now();
            unit.once(&meter).await?;
            meter.done(begun.elapsed());
        }
        return Ok(meter.report());
    }
    let waiting = Rc::new(Cell::new(0_u64));
    let mut tasks = JoinSet::new();
    let mut queues = Vec::new();
    for _ in 0..load.connections {
        let unit = source.open().await?;
        if load.rate.is_some() {
            let (queue, due) = unbounded_channel();
            queues.push(queue);
            tasks.spawn_local(scheduled(unit, due, Rc::clone(&meter), Rc::clone(&waiting)));
        } else {
            tasks.spawn_local(closed_loop(unit, Rc::clone(&meter)));
        }
    }
    let pacer = load.rate.map(|rate| Pacer::start(rate, round_robin(queues)));

    tokio::time::sleep(Duration::from_secs_f64(load.warm)).await;
    let cpu = Cpu::of(&load.target.pids)?;
    meter.restart();
    let (before, begun) = (cpu.read()?, Instant::now());
    tokio::time::sleep(Duration::from_secs_f64(load.seconds)).await;
    let (used, seconds) = (cpu.read()? - before, begun.elapsed().as_secs_f64());
    let (units, bytes) = (meter.units.get(), meter.bytes.get());
    if pacer.is_some() {
        drop(pacer);
        // Units that were due and are not done yet are the slowest, so they must be part of the
        // latencies.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, async {
            while tasks.join_next().await.is_some() {}
        })
        .await;
    }
    tasks.abort_all();

    let mut report = meter.report();
    report.insert("units".to_owned(), units.into());
    report.insert("bytes".to_owned(), bytes.into());
    report.insert("unanswered".to_owned(), waiting.get().into());
    report.insert("cpu".to_owned(), used.into());
    report.insert("seconds".to_owned(), seconds.into());
    Ok(report)
}

fn round_robin(queues: Vec<UnboundedSender<Instant>>) -> impl FnMut(u64, Instant) + Send + 'static {
    let mut next = 0;
    move |_, at| {
        // A failed connection has no receiver any more; its failure is counted.
        let _ = queues[next].send(at);
        next = (next + 1) % queues.len();
    }
}

async fn closed_loop<U: Unit>(mut unit: U, meter: Rc<Meter>) {
    loop {
        let begun = Instant::now();
        match unit.once(&meter).await {
            Ok(()) => meter.done(begun.elapsed()),
            Err(error) => return meter.failed(&error),
        }
    }
}

async fn scheduled<U: Unit>(
    mut unit: U,
    mut due: UnboundedReceiver<Instant>,
    meter: Rc<Meter>,
    waiting: Rc<Cell<u64>>,
) {
    while let Some(at) = due.recv().await {
        waiting.set(waiting.get() + 1);
        match unit.once(&meter).await {
            Ok(()) => meter.done(at.elapsed()),
            Err(error) => return meter.failed(&error),
        }
        waiting.set(waiting.get() - 1);
    }
}
