//! The queue of the operational log, and the thread that writes it to standard error.
//!
//! A worker or the control runtime must never wait for the reader of standard error, because a pipe
//! without a reader would then stop the gateway. Lines go through a queue that is bounded in lines
//! and bytes; a line that does not fit is dropped and counted.
//!
//! In: whole lines. Out: the same lines on standard error, in their order.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Lines in the queue, at most.
const MAX_QUEUED_LINES: usize = 4096;
/// Bytes in the queue, at most. One line may be longer if the queue is empty.
const MAX_QUEUED_BYTES: usize = 1 << 20;
/// Interval between two attempts to write to a non-blocking descriptor.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// Interval at which [`LogQueue::finish`] checks whether the queue is empty.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Sending end of the queue; clones share it.
#[derive(Clone)]
pub(super) struct LogQueue {
    sender: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Lines queued or being written.
    pending_lines: AtomicU64,
    /// Bytes of the pending lines.
    pending_bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl LogQueue {
    /// Starts the thread that writes to standard error.
    ///
    /// # Errors
    ///
    /// If no thread can be started, or standard error is closed.
    pub(super) fn start() -> io::Result<Self> {
        // Uses a descriptor of its own, because other threads would wait for the lock of
        // `io::stderr()`.
        Self::start_on(File::from(io::stderr().as_fd().try_clone_to_owned()?))
    }

    fn start_on(file: impl Write + Send + 'static) -> io::Result<Self> {
        let (sender, lines) = sync_channel(MAX_QUEUED_LINES);
        let counts = Arc::<Counts>::default();
        let writer = Writer { file, counts: Arc::clone(&counts) };
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&lines))?;
        Ok(Self { sender, counts })
    }

    /// Queues a line with its end. Never waits.
    pub(super) fn push(&self, line: Vec<u8>) {
        let length = line.len();
        let counts = &*self.counts;
        let before = counts.pending_bytes.fetch_add(length, Ordering::AcqRel);
        counts.pending_lines.fetch_add(1, Ordering::AcqRel);
        let fits = before == 0 || before.saturating_add(length) <= MAX_QUEUED_BYTES;
        if !fits || self.sender.try_send(line).is_err() {
            counts.settle(length);
            counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines lost so far.
    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Waits until the queued lines are written, at most `limit`.
    pub(super) fn finish(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.counts.pending_lines.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Counts {
    /// Removes a line of `length` bytes from the pending counts.
    fn settle(&self, length: usize) {
        self.pending_bytes.fetch_sub(length, Ordering::AcqRel);
        self.pending_lines.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Writer<W> {
    file: W,
    counts: Arc<Counts>,
}

impl<W: Write> Writer<W> {
    fn run(mut self, lines: &Receiver<Vec<u8>>) {
        let mut reported = 0;
        while let Ok(line) = lines.recv() {
            if write_line(&mut self.file, &line).is_err() {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
            self.counts.settle(line.len());
            let dropped = self.counts.dropped.load(Ordering::Relaxed);
            // Waits for an empty queue, so that the report is not dropped as well.
            if dropped > reported && self.counts.pending_lines.load(Ordering::Acquire) == 0 {
                tracing::warn!(
                    "{} lines of this log were dropped: standard error did not take them in time",
                    dropped - reported
                );
                reported = dropped;
            }
        }
    }
}

fn write_line(file: &mut impl Write, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process that shares the descriptor has set `O_NONBLOCK`.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(RETRY_INTERVAL);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writer of one event into the queue. The formatter passes a whole line at a time.
pub(super) struct QueueWriter(pub(super) Option<LogQueue>);

impl Write for QueueWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(queue) = &self.0 {
            queue.push(bytes.to_vec());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn line(number: usize) -> Vec<u8> {
        format!("line {number}\n").into_bytes()
    }

    #[test]
    fn lines_are_written_in_their_order_before_the_end() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = LogQueue::start_on(writer).unwrap();
        (0..100).for_each(|number| queue.push(line(number)));
        queue.finish(Duration::from_secs(20));
        assert_eq!(queue.dropped(), 0);
        drop(queue);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let all: Vec<u8> = (0..100).flat_map(line).collect();
        assert_eq!(text.as_bytes(), all);
    }

    #[test]
    fn a_pipe_that_nobody_reads_makes_nobody_wait() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = LogQueue::start_on(writer).unwrap();
        let many = 50_000;
        (0..many).for_each(|number| queue.push(line(number)));
        queue.finish(Duration::from_millis(20));
        let dropped = queue.dropped();
        assert!(dropped > 0);
        // The line that does not fit is dropped; a new reader receives the others.
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text.lines().count() as u64).unwrap()
        });
        queue.finish(Duration::from_secs(20));
        drop(queue);
        assert_eq!(reading.join().unwrap() + dropped, many as u64);
    }

    #[test]
    fn the_queue_is_bounded_in_bytes() {
        let (_reader, writer) = io::pipe().unwrap();
        let queue = LogQueue::start_on(writer).unwrap();
        (0..64).for_each(|_| queue.push(vec![b'x'; MAX_QUEUED_BYTES / 8]));
        assert!(queue.dropped() >= 64 - 9, "{}", queue.dropped());
        assert!(queue.counts.pending_bytes.load(Ordering::Acquire) <= MAX_QUEUED_BYTES);
    }
}
