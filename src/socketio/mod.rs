//! What becomes of Socket.IO sessions: from polling to a WebSocket, or why not.
//!
//! ```text
//! each worker: request -> Ticket -> Event -> Lens ─┐
//!                                                  ├─> Book (control runtime) -> report, metrics
//! each worker: …                                   ┘
//! ```
//!
//! In: heads, and bodies as they pass. Out: for each session one state, and for each that stays on
//! polling one [`Cause`]. Never: changes or delays a byte, decides about a request, keeps the id of a
//! session.

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

/// Most that is noticed and not handed over yet, per worker.
const MAX_PENDING_EVENTS: usize = 8192;

/// What is noticed is handed over after this time.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// Batches on their way, of all workers.
const MAX_BATCHES: usize = 8;

/// How often the book is looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Workers' end and the book's end of what is noticed.
#[must_use]
pub fn path() -> (Sender<Vec<SessionEvent>>, Receiver<Vec<SessionEvent>>) {
    channel(MAX_BATCHES)
}

/// What a worker has noticed, until it is handed over.
pub struct EventSink {
    noticed: RefCell<Vec<SessionEvent>>,
    something: Notify,
    out: Sender<Vec<SessionEvent>>,
    metrics: Arc<Metrics>,
}

impl EventSink {
    /// One that hands over to `out`.
    #[must_use]
    pub fn new(out: Sender<Vec<SessionEvent>>, metrics: Arc<Metrics>) -> Rc<Self> {
        Rc::new(Self { noticed: RefCell::default(), something: Notify::new(), out, metrics })
    }

    /// Takes note. If there is too much of it, polls that went well go first: they say only that a
    /// session lives.
    pub fn note(&self, event: SessionEvent) {
        let mut noticed = self.noticed.borrow_mut();
        let plain = matches!(event.what, EventKind::Polled(polled) if polled.reason.is_none());
        if noticed.len() >= MAX_PENDING_EVENTS || (plain && noticed.len() >= MAX_PENDING_EVENTS / 2)
        {
            self.metrics.socketio.skipped_events(1);
            return;
        }
        noticed.push(event);
        if noticed.len() == 1 {
            self.something.notify_one();
        }
    }

    /// Hands over what is noticed, for as long as it is polled.
    pub async fn run(self: Rc<Self>) {
        loop {
            self.something.notified().await;
            tokio::time::sleep(FLUSH_INTERVAL).await;
            // Nobody there any more: the process ends.
            let Ok(place) = self.out.reserve().await else { return };
            place.send(self.noticed.take());
        }
    }
}

/// Keeps the book, for as long as it is polled.
pub async fn keep(book: Rc<RefCell<SessionTable>>, mut noticed: Receiver<Vec<SessionEvent>>) {
    let mut swept = Instant::now();
    loop {
        let empty = book.borrow().is_empty();
        tokio::select! {
            events = noticed.recv() => match events {
                Some(events) => book.borrow_mut().fold(events, Instant::now()),
                None => return,
            },
            () = tokio::time::sleep(SWEEP_INTERVAL), if !empty => {}
        }
        let now = Instant::now();
        if now.saturating_duration_since(swept) >= SWEEP_INTERVAL {
            swept = now;
            book.borrow_mut().sweep(now);
        }
    }
}
