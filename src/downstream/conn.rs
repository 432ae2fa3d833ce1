//! A client's HTTP/1 connection: waiting for heads, reading ahead, closing without losing the answer.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::MAX_READS_PER_POLL;
use crate::message::Reason;
use crate::message::request::judge_line;
use crate::message::scan::{HeadProgress, HeadScanner};
use crate::net::{Io, Timer, WorkerLocal, WriteBuffer};

/// Bytes read ahead while an answer is awaited: pipelined requests, early `WebSocket` frames.
const READ_AHEAD: usize = 64 * 1024;
/// How long what a client still sends is read after the connection has been closed for writing.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// What a head may take.
pub(crate) struct HeadLimits {
    /// Until it begins.
    pub(crate) keep_alive: Duration,
    /// From its first byte to its last.
    pub(crate) header: Duration,
    /// Bytes.
    pub(crate) size: usize,
}

/// A client's connection.
pub(crate) struct Conn<T> {
    pub(crate) io: T,
    pub(crate) input: BytesMut,
    pub(crate) out: WriteBuffer,
    pub(crate) timer: Timer,
    pub(crate) local: Rc<WorkerLocal>,
    /// When the first byte of the present head came.
    pub(crate) head_began: Option<Instant>,
}

impl<T: Io> Conn<T> {
    /// A connection that has not said anything yet.
    pub(crate) fn new(io: T, local: &Rc<WorkerLocal>) -> Self {
        Self {
            io,
            input: BytesMut::new(),
            out: WriteBuffer::new(),
            timer: local.clock.timer(),
            local: Rc::clone(local),
            head_began: None,
        }
    }

    /// Waits for a whole head; `None` if the client closed or the worker drains before one began.
    ///
    /// `closes_idle_connections` says whether one that has not begun is no longer
    /// waited for.
    ///
    /// # Errors
    ///
    /// What is wrong with the head or its sender.
    pub(crate) async fn read_head(
        &mut self,
        limits: &HeadLimits,
        closes_idle_connections: &dyn Fn() -> bool,
    ) -> Result<Option<Bytes>, Reason> {
        let mut scanner = HeadScanner::default();
        let (mut begun, mut judged) = (false, false);
        self.head_began = None;
        self.timer.set(limits.keep_alive);
        poll_fn(|cx| {
            loop {
                // RFC 9112 section 2.2: an empty line before the request line is ignored.
                while self.input.starts_with(b"\r\n") {
                    self.input.advance(2);
                }
                if !self.input.is_empty() && !std::mem::replace(&mut begun, true) {
                    self.timer.set(limits.header);
                    self.head_began = Some(Instant::now());
                }
                match scanner.scan(&self.input) {
                    HeadProgress::Ends(end) if end > limits.size => {
                        return Poll::Ready(Err(Reason::HeaderTooLarge));
                    }
                    HeadProgress::Ends(end) => {
                        let head = self.input.split_to(end).freeze();
                        if self.input.is_empty() {
                            self.input = BytesMut::new();
                        }
                        return Poll::Ready(Ok(Some(head)));
                    }
                    HeadProgress::BareLf => return Poll::Ready(Err(Reason::BareLf)),
                    HeadProgress::Partial if self.input.len() > limits.size => {
                        return Poll::Ready(Err(Reason::HeaderTooLarge));
                    }
                    HeadProgress::Partial => {}
                }
                if let Some(line) = scanner.first_line(&self.input).filter(|_| !judged) {
                    judge_line(line)?;
                    judged = true;
                }
                match self.poll_fill(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => {
                        return Poll::Ready(if begun { Err(Reason::ClientGone) } else { Ok(None) });
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            let due = self.timer.poll(cx).is_ready();
            match (begun, due || (!begun && closes_idle_connections())) {
                (_, false) => Poll::Pending,
                (true, true) => Poll::Ready(Err(Reason::HeaderTimeout)),
                (false, true) => Poll::Ready(Ok(None)),
            }
        })
        .await
    }

    /// Reads once into `input`.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (io, input) = (&mut self.io, &mut self.input);
        self.local.with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
            input.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// Sends what is staged, within the time a client may take.
    ///
    /// # Errors
    ///
    /// The client's socket's, or that time ran out.
    pub(crate) async fn flush(&mut self, within: Duration) -> io::Result<()> {
        if self.out.is_empty() && self.try_flush().await? {
            return Ok(());
        }
        self.timer.set(within);
        poll_fn(|cx| match self.out.poll_flush(cx, &mut self.io) {
            Poll::Pending if self.timer.poll(cx).is_ready() => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            other => other,
        })
        .await
    }

    async fn try_flush(&mut self) -> io::Result<bool> {
        poll_fn(|cx| match self.out.poll_flush(cx, &mut self.io) {
            Poll::Ready(done) => Poll::Ready(done.map(|()| true)),
            Poll::Pending => Poll::Ready(Ok(false)),
        })
        .await
    }

    /// Sends what is staged, says that nothing follows, and reads on for a moment.
    pub(crate) async fn linger(&mut self, within: Duration) {
        if self.flush(within).await.is_err() {
            return;
        }
        self.timer.set(LINGER_TIMEOUT);
        poll_fn(|cx| {
            if Pin::new(&mut self.io).poll_shutdown(cx).is_pending() {
                return self.timer.poll(cx);
            }
            for _ in 0..MAX_READS_PER_POLL {
                self.input.clear();
                match self.poll_fill(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => return self.timer.poll(cx),
                }
            }
            cx.waker().wake_by_ref();
            self.timer.poll(cx)
        })
        .await;
    }

    /// Closes the connection for writing; a client that takes nothing is not waited for.
    pub(crate) async fn close(&mut self) {
        self.timer.set(LINGER_TIMEOUT);
        poll_fn(|cx| match Pin::new(&mut self.io).poll_shutdown(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => self.timer.poll(cx),
        })
        .await;
    }

    /// Ready when the client has closed. Reads ahead, up to a limit, to find out.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.len() < READ_AHEAD {
            if matches!(ready!(self.poll_fill(cx)), Ok(0) | Err(_)) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}
