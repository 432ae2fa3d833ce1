//! The access log: one line per request, written by a thread of its own.
//!
//! A worker formats a line into its own buffer and hands full buffers over a bounded queue. If the
//! writer does not keep up, buffers are dropped and their lines counted: a slow disk must not
//! become slow chats.
//!
//! In: [`LogEvent`]s. Out: whole lines, in a file or on standard output; every line is either written
//! or counted as dropped. Never: syncs to disk, or makes a request wait.

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

/// A buffer this large, in bytes, is handed over at once.
const BATCH_SIZE: usize = 32 * 1024;
/// A line waits at most this long in its worker.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
/// How often a log that does not keep up is looked at.
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the last lines may take when the process ends.
const SHUTDOWN_FLUSH: Duration = Duration::from_secs(2);

/// What becomes of lines.
#[derive(Clone)]
pub struct LineCounts {
    /// They were written.
    pub written: IntCounter,
    /// They were lost.
    pub dropped: IntCounter,
}

/// The writer's end.
pub struct AccessLogWriter {
    target: LogTarget,
    style: LineStyle,
    writer: Option<LogWriter>,
    /// Those that still write what they were handed.
    retired: Vec<RetiredWriter>,
    tally: LineTally,
    current: CurrentFile,
}

/// What a [`LogReopener`] finds the file by.
type CurrentFile = Arc<Mutex<Option<(PathBuf, WriterCommands, Weak<SyncSender<LineBatch>>)>>>;

/// What is counted about lines.
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
    /// As configured.
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

    /// What opens another log to take this one's place.
    #[must_use]
    pub fn opener(&self) -> LogOpener {
        LogOpener { target: self.target.clone(), counts: self.tally.counts.clone() }
    }

    /// Writes as configured from now on; `writer` is what its [`LogOpener`] has opened. Whether workers
    /// need new handles.
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
            let (orders, sender) = writer.ways();
            (path.clone(), orders, sender)
        });
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
        true
    }

    /// What a worker thread makes its end from.
    #[must_use]
    pub fn handle(&self) -> LogHandle {
        let pipe = self.writer.as_ref().map(LogWriter::pipe);
        LogHandle { pipe, style: self.style.clone(), tally: self.tally.clone() }
    }

    /// What opens its file anew.
    #[must_use]
    pub fn reopener(&self) -> LogReopener {
        LogReopener(Arc::clone(&self.current))
    }

    /// Says when lines are lost because the writer does not keep up, and when that is over. For
    /// ever; belongs on a thread that may wait for the operational log.
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
                            "the access log does not keep up: lines are dropped and counted, requests go on"
                        );
                        since = Some(before);
                    }
                    Some(first) if now == before => {
                        tracing::warn!(
                            "the access log keeps up again; {} lines were lost",
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

    /// Waits until everything handed over has been written, but not for ever. All [`WorkerLines`] must be
    /// gone by then.
    pub fn finish(mut self) {
        self.retired.extend(self.writer.take().map(LogWriter::retire));
        // One time limit for all: each may be a pipe that nobody reads.
        let deadline = Instant::now() + SHUTDOWN_FLUSH;
        let left = || deadline.saturating_duration_since(Instant::now());
        let lost: u64 = self.retired.drain(..).map(|retired| retired.finish(left())).sum();
        if lost > 0 {
            tracing::error!(
                "the access log did not take its last {lost} lines in time; they are lost"
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

/// Opens a log that is to take the place of another.
pub struct LogOpener {
    /// Where the present one goes.
    target: LogTarget,
    counts: LineCounts,
}

impl LogOpener {
    /// What the present log lacks to be as configured. `None`: nothing, or there is to be none.
    /// Blocks for as long as the system takes to open a file.
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

/// Opens the log's file anew, after something has moved it away.
pub struct LogReopener(CurrentFile);

impl LogReopener {
    /// Opens the file under its name, and creates it if need be; what is written from now on goes
    /// there. Without a file there is nothing to do. Blocks for as long as the system takes to open
    /// a file.
    ///
    /// # Errors
    ///
    /// A sentence; the log goes on where it was.
    pub fn reopen(&self) -> Result<(), String> {
        let current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((path, orders, sender)) = &*current else { return Ok(()) };
        let file = sink::append(path, None).map_err(|error| {
            format!(
                "the access log {} cannot be opened anew, and goes on where it was: {error}",
                path.display()
            )
        })?;
        orders.lock().unwrap_or_else(PoisonError::into_inner).file = Some(file);
        if let Some(sender) = sender.upgrade() {
            // So that the old file is let go at once. If the queue is full, the writer is awake.
            let _ = sender.try_send(LineBatch::default());
        }
        Ok(())
    }
}

/// A worker's way to the writer, before the worker has it.
pub struct LogHandle {
    pipe: Option<LogQueue>,
    style: LineStyle,
    tally: LineTally,
}

/// What lines go through.
#[derive(Clone)]
struct LogQueue {
    sender: SyncSender<LineBatch>,
    /// Lines in the queue.
    waiting: Arc<AtomicU64>,
}

impl LogHandle {
    /// The worker's end.
    #[must_use]
    pub fn lines(self) -> Rc<WorkerLines> {
        Rc::new(WorkerLines {
            to: RefCell::new(self),
            buffer: RefCell::default(),
            begun: Notify::new(),
        })
    }
}

/// A worker's lines on their way to the writer.
pub struct WorkerLines {
    to: RefCell<LogHandle>,
    buffer: RefCell<LineBatch>,
    begun: Notify,
}

impl WorkerLines {
    /// Adds the line of an event.
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

    /// Writes to another log from now on.
    pub fn change(&self, to: LogHandle) {
        self.flush();
        *self.to.borrow_mut() = to;
    }

    /// Hands over what there is.
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

    /// Flushes a moment after lines come in, for ever; a worker runs this as one of its tasks.
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
