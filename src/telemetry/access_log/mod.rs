//! Access log: one line per request, written by a thread of its own.
//!
//! A worker formats lines into its own buffer and sends full buffers through a bounded queue. If
//! the writer falls behind, buffers are dropped and their lines counted, so that a slow disk cannot
//! delay requests.
//!
//! In: [`LogEvent`]s. Out: whole lines, in a file or on standard output; every line is either
//! written or counted as dropped. Never: syncs to disk, or makes a request wait.

mod sink;
mod writer;

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use tokio::sync::Notify;

use crate::config::{self, LogTarget};

use super::line::{LineStyle, LogEvent};
use super::mask::QueryMask;
use super::timestamp::TimestampCache;

pub use writer::LogWriter;
use writer::{LineBatch, RetiredWriter, WriterCommands};

/// Size from which a worker's buffer is sent at once, in bytes.
const BATCH_SIZE: usize = 32 * 1024;
/// Longest time that a line waits in its worker.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
/// Interval at which a log that falls behind is checked.
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit for writing the last lines when the process ends.
const SHUTDOWN_FLUSH: Duration = Duration::from_secs(2);

/// Counters for written and dropped lines.
#[derive(Clone)]
pub struct LineCounts {
    /// Lines written.
    pub written: IntCounter,
    /// Lines dropped.
    pub dropped: IntCounter,
}

/// The access log of the process: current writer, retired writers and counters.
pub struct AccessLogWriter {
    target: LogTarget,
    style: LineStyle,
    writer: Option<LogWriter>,
    /// Replaced writers that still write their queued lines.
    retired: Vec<RetiredWriter>,
    tally: LineTally,
    current: CurrentFile,
}

/// File path and channels to its writer, shared with [`LogReopener`].
type CurrentFile = Arc<Mutex<Option<(PathBuf, WriterCommands, Weak<SyncSender<LineBatch>>)>>>;

/// Line counters, with the part that explains a full queue.
#[derive(Clone)]
struct LineTally {
    counts: LineCounts,
    /// Lines lost because the queue was full.
    overflowed: Arc<AtomicU64>,
}

impl LineTally {
    fn overflow(&self, lines: u64) {
        self.counts.dropped.inc_by(lines);
        self.overflowed.fetch_add(lines, Ordering::Relaxed);
    }
}

impl AccessLogWriter {
    /// Opens the log as configured.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened for appending, or no thread can be started.
    pub fn open(config: &config::AccessLog, counts: LineCounts) -> io::Result<Self> {
        let mut log = Self {
            target: LogTarget::Off,
            style: style(config),
            writer: None,
            retired: Vec::new(),
            tally: LineTally { counts, overflowed: Arc::default() },
            current: CurrentFile::default(),
        };
        let writer = log.opener().open(config)?;
        log.change(config, writer);
        Ok(log)
    }

    /// Returns the opener for a replacement of this log.
    #[must_use]
    pub fn opener(&self) -> LogOpener {
        LogOpener { target: self.target.clone(), counts: self.tally.counts.clone() }
    }

    /// Applies a new configuration; `writer` is the result of this log's [`LogOpener`]. Returns
    /// `true` if workers need new handles.
    pub fn change(&mut self, config: &config::AccessLog, writer: Option<LogWriter>) -> bool {
        let style = style(config);
        if style == self.style && config.target == self.target && writer.is_none() {
            return false;
        }
        self.style = style;
        if !same_place(&self.target, &config.target) {
            self.retired.retain(|retired| !retired.is_finished());
            self.retired.extend(self.writer.take().map(LogWriter::retire));
            self.writer = writer;
        } else if let (Some(writer), LogTarget::File { rotation, .. }) =
            (&self.writer, &config.target)
        {
            writer.rotate_by(*rotation);
        }
        self.target = config.target.clone();
        let current = self.writer.as_ref().zip(path_of(&self.target)).map(|(writer, path)| {
            let (orders, sender) = writer.channels();
            (path.clone(), orders, sender)
        });
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
        true
    }

    /// Returns a handle to send to a worker thread.
    #[must_use]
    pub fn handle(&self) -> LogHandle {
        let pipe = self.writer.as_ref().map(LogWriter::pipe);
        LogHandle { pipe, style: self.style.clone(), tally: self.tally.clone() }
    }

    /// Returns the reopener of the log's file.
    #[must_use]
    pub fn reopener(&self) -> LogReopener {
        LogReopener(Arc::clone(&self.current))
    }

    /// Logs when lines are dropped because the writer falls behind, and when it has caught up.
    /// Never ends; must run on a thread that may wait for the operational log.
    pub fn watch(&self) -> impl Future<Output = ()> + 'static {
        let overflowed = Arc::clone(&self.tally.overflowed);
        async move {
            let (mut before, mut since) = (0, None);
            loop {
                tokio::time::sleep(STALL_CHECK_INTERVAL).await;
                let now = overflowed.load(Ordering::Relaxed);
                match since {
                    None if now > before => {
                        tracing::error!(
                            "the access log falls behind: lines are dropped and counted, requests are not delayed"
                        );
                        since = Some(before);
                    }
                    Some(first) if now == before => {
                        tracing::warn!(
                            "the access log has caught up; {} lines were lost",
                            now - first
                        );
                        since = None;
                    }
                    _ => {}
                }
                before = now;
            }
        }
    }

    /// Waits until all queued lines are written, up to a time limit. All [`WorkerLines`] must have
    /// been dropped before.
    pub fn finish(mut self) {
        self.retired.extend(self.writer.take().map(LogWriter::retire));
        // One time limit for all writers, because each may write to a pipe without a reader.
        let deadline = Instant::now() + SHUTDOWN_FLUSH;
        let left = || deadline.saturating_duration_since(Instant::now());
        let lost: u64 = self.retired.drain(..).map(|retired| retired.finish(left())).sum();
        if lost > 0 {
            tracing::error!(
                "the last {lost} lines of the access log were not written in time and are lost"
            );
        }
    }
}

