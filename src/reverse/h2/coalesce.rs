//! Write coalescing: the frames that a connection writes in one poll are sent together.
//!
//! h2 writes and flushes each frame separately, and each would become a TLS record and a system
//! call. Here the frames of all streams are sent together at the end of each poll of the
//! connection's task.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::downstream::min_rate::MinRate;
use crate::net::write_buffer::WriteBuffer;
use crate::net::{CoarseClock, Io};

use super::frames::{Refusal, Refusals};

/// Largest number of coalesced bytes: four TLS records (RFC 8446 section 5.1), which rustls
/// encrypts and sends at once.
const MAX_COALESCED: usize = 64 * 1024;
/// Initial size of the buffer, in bytes, enough for most polls.
const INITIAL_CAPACITY: usize = 4 * 1024;

/// The stream of a connection. Clones share it.
pub(super) struct CoalescedIo<T>(Rc<RefCell<CoalescedInner<T>>>);

struct CoalescedInner<T> {
    io: T,
    out: WriteBuffer,
    /// Bytes that the stream has taken.
    written: i64,
    clock: CoarseClock,
    /// Minimum rate of the client, while it does not read fast enough.
    pace: MinRate,
    too_slow: bool,
    refusals: Refusals,
}

impl<T> Clone for CoalescedIo<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: Io> CoalescedIo<T> {
    /// Wraps `io`. The client must read at the rate `pace`.
    pub(super) fn new(io: T, clock: CoarseClock, pace: MinRate) -> Self {
        Self(Rc::new(RefCell::new(CoalescedInner {
            io,
            out: WriteBuffer::new(),
            written: 0,
            clock,
            pace,
            too_slow: false,
            refusals: Refusals::default(),
        })))
    }

    /// When to look again whether the client is too slow, while it takes nothing.
    pub(super) fn next_check(&self) -> Option<Instant> {
        self.0.borrow().pace.next_check()
    }

    /// Progress of this connection, for its streams.
    pub(super) fn progress(&self) -> ConnProgress {
        let inner: Weak<RefCell<CoalescedInner<T>>> = Rc::downgrade(&self.0);
        ConnProgress(inner)
    }

    /// Whether the client reads too slowly.
    pub(super) fn is_too_slow(&self, now: Instant) -> bool {
        let CoalescedInner { io, pace, too_slow, .. } = &mut *self.0.borrow_mut();
        *too_slow || pace.is_late(now, || io.unacknowledged().map(|queued| -queued))
    }

    /// Records that a stream was accepted; see [`Refusals`].
    pub(super) fn accepted(&self, stream: u32) {
        self.0.borrow_mut().refusals.accepted(stream);
    }

    /// The streams that h2 has refused by itself since the last call.
    pub(super) fn refusals(&self) -> Vec<Refusal> {
        self.0.borrow_mut().refusals.take()
    }

    /// Sends the coalesced bytes. Called at the end of each poll. If it is pending, the task is
    /// woken when more can be sent.
    ///
    /// # Errors
    ///
    /// Error of the stream.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_send(cx)
    }
}

impl<T: AsyncWrite + Unpin> CoalescedInner<T> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.out.len();
        let result = self.out.poll_flush(cx, &mut self.io);
        let taken = before - self.out.len();
        self.written += i64::try_from(taken).unwrap_or(i64::MAX);
        if result.is_ready() && self.pace.deadline().is_none() {
            return result;
        }
        let now = self.clock.now();
        if taken > 0 || result.is_ready() {
            self.pace.moved(now, taken as u64);
        }
        if result.is_pending() {
            self.too_slow |= !self.pace.keeps_up();
            self.pace.wait(now);
        }
        result
    }
}

/// How much of a connection's bytes the client's host has acknowledged.
///
/// A stream waits for room in its window, which the client makes after it has received the bytes
/// before. While those are still in the connection's send queue, the client is not silent.
#[derive(Clone)]
pub(super) struct ConnProgress(Weak<dyn Progress>);

