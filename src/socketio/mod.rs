//! Tracking of Socket.IO sessions: whether a session changes from polling to a WebSocket, and the
//! cause if it does not.
//!
//! ```text
//! each worker: RequestProbe -> SessionEvent -> EventSink ─┐
//!                                                         ├─> SessionTable -> report, metrics
//! each worker: …                                          ┘   (control runtime)
//! ```
//!
//! In: request heads, and bodies as they pass. Out: one state per session, and one [`Cause`] per
//! session that stays on polling. Never: changes or delays a byte, influences a request, stores a
//! session id.

mod cause;
mod event;
mod idle_timers;
mod key;
mod packet;
mod probe;
pub mod report;
mod session;
mod session_table;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::telemetry::Metrics;

pub use cause::{Cause, TimerSide};
pub use event::{EventKind, SessionEvent, SocketEnded};
pub use key::SessionKey;
pub use probe::{RequestOutcome, RequestProbe};
pub use session_table::SessionTable;

/// Limit on events that a worker has not handed over yet.
const MAX_PENDING_EVENTS: usize = 8192;

/// Delay before pending events are handed over, so that they go in batches.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// Limit on batches that the session table has not received yet, over all workers.
const MAX_BATCHES: usize = 8;

/// Interval between sweeps of the session table.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Channel from the workers to the session table.
#[must_use]
pub fn event_channel() -> (Sender<Vec<SessionEvent>>, Receiver<Vec<SessionEvent>>) {
    channel(MAX_BATCHES)
}

/// Pending events of one worker.
pub struct EventSink {
    pending: RefCell<Vec<SessionEvent>>,
    wake: Notify,
    out: Sender<Vec<SessionEvent>>,
    metrics: Arc<Metrics>,
}

impl EventSink {
    /// An empty sink that hands over to `out`.
    #[must_use]
    pub fn new(out: Sender<Vec<SessionEvent>>, metrics: Arc<Metrics>) -> Rc<Self> {
        Rc::new(Self { pending: RefCell::default(), wake: Notify::new(), out, metrics })
    }

    /// Adds an event. When the sink is half full, successful polls are dropped, because they only
    /// show that a session is alive; when it is full, all events are.
    pub fn record(&self, event: SessionEvent) {
        let mut pending = self.pending.borrow_mut();
        let plain = matches!(event.what, EventKind::Polled(polled) if polled.reason.is_none());
        if pending.len() >= MAX_PENDING_EVENTS || (plain && pending.len() >= MAX_PENDING_EVENTS / 2)
        {
            self.metrics.socketio.count_dropped_events(1);
            return;
        }
        pending.push(event);
        if pending.len() == 1 {
            self.wake.notify_one();
        }
    }

    /// Hands over pending events in batches. Returns when the receiver is gone.
    pub async fn run(self: Rc<Self>) {
        loop {
            self.wake.notified().await;
            tokio::time::sleep(FLUSH_INTERVAL).await;
            // The receiver was dropped, because the process ends.
            let Ok(place) = self.out.reserve().await else { return };
            place.send(self.pending.take());
        }
    }
}

/// Feeds the session table with events and sweeps it regularly. Returns when all senders are gone.
pub async fn keep_table(
    table: Rc<RefCell<SessionTable>>,
    mut batches: Receiver<Vec<SessionEvent>>,
) {
    let mut swept = Instant::now();
    loop {
        let empty = table.borrow().is_empty();
        tokio::select! {
            events = batches.recv() => match events {
                Some(events) => table.borrow_mut().record(events, Instant::now()),
                None => return,
            },
            () = tokio::time::sleep(SWEEP_INTERVAL), if !empty => {}
        }
        let now = Instant::now();
        if now.saturating_duration_since(swept) >= SWEEP_INTERVAL {
            swept = now;
            table.borrow_mut().sweep(now);
        }
    }
}