fn style(config: &config::AccessLog) -> LineStyle {
    LineStyle { format: config.format, mask: QueryMask::new(&config.mask, &config.mask_path) }
}

fn path_of(target: &LogTarget) -> Option<&PathBuf> {
    if let LogTarget::File { path, .. } = target { Some(path) } else { None }
}

fn same_place(a: &LogTarget, b: &LogTarget) -> bool {
    match (a, b) {
        (LogTarget::File { path, .. }, LogTarget::File { path: other, .. }) => path == other,
        _ => a == b,
    }
}

/// Opens a log that replaces the current one.
pub struct LogOpener {
    /// Target of the current log.
    target: LogTarget,
    counts: LineCounts,
}

impl LogOpener {
    /// Opens a writer for the configured target. `None`: the current writer stays, or the log is
    /// off. Blocks while the system opens a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened for appending, or no thread can be started.
    pub fn open(&self, config: &config::AccessLog) -> io::Result<Option<LogWriter>> {
        if same_place(&self.target, &config.target) {
            return Ok(None);
        }
        LogWriter::open(&config.target, self.counts.clone())
    }
}

/// Reopens the log's file after another program has moved it away.
pub struct LogReopener(CurrentFile);

impl LogReopener {
    /// Opens the file by its name, and creates it if necessary; later lines go there. Does nothing
    /// if the log is not a file. Blocks while the system opens a file.
    ///
    /// # Errors
    ///
    /// A sentence for the operator; the log continues in the old file.
    pub fn reopen(&self) -> Result<(), String> {
        let current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((path, orders, sender)) = &*current else { return Ok(()) };
        let file = sink::append(path, None).map_err(|error| {
            format!(
                "the access log {} cannot be reopened; lines still go to the old file: {error}",
                path.display()
            )
        })?;
        orders.lock().unwrap_or_else(PoisonError::into_inner).file = Some(file);
        if let Some(sender) = sender.upgrade() {
            // Closes the old file at once. If the queue is full, the writer is already awake.
            let _ = sender.try_send(LineBatch::default());
        }
        Ok(())
    }
}

/// Handle to the writer, before a worker owns it.
pub struct LogHandle {
    pipe: Option<LineSender>,
    style: LineStyle,
    tally: LineTally,
}

/// Sending end of the queue to the writer.
#[derive(Clone)]
struct LineSender {
    sender: SyncSender<LineBatch>,
    /// Lines in the queue.
    waiting: Arc<AtomicU64>,
}

impl LogHandle {
    /// Creates the worker's end. Must be called on the worker thread.
    #[must_use]
    pub fn lines(self) -> Rc<WorkerLines> {
        Rc::new(WorkerLines {
            to: RefCell::new(self),
            buffer: RefCell::default(),
            begun: Notify::new(),
        })
    }
}

/// Line buffer of a worker.
pub struct WorkerLines {
    to: RefCell<LogHandle>,
    buffer: RefCell<LineBatch>,
    begun: Notify,
}

impl WorkerLines {
    /// Appends the line of an event.
    pub fn add(&self, stamp: &TimestampCache, event: &impl LogEvent) {
        let to = self.to.borrow();
        if to.pipe.is_none() {
            return;
        }
        let mut buffer = self.buffer.borrow_mut();
        if buffer.bytes.is_empty() {
            self.begun.notify_one();
        }
        to.style.write(&mut buffer.bytes, stamp, event);
        buffer.bytes.push(b'\n');
        buffer.lines += 1;
        if buffer.bytes.len() >= BATCH_SIZE {
            drop((buffer, to));
            self.flush();
        }
    }

    /// Switches to another log.
    pub fn change(&self, to: LogHandle) {
        self.flush();
        *self.to.borrow_mut() = to;
    }

    /// Sends the buffered lines.
    pub fn flush(&self) {
        let batch = self.buffer.take();
        let to = self.to.borrow();
        let Some(pipe) = to.pipe.as_ref().filter(|_| batch.lines > 0) else { return };
        let lines = batch.lines;
        pipe.waiting.fetch_add(lines, Ordering::Relaxed);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            pipe.sender.try_send(batch)
        {
            pipe.waiting.fetch_sub(lines, Ordering::Relaxed);
            to.tally.overflow(lines);
        }
    }

    /// Flushes shortly after the first buffered line. Never ends; each worker runs it as a task.
    pub async fn run(self: Rc<Self>) {
        loop {
            self.begun.notified().await;
            tokio::time::sleep(FLUSH_INTERVAL).await;
            self.flush();
        }
    }
}

impl Drop for WorkerLines {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests;