impl ConnProgress {
    /// Bytes that are acknowledged once all that has been written so far is.
    pub(super) fn goal(&self) -> i64 {
        self.0.upgrade().map_or(0, |progress| progress.goal())
    }

    /// Bytes acknowledged, or `None` where this is not known.
    pub(super) fn acknowledged(&self) -> Option<i64> {
        self.0.upgrade()?.acknowledged()
    }
}

trait Progress {
    fn goal(&self) -> i64;
    fn acknowledged(&self) -> Option<i64>;
}

impl<T: Io> Progress for RefCell<CoalescedInner<T>> {
    fn goal(&self) -> i64 {
        let inner = self.borrow();
        inner.written + i64::try_from(inner.out.len()).unwrap_or(i64::MAX)
    }

    fn acknowledged(&self) -> Option<i64> {
        let inner = self.borrow();
        Some(inner.written - inner.io.unacknowledged()?)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for CoalescedIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for CoalescedIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        if inner.out.staged().len() >= MAX_COALESCED {
            ready!(inner.poll_send(cx))?;
        }
        let CoalescedInner { out, refusals, .. } = &mut *inner;
        let staged = out.staged();
        if staged.capacity() == 0 {
            staged.reserve(INITIAL_CAPACITY);
        }
        let mut taken = 0;
        for buf in bufs {
            let room = MAX_COALESCED.saturating_sub(staged.len());
            let part = buf.get(..room).unwrap_or(buf);
            staged.extend_from_slice(part);
            refusals.wrote(part);
            taken += part.len();
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing, because the task sends at the end of its poll.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    fn coalesced(near: DuplexStream) -> CoalescedIo<DuplexStream> {
        CoalescedIo::new(near, CoarseClock::new(), MinRate::new(Duration::from_secs(30), 200))
    }

    async fn is_sent(coalesced: &CoalescedIo<DuplexStream>) -> bool {
        poll_fn(|cx| Poll::Ready(coalesced.poll_send(cx).is_ready())).await
    }

    #[tokio::test]
    async fn frames_are_sent_together_at_the_end_of_a_poll() {
        let (near, mut far) = duplex(1000);
        let coalesced = coalesced(near);
        let mut writer = coalesced.clone();
        for piece in ["one ", "two ", "three"] {
            writer.write_all(piece.as_bytes()).await.unwrap();
            writer.flush().await.unwrap();
        }
        let mut seen = [0; 100];
        let nothing = poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut seen);
            Poll::Ready(Pin::new(&mut far).poll_read(cx, &mut buffer).is_pending())
        });
        assert!(nothing.await);
        assert!(is_sent(&coalesced).await);
        let length = far.read(&mut seen).await.unwrap();
        assert_eq!(&seen[..length], b"one two three");
        writer.write_all(b"bye").await.unwrap();
        writer.shutdown().await.unwrap();
        drop((writer, coalesced));
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"bye");
    }

    #[tokio::test]
    async fn the_buffer_is_limited() {
        let (near, mut far) = duplex(1000);
        let coalesced = coalesced(near);
        let mut writer = coalesced.clone();
        let all: Vec<u8> = (0..3 * MAX_COALESCED).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let taken = writer.write(&all).await.unwrap();
        assert_eq!(taken, MAX_COALESCED);
        assert!(coalesced.next_check().is_none(), "no write has been tried yet");
        let more = poll_fn(|cx| {
            let more = [IoSlice::new(&all)];
            Poll::Ready(Pin::new(&mut writer).poll_write_vectored(cx, &more).is_pending())
        });
        assert!(more.await);
        assert!(coalesced.next_check().is_some());
        assert!(!is_sent(&coalesced).await);
        let sending = async {
            writer.write_all(all.get(taken..).unwrap()).await.unwrap();
            writer.shutdown().await.unwrap();
            drop(writer);
            assert!(coalesced.next_check().is_none());
            drop(coalesced);
        };
        let mut read = Vec::new();
        let ((), length) = tokio::join!(sending, far.read_to_end(&mut read));
        assert_eq!(length.unwrap(), all.len());
        assert!(read == all, "as it was written");
    }
}
