//! Writer thread of the access log, and its queue.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::config::{LogRotation, LogTarget};

use super::sink::LogSink;
use super::{LineCounts, LineSender};

/// Limit for buffers in the queue.
const MAX_QUEUED_BATCHES: usize = 64;

/// Complete lines in one buffer.
#[derive(Default)]
pub(super) struct LineBatch {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

/// Changes that the writer applies before its next write.
#[derive(Default)]
#[expect(clippy::option_option, reason = "no change and no rotation differ")]
pub(super) struct WriterCommand {
    /// A file to switch to.
    pub(super) file: Option<File>,
    /// New rotation settings, if they change.
    rotation: Option<Option<LogRotation>>,
}

pub(super) type WriterCommands = Arc<Mutex<WriterCommand>>;

/// An open log: a thread that writes until all senders are dropped.
pub struct LogWriter {
    pipe: Arc<SyncSender<LineBatch>>,
    waiting: Arc<AtomicU64>,
    orders: WriterCommands,
    done: Receiver<()>,
}

impl LogWriter {
    /// Starts the writer; `None` if the log is off.
    pub(super) fn open(target: &LogTarget, counts: LineCounts) -> io::Result<Option<Self>> {
        let sink = match target {
            LogTarget::Off => return Ok(None),
            LogTarget::Stdout => LogSink::stdout()?,
            LogTarget::File { path, rotation } => LogSink::open(path, *rotation)?,
        };
        Self::start(sink, counts).map(Some)
    }

    fn start(sink: LogSink, counts: LineCounts) -> io::Result<Self> {
        let (sender, batches) = sync_channel(MAX_QUEUED_BATCHES);
        let (ending, done) = channel();
        let (waiting, orders) = (Arc::<AtomicU64>::default(), WriterCommands::default());
        let writer = WriterThread {
            sink,
            counts,
            waiting: Arc::clone(&waiting),
            orders: Arc::clone(&orders),
            lost: None,
        };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run(&batches, ending))?;
        Ok(Self { pipe: Arc::new(sender), waiting, orders, done })
    }

    pub(super) fn pipe(&self) -> LineSender {
        LineSender { sender: SyncSender::clone(&self.pipe), waiting: Arc::clone(&self.waiting) }
    }

    /// Channels for commands; the sender is weak, so that it does not keep the thread alive.
    pub(super) fn channels(&self) -> (WriterCommands, Weak<SyncSender<LineBatch>>) {
        (Arc::clone(&self.orders), Arc::downgrade(&self.pipe))
    }

    pub(super) fn rotate_by(&self, rotation: Option<LogRotation>) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).rotation = Some(rotation);
    }

    /// Closes the queue; the thread writes the remaining lines.
    pub(super) fn retire(self) -> RetiredWriter {
        RetiredWriter { waiting: self.waiting, done: self.done }
    }
}

/// A closed log that writes its remaining lines.
pub(super) struct RetiredWriter {
    waiting: Arc<AtomicU64>,
    done: Receiver<()>,
}

impl RetiredWriter {
    pub(super) fn is_finished(&self) -> bool {
        self.done.recv_timeout(Duration::ZERO) == Err(RecvTimeoutError::Disconnected)
    }

    /// Waits for the last line, at most `within`. Returns the number of lines not written.
    pub(super) fn finish(self, within: Duration) -> u64 {
        match self.done.recv_timeout(within) {
            Err(RecvTimeoutError::Disconnected) => 0,
            _ => self.waiting.load(Ordering::Relaxed),
        }
    }
}

struct WriterThread {
    sink: LogSink,
    counts: LineCounts,
    waiting: Arc<AtomicU64>,
    orders: WriterCommands,
    /// Set while writing fails: lines dropped so far, and the time of the first failure.
    lost: Option<(u64, Instant)>,
}

impl WriterThread {
    /// Runs the thread. Dropping `_ending` at the end signals that it has finished.
    fn run(mut self, batches: &Receiver<LineBatch>, _ending: Sender<()>) {
        while let Ok(batch) = batches.recv() {
            self.apply_command();
            if batch.lines == 0 {
                continue;
            }
            let unfinished = self.sink.unfinished();
            let lost = match self.sink.write(&batch.bytes, batch.lines) {
                Ok(()) => {
                    self.recovered();
                    0
                }
                Err((lost, error)) => {
                    self.failed(lost, &error);
                    lost
                }
            };
            let settled = batch.lines - lost + unfinished;
            self.counts.written.inc_by(settled.saturating_sub(self.sink.unfinished()));
            self.waiting.fetch_sub(batch.lines, Ordering::Relaxed);
        }
        self.counts.dropped.inc_by(self.sink.give_up());
    }

    fn apply_command(&mut self) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let WriterCommand { file, rotation } = std::mem::take(&mut *orders);
        drop(orders);
        if let Some(rotation) = rotation {
            self.sink.rotate_by(rotation);
        }
        if let Some(file) = file {
            self.sink.take(file);
        }
    }

    fn failed(&mut self, lost: u64, error: &io::Error) {
        self.counts.dropped.inc_by(lost);
        if let Some((so_far, _)) = &mut self.lost {
            *so_far += lost;
            return;
        }
        self.lost = Some((lost, Instant::now()));
        tracing::error!(
            "the access log {} cannot be written: {error}; lines are dropped and counted until it can",
            self.sink.name()
        );
    }

    fn recovered(&mut self) {
        let Some((lost, since)) = self.lost.take() else { return };
        tracing::warn!(
            "the access log {} is written again after {} s; {lost} lines were lost",
            self.sink.name(),
            since.elapsed().as_secs()
        );
    }
}
