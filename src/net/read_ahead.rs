//! Reading ahead where much comes.
//!
//! A TLS session reads what it has room for, a record at a time. Each such read is a system call, and an
//! acknowledgement that the kernel sends and whose answer it takes in; while a long body comes, that is a third of all
//! the work. So once whole records are seen to follow each other, as much is read as is there, and handed on from
//! memory. Whoever sends little is read as before, and nothing is held between bodies.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes read ahead at most: four TLS records.
const MAX_READ_AHEAD: usize = 64 * 1024;
/// What a TLS session reads first, in bytes; it asks for more only while a record is longer than that.
const FIRST_READ: usize = 4 * 1024;
/// Rooms a thread keeps for the next body.
const MAX_SPARE_BUFFERS: usize = 4;

thread_local! {
    static SPARE_BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A socket that is read ahead. Writing is as without.
#[derive(Debug)]
pub struct ReadAhead<T = TcpStream> {
    io: T,
    kept: Option<Box<BufferedBytes>>,
    /// The latest read took all there was room for.
    is_bulk: bool,
    /// Nothing is read ahead, however much comes.
    is_frugal: bool,
}

/// Bytes that have been read and not yet been asked for: `room[at..end]`.
#[derive(Debug)]
struct BufferedBytes {
    room: Box<[u8]>,
    at: usize,
    end: usize,
}

impl<T> ReadAhead<T> {
    /// Over a socket that nothing has been read from ahead.
    pub const fn new(io: T) -> Self {
        Self { io, kept: None, is_bulk: false, is_frugal: false }
    }

    /// Reads ahead from now on, or only what is asked for: what is read ahead for somebody who does not
    /// take it is memory that nobody counts.
    pub const fn set_frugal(&mut self, is_frugal: bool) {
        self.is_frugal = is_frugal;
        if is_frugal && self.kept.is_none() {
            self.is_bulk = false;
        }
    }

    /// The socket. Bytes that were read ahead are not in it any more.
    pub const fn socket(&self) -> &T {
        &self.io
    }

    /// The socket alone. Bytes that were read ahead are dropped.
    pub fn into_socket(self) -> T {
        self.io
    }
}

impl<T: AsyncRead + Unpin> ReadAhead<T> {
    /// Fills `buffer` from what is kept; if nothing is, from a room that is filled first.
    #[inline(never)]
    fn poll_ahead(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(kept) = &mut self.kept {
            let until = kept.end.min(kept.at + buffer.remaining());
            buffer.put_slice(kept.room.get(kept.at..until).unwrap_or_default());
            kept.at = until;
            if kept.at == kept.end
                && let Some(kept) = self.kept.take()
            {
                give_back(kept.room);
                self.is_bulk &= !self.is_frugal;
            }
            return Poll::Ready(Ok(()));
        }
        let mut room = spare();
        let mut read = ReadBuf::new(&mut room);
        let result = Pin::new(&mut self.io).poll_read(cx, &mut read);
        let end = read.filled().len();
        let at = end.min(buffer.remaining());
        buffer.put_slice(room.get(..at).unwrap_or_default());
        self.is_bulk = end > at;
        if end > at {
            self.kept = Some(Box::new(BufferedBytes { room, at, end }));
        } else {
            give_back(room);
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

/// A room of the thread's, or a new one.
fn spare() -> Box<[u8]> {
    let spare = SPARE_BUFFERS.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| vec![0; MAX_READ_AHEAD].into_boxed_slice())
}

fn give_back(room: Box<[u8]>) {
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

    /// A TLS session's way to read: into so much room.
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
    async fn short_messages_are_read_as_before() {
        let (near, mut far) = duplex(1 << 20);
        let mut near = ReadAhead::new(near);
        for length in [1, 5, FIRST_READ, FIRST_READ + 1] {
            far.write_all(&bytes(length)).await.unwrap();
            let mut got = read(&mut near, FIRST_READ).await;
            if got.len() < length {
                got.extend(read(&mut near, FIRST_READ).await);
            }
            assert_eq!(got, bytes(length));
            assert!(!near.is_bulk && near.kept.is_none(), "{length}");
        }
    }

    #[tokio::test]
    async fn nothing_is_lost_or_held_of_much() {
        let all = bytes(3 * MAX_READ_AHEAD + 12_345);
        let (near, mut far) = duplex(1 << 20);
        let mut near = ReadAhead::new(near);
        far.write_all(&all).await.unwrap();
        let (mut got, mut most) = (Vec::new(), 0);
        while got.len() < all.len() {
            got.extend(read(&mut near, 3 * FIRST_READ).await);
            most = most.max(near.kept.as_ref().map_or(0, |kept| kept.end - kept.at));
        }
        assert!(got == all, "as it was sent");
        assert!(most > 4 * FIRST_READ, "it was read ahead: {most}");
        assert!(near.kept.is_none(), "and the room was given back");
        let waits = poll_fn(|cx| {
            let mut room = [0; FIRST_READ];
            Poll::Ready(
                Pin::new(&mut near).poll_read(cx, &mut ReadBuf::new(&mut room)).is_pending(),
            )
        });
        assert!(waits.await);
        assert!(near.kept.is_none() && !near.is_bulk);
    }

    #[tokio::test]
    async fn the_end_comes_after_what_was_read_ahead() {
        let all = bytes(MAX_READ_AHEAD / 2);
        let (near, mut far) = duplex(1 << 20);
        let mut near = ReadAhead::new(near);
        far.write_all(&all).await.unwrap();
        drop(far);
        let mut got = read(&mut near, 2 * FIRST_READ).await;
        got.extend(read(&mut near, 1).await);
        assert!(near.kept.is_some());
        loop {
            let piece = read(&mut near, 3 * FIRST_READ).await;
            if piece.is_empty() {
                break;
            }
            got.extend(piece);
        }
        assert!(got == all, "as it was sent");
        assert!(near.kept.is_none());
    }
}
