//! The access log: one JSON object per line, written by a thread of its own.
//!
//! A worker formats a line into its own buffer and hands full buffers over a bounded queue. If the
//! writer does not keep up, buffers are dropped and their lines counted: a slow disk must not
//! become slow chats.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::Notify;

/// Buffers that may wait for the writer.
const QUEUE: usize = 64;
/// A buffer this large, in bytes, is handed over at once.
const FULL: usize = 32 * 1024;
/// A line waits at most this long in its worker.
const FLUSH: Duration = Duration::from_millis(200);

/// What becomes of lines.
#[derive(Clone)]
pub struct Counts {
    /// They were written.
    pub written: IntCounter,
    /// They were lost.
    pub dropped: IntCounter,
}

/// The writer's end.
pub struct AccessLog {
    sender: Option<Arc<SyncSender<Batch>>>,
    writer: Option<JoinHandle<()>>,
    counts: Counts,
    /// The file it goes to, and one that is to take its place.
    file: Option<(PathBuf, Next)>,
}

/// A file that the writer takes up before it writes again.
type Next = Arc<Mutex<Option<File>>>;

struct Batch {
    bytes: Vec<u8>,
    lines: u64,
}

impl AccessLog {
    /// No access log.
    #[must_use]
    pub fn off(counts: Counts) -> Self {
        Self { sender: None, writer: None, counts, file: None }
    }

