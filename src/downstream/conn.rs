//! HTTP/1 connection of a client: reading request heads, reading ahead, and a lingering close.

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

/// Maximum number of bytes read ahead while a response is pending, such as pipelined requests and
/// early `WebSocket` frames.
const READ_AHEAD: usize = 64 * 1024;
/// Time for which input is still read after the connection was closed for writing.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Limits of a request head.
pub(crate) struct HeadLimits {
    /// Time until the first byte.
    pub(crate) keep_alive: Duration,
    /// Time from the first byte to the last.
    pub(crate) header: Duration,
    /// Size in bytes.
    pub(crate) size: usize,
}

/// Connection of a client, with its input and output buffers.
pub(crate) struct Conn<T> {
    pub(crate) io: T,
    pub(crate) input: BytesMut,
    pub(crate) out: WriteBuffer,
    pub(crate) timer: Timer,
    pub(crate) local: Rc<WorkerLocal>,
    /// Time of the first byte of the current head.
    pub(crate) head_began: Option<Instant>,
}

impl<T: Io> Conn<T> {
    /// A connection with empty buffers.
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

    /// Waits for a complete request head.
    ///
    /// Returns `None` if no head has begun when the client closes, `keep_alive` expires, or
    /// `closes_idle_connections` returns true.
    ///
    /// # Errors
    ///
    /// The reason word of a malformed, oversized or incomplete head.
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
                let empty = scanner.skip_empty_lines(&self.input);
                self.input.advance(empty);
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

    /// Sends the staged output.
    ///
    /// # Errors
    ///
    /// The error of the socket, or `TimedOut` if the client takes longer than `within`.
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

    /// Lingering close: sends the staged output, closes for writing, and reads the remaining input
    /// for [`LINGER_TIMEOUT`], because closing a socket with unread input would reset the
    /// connection and could destroy the response.
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

    /// Closes the connection for writing, for at most [`LINGER_TIMEOUT`].
    pub(crate) async fn close(&mut self) {
        self.timer.set(LINGER_TIMEOUT);
        poll_fn(|cx| match Pin::new(&mut self.io).poll_shutdown(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => self.timer.poll(cx),
        })
        .await;
    }

    /// Ready when the client has closed the connection. Reads up to [`READ_AHEAD`] bytes to notice
    /// it.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.len() < READ_AHEAD {
            if matches!(ready!(self.poll_fill(cx)), Ok(0) | Err(_)) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}
