//! Write buffer for one direction of a connection.
//!
//! Bytes that the sink takes at once are never copied. Only the rest is buffered, and the memory is
//! freed once it has been sent.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Holds the unsent bytes of one direction.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    pending: Vec<u8>,
    at: usize,
    unflushed: bool,
    /// Total number of bytes that the sink has taken.
    taken: u64,
}

impl WriteBuffer {
    /// Creates an empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { pending: Vec::new(), at: 0, unflushed: false, taken: 0 }
    }

    /// The staged bytes. Bytes appended here are sent by the next [`WriteBuffer::write`] or
    /// [`WriteBuffer::poll_flush`].
    pub fn staged(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// Whether the sink has taken all bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at == self.pending.len()
    }

    /// Number of bytes that the sink has not taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len() - self.at
    }

    /// Total number of bytes that the sink has taken.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Discards the staged bytes, if the sink has taken none since `taken` was returned by
    /// [`WriteBuffer::taken`]. Returns whether it did.
    pub fn take_back(&mut self, taken: u64) -> bool {
        let nothing_left = self.taken == taken;
        if nothing_left {
            self.release();
        }
        nothing_left
    }

    /// Sends the staged bytes and then `parts`, in one vectored write if the sink supports it.
    /// Bytes that the sink does not take are buffered.
    ///
    /// # Errors
    ///
    /// Error of the sink.
    pub fn write<W>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut W,
        parts: [&[u8]; 3],
    ) -> io::Result<()>
    where
        W: AsyncWrite + Unpin,
    {
        let mut sent = 0;
        let all: usize = parts.iter().map(|part| part.len()).sum();
        self.unflushed = true;
        loop {
            let staged = self.pending.get(self.at..).unwrap_or_default();
            if staged.is_empty() && sent == all {
                self.release();
                return Ok(());
            }
            let [a, b, c] = after(parts, sent);
            let slices = [IoSlice::new(staged), IoSlice::new(a), IoSlice::new(b), IoSlice::new(c)];
            let first = usize::from(staged.is_empty());
            let slices = slices.get(first..).unwrap_or_default();
            match Pin::new(&mut *sink).poll_write_vectored(cx, slices) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(taken)) => {
                    self.taken += taken as u64;
                    let of_staged = taken.min(staged.len());
                    self.at += of_staged;
                    sent += taken - of_staged;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    for part in after(parts, sent) {
                        self.pending.extend_from_slice(part);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Sends the unsent bytes and flushes the sink.
    ///
    /// # Errors
    ///
    /// Error of the sink.
    pub fn poll_flush<W>(&mut self, cx: &mut Context<'_>, sink: &mut W) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin,
    {
        if !self.is_empty() {
            self.write(cx, sink, [&[], &[], &[]])?;
            if !self.is_empty() {
                return Poll::Pending;
            }
        }
        if self.unflushed {
            ready!(Pin::new(sink).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Frees the memory.
    fn release(&mut self) {
        self.pending = Vec::new();
        self.at = 0;
    }
}

/// `parts` without their first `gone` bytes.
fn after(mut parts: [&[u8]; 3], mut gone: usize) -> [&[u8]; 3] {
    for part in &mut parts {
        let here = gone.min(part.len());
        *part = part.get(here..).unwrap_or_default();
        gone -= here;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn staged_bytes_are_sent_first_and_unsent_bytes_are_kept() {
        let (mut near, mut far) = tokio::io::duplex(4);
        let mut out = WriteBuffer::new();
        out.staged().extend_from_slice(b"head-");
        let before = out.taken();
        poll_fn(|cx| Poll::Ready(out.write(cx, &mut near, [b"5\r\n", b"hello", b"\r\n"])))
            .await
            .unwrap();
        assert_eq!(out.len(), 11);
        assert_eq!(out.taken() - before, 4);
        assert!(!out.take_back(before), "some of it has left");
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all
        });
        poll_fn(|cx| out.poll_flush(cx, &mut near)).await.unwrap();
        assert!(out.is_empty() && out.pending.capacity() == 0);
        drop(near);
        assert_eq!(reader.await.unwrap(), b"head-5\r\nhello\r\n");
    }

    #[test]
    fn staged_bytes_that_were_not_sent_can_be_discarded() {
        let mut out = WriteBuffer::new();
        let before = out.taken();
        out.staged().extend_from_slice(b"HTTP/1.1 200 OK");
        assert!(out.take_back(before) && out.is_empty());
    }
}
