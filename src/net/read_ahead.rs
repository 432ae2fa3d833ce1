//! Read-ahead for bulk transfers over TLS, which saves system calls.
//!
//! A TLS session reads one record at a time. Each read is a system call and may make the kernel
//! send an acknowledgement, which together cost a third of the work of receiving a large body. Once
//! reads fill their buffer, this wrapper reads as much as the socket has and serves later reads
//! from memory. Small messages are read as without it, and no buffer is held between bodies.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Size of a read-ahead buffer, in bytes: four TLS records.
const MAX_READ_AHEAD: usize = 64 * 1024;
/// Size of the first read of a TLS session, in bytes. It reads more at once only within a record
/// that is longer.
const FIRST_READ: usize = 4 * 1024;
/// Number of unused buffers that a thread keeps.
const MAX_SPARE_BUFFERS: usize = 4;

thread_local! {
    static SPARE_BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A socket with read-ahead. Writes pass through unchanged.
#[derive(Debug)]
pub struct ReadAhead<T = TcpStream> {
    io: T,
    buffered: Option<Box<BufferedBytes>>,
    /// The latest read filled its buffer.
    is_bulk: bool,
    /// Read-ahead is disabled.
    is_frugal: bool,
}

/// Bytes that have been read and not yet requested: `room[at..end]`.
#[derive(Debug)]
struct BufferedBytes {
    room: Box<[u8]>,
    at: usize,
    end: usize,
}

impl<T> ReadAhead<T> {
    /// Wraps a socket.
    pub const fn new(io: T) -> Self {
        Self { io, buffered: None, is_bulk: false, is_frugal: false }
    }

    /// Disables or enables read-ahead. It is disabled while the reader does not consume the bytes,
    /// because their memory is not counted anywhere.
    pub const fn set_frugal(&mut self, is_frugal: bool) {
        self.is_frugal = is_frugal;
        if is_frugal && self.buffered.is_none() {
            self.is_bulk = false;
        }
    }

    /// The socket. Buffered bytes are no longer in it.
    pub const fn socket(&self) -> &T {
        &self.io
    }

    /// The socket. Buffered bytes are dropped.
    pub fn into_socket(self) -> T {
        self.io
    }
}

impl<T: AsyncRead + Unpin> ReadAhead<T> {
    /// Fills `buffer` from the buffered bytes; if there are none, reads into a read-ahead buffer
    /// first.
    #[inline(never)]
    fn poll_ahead(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(buffered) = &mut self.buffered {
            let until = buffered.end.min(buffered.at + buffer.remaining());
            buffer.put_slice(buffered.room.get(buffered.at..until).unwrap_or_default());
            buffered.at = until;
            if buffered.at == buffered.end
                && let Some(buffered) = self.buffered.take()
            {
                return_buffer(buffered.room);
                self.is_bulk &= !self.is_frugal;
            }
            return Poll::Ready(Ok(()));
        }
        let mut room = take_buffer();
        let mut read = ReadBuf::new(&mut room);
        let result = Pin::new(&mut self.io).poll_read(cx, &mut read);
        let end = read.filled().len();
        let at = end.min(buffer.remaining());
        buffer.put_slice(room.get(..at).unwrap_or_default());
        self.is_bulk = end > at;
        if end > at {
            self.buffered = Some(Box::new(BufferedBytes { room, at, end }));
        } else {
            return_buffer(room);
        }
        result
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_bulk {
            return self.poll_ahead(cx, buffer);
        }
        let room = buffer.remaining();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.is_bulk = !self.is_frugal && room > FIRST_READ && buffer.remaining() == 0;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadAhead<T> {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// An unused buffer of this thread, or a new one.
fn take_buffer() -> Box<[u8]> {
    let spare = SPARE_BUFFERS.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| vec![0; MAX_READ_AHEAD].into_boxed_slice())
}

fn return_buffer(room: Box<[u8]>) {
    SPARE_BUFFERS.with_borrow_mut(|spares| {
        if spares.len() < MAX_SPARE_BUFFERS {
            spares.push(room);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    /// Reads as a TLS session does, into a buffer of `room` bytes.
    async fn read<T: AsyncRead + Unpin>(io: &mut ReadAhead<T>, room: usize) -> Vec<u8> {
        let mut room = vec![0; room];
        let length = io.read(&mut room).await.unwrap();
        room.truncate(length);
        room
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect()
    }

    #[tokio::test]
    async fn short_messages_are_not_read_ahead() {
        let (near, mut far) = duplex(1 << 20);
        let mut near = ReadAhead::new(near);
        for length in [1, 5, FIRST_READ, FIRST_READ + 1] {
            far.write_all(&bytes(length)).await.unwrap();
            let mut got = read(&mut near, FIRST_READ).await;
            if got.len() < length {
                got.extend(read(&mut near, FIRST_READ).await);
            }
            assert_eq!(got, bytes(length));
            assert!(!near.is_bulk && near.buffered.is_none(), "{length}");
        }
    }

    #[tokio::test]
    async fn bulk_data_is_complete_and_its_buffer_is_returned() {
        let all = bytes(3 * MAX_READ_AHEAD + 12_345);
        let (near, mut far) = duplex(1 << 20);
        let mut near = ReadAhead::new(near);
        far.write_all(&all).await.unwrap();
        let (mut got, mut most) = (Vec::new(), 0);
        while got.len() < all.len() {
            got.extend(read(&mut near, 3 * FIRST_READ).await);
            most =
                most.max(near.buffered.as_ref().map_or(0, |buffered| buffered.end - buffered.at));
        }
        assert!(got == all, "as it was sent");
        assert!(most > 4 * FIRST_READ, "it was read ahead: {most}");
        assert!(near.buffered.is_none(), "the buffer was returned");
        let waits = poll_fn(|cx| {
            let mut room = [0; FIRST_READ];
            Poll::Ready(
                Pin::new(&mut near).poll_read(cx, &mut ReadBuf::new(&mut room)).is_pending(),
            )
        });
        assert!(waits.await);
        assert!(near.buffered.is_none() && !near.is_bulk);
    }

    #[tokio::test]
    async fn end_of_stream_follows_the_buffered_bytes() {
        let all = bytes(MAX_READ_AHEAD / 2);
        let (near, mut far) = duplex(1 << 20);
        let mut near = ReadAhead::new(near);
        far.write_all(&all).await.unwrap();
        drop(far);
        let mut got = read(&mut near, 2 * FIRST_READ).await;
        got.extend(read(&mut near, 1).await);
        assert!(near.buffered.is_some());
        loop {
            let piece = read(&mut near, 3 * FIRST_READ).await;
            if piece.is_empty() {
                break;
            }
            got.extend(piece);
        }
        assert!(got == all, "as it was sent");
        assert!(near.buffered.is_none());
    }
}