    /// To standard output.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn stdout(counts: Counts) -> io::Result<Self> {
        Self::start(Box::new(io::stdout()), counts, Next::default())
    }

    /// To the end of a file, which is created if need be.
    ///
    /// # Errors
    ///
    /// If it cannot be opened for appending, or no thread can be started.
    pub fn file(path: &Path, counts: Counts) -> io::Result<Self> {
        let next = Next::default();
        let log = Self::start(Box::new(append(path)?), counts, Arc::clone(&next))?;
        Ok(Self { file: Some((path.to_owned(), next)), ..log })
    }

    fn start(sink: Box<dyn Write + Send>, counts: Counts, next: Next) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let own = counts.clone();
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&receiver, sink, &own, &next))?;
        let sender = Some(Arc::new(sender));
        Ok(Self { sender, writer: Some(writer), counts, file: None })
    }

    /// What a worker thread makes its end from.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { sender: self.sender.as_deref().cloned(), dropped: self.counts.dropped.clone() }
    }

    /// What opens its file anew.
    #[must_use]
    pub fn reopener(&self) -> Reopener {
        let sender = self.sender.as_ref().map(Arc::downgrade).unwrap_or_default();
        Reopener { file: self.file.clone(), sender }
    }

    /// Waits until everything handed over has been written. All [`Lines`] must be gone by then.
    pub fn finish(mut self) {
        self.sender = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Opens the log's file anew, after something has moved it away.
pub struct Reopener {
    file: Option<(PathBuf, Next)>,
    /// Weak, so that it does not keep the writer waiting for more.
    sender: Weak<SyncSender<Batch>>,
}

impl Reopener {
    /// Opens the file under its name, and creates it if need be; what is written from now on goes
    /// there. Without a file there is nothing to do. Blocks for as long as the system takes to open
    /// a file.
    ///
    /// # Errors
    ///
    /// A sentence; the log goes on where it was.
    pub fn reopen(&self) -> Result<(), String> {
        let Some((path, next)) = &self.file else { return Ok(()) };
        let file = append(path).map_err(|error| {
            format!(
                "the access log {} cannot be opened anew, and goes on where it was: {error}",
                path.display()
            )
        })?;
        *next.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        if let Some(sender) = self.sender.upgrade() {
            // So that the old file is let go at once. If the queue is full, the writer is awake.
            let _ = sender.try_send(Batch { bytes: Vec::new(), lines: 0 });
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// A worker's way to the writer, before the worker runs.
pub struct Handle {
    sender: Option<SyncSender<Batch>>,
    dropped: IntCounter,
}

impl Handle {
    /// The worker's end.
    #[must_use]
    pub fn lines(self) -> Rc<Lines> {
        Rc::new(Lines {
            sender: self.sender,
            dropped: self.dropped,
            buffer: RefCell::default(),
            begun: Notify::new(),
        })
    }
}

fn write_all(
    receiver: &Receiver<Batch>,
    mut sink: Box<dyn Write + Send>,
    counts: &Counts,
    next: &Next,
) {
    while let Ok(batch) = receiver.recv() {
        if let Some(file) = next.lock().unwrap_or_else(PoisonError::into_inner).take() {
            sink = Box::new(file);
        }
        match sink.write_all(&batch.bytes).and_then(|()| sink.flush()) {
            Ok(()) => counts.written.inc_by(batch.lines),
            Err(_) => counts.dropped.inc_by(batch.lines),
        }
    }
}

/// A worker's lines on their way to the writer.
pub struct Lines {
    sender: Option<SyncSender<Batch>>,
    dropped: IntCounter,
    buffer: RefCell<Buffer>,
    begun: Notify,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    lines: u64,
}

impl Lines {
    /// Whether there is a log to write to.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.sender.is_some()
    }

    /// Adds a line; `write` appends it without the line end.
    pub fn add(&self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_on() {
            return;
        }
        let mut buffer = self.buffer.borrow_mut();
        if buffer.bytes.is_empty() {
            self.begun.notify_one();
        }
        write(&mut buffer.bytes);
        buffer.bytes.push(b'\n');
        buffer.lines += 1;
        if buffer.bytes.len() >= FULL {
            drop(buffer);
            self.flush();
        }
    }

    /// Hands over what there is.
    pub fn flush(&self) {
        let Buffer { bytes, lines } = self.buffer.take();
        let Some(sender) = self.sender.as_ref().filter(|_| lines > 0) else { return };
        if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) =
            sender.try_send(Batch { bytes, lines })
        {
            self.dropped.inc_by(batch.lines);
        }
    }

    /// Flushes a moment after lines come in, for ever; a worker runs this as one of its tasks.
    pub async fn run(self: Rc<Self>) {
        loop {
            self.begun.notified().await;
            tokio::time::sleep(FLUSH).await;
            self.flush();
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Appends `"key":"value",` with JSON escapes; bytes that are not UTF-8 become U+FFFD.
pub fn text(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    name(out, key);
    let plain = |b: &u8| (0x20..0x7f).contains(b) && *b != b'"' && *b != b'\\';
    if value.iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(value);
        out.push(b'"');
    } else {
        // Writing to a Vec cannot fail.
        let _ = serde_json::to_writer(&mut *out, &String::from_utf8_lossy(value));
    }
    out.push(b',');
}

/// Appends `"key":number,`.
pub fn number(out: &mut Vec<u8>, key: &str, value: u64) {
    name(out, key);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    out.push(b',');
}

/// Appends `"key":milliseconds,` with three decimals.
pub fn millis(out: &mut Vec<u8>, key: &str, value: Duration) {
    name(out, key);
    let micros = value.as_micros();
    let _ = write!(out, "{}.{:03},", micros / 1000, micros % 1000);
}

fn name(out: &mut Vec<u8>, key: &str) {
    out.push(b'"');
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> Counts {
        let counter = |name| IntCounter::new(name, "lines").unwrap();
        Counts { written: counter("written"), dropped: counter("dropped") }
    }

    #[test]
    fn writes_every_line_before_it_finishes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = AccessLog::file(&path, counts()).unwrap();
        let lines = log.handle().lines();
        for index in 0..5000 {
            lines.add(|out| number(out, "n", index));
        }
        drop(lines);
        let counts = log.counts.clone();
        log.finish();
        let written = std::fs::read_to_string(path).unwrap();
        assert_eq!(written.lines().count() as u64, counts.written.get());
        assert_eq!(counts.written.get() + counts.dropped.get(), 5000);
        assert!(written.starts_with("\"n\":0,\n"));
    }

    #[test]
    fn goes_on_in_a_new_file_when_the_old_one_was_moved() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
        let log = AccessLog::file(&path, counts()).unwrap();
        let (lines, reopener) = (log.handle().lines(), log.reopener());
        lines.add(|out| number(out, "n", 1));
        lines.flush();
        while std::fs::read(&path).unwrap().is_empty() {
            std::thread::yield_now();
        }
        std::fs::rename(&path, &moved).unwrap();
        reopener.reopen().unwrap();
        lines.add(|out| number(out, "n", 2));
        drop((lines, reopener));
        log.finish();
        assert_eq!(std::fs::read_to_string(moved).unwrap(), "\"n\":1,\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "\"n\":2,\n");
    }

    #[test]
    fn stays_where_it_is_if_there_is_no_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("below").join("access.log");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let log = AccessLog::file(&path, counts()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_dir(path.parent().unwrap()).unwrap();
        let said = log.reopener().reopen().unwrap_err();
        assert!(said.contains("goes on where it was"), "{said}");
        log.finish();
    }

    #[test]
    fn counts_what_a_full_disk_loses() {
        let counts = counts();
        let log = AccessLog::file(Path::new("/dev/full"), counts.clone()).unwrap();
        log.handle().lines().add(|out| number(out, "n", 1));
        log.finish();
        assert_eq!((counts.written.get(), counts.dropped.get()), (0, 1));
    }

    #[test]
    fn escapes_what_needs_it() {
        let mut out = Vec::new();
        text(&mut out, "a", b"x\"\\\n\xff");
        text(&mut out, "b", b"plain");
        millis(&mut out, "c", Duration::from_micros(1234));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\"a\":\"x\\\"\\\\\\n\u{fffd}\",\"b\":\"plain\",\"c\":1.234,"
        );
    }
}
