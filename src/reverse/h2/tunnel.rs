//! Byte stream over an HTTP/2 stream that has become a tunnel.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::Io;

use super::streams::OpenStream;

/// A stream after the 200 of its CONNECT (RFC 8441 section 5).
pub(super) struct StreamIo {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Received bytes that have not been read.
    unread: Bytes,
    /// End of stream has been sent.
    ended: bool,
    /// Counts the stream as open.
    _open: OpenStream,
}

impl StreamIo {
    pub(super) fn new(send: SendStream<Bytes>, receive: RecvStream, open: OpenStream) -> Self {
        Self { send, receive, unread: Bytes::new(), ended: false, _open: open }
    }
}

impl Io for StreamIo {}

impl Drop for StreamIo {
    /// Ends the stream after the bytes sent on it, for example a Close frame. A reset would discard
    /// them.
    fn drop(&mut self) {
        if !self.ended {
            drop(self.send.send_data(Bytes::new(), true));
        }
    }
}

/// Converts the error of a failed direction.
fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for StreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => self.unread = data,
                None => return Poll::Ready(Ok(())),
                // A client that closes both directions at once resets its stream (RFC 8441 section
                // 5).
                Some(Err(error))
                    if matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL)) =>
                {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let taken = buf.remaining().min(self.unread.len());
        buf.put_slice(self.unread.get(..taken).unwrap_or_default());
        self.unread.advance(taken);
        let released = self.receive.flow_control().release_capacity(taken);
        Poll::Ready(released.map_err(broken))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if let Poll::Ready(reset) = self.send.poll_reset(cx) {
            return Poll::Ready(Err(broken(reset.map_or_else(|error| error, h2::Error::from))));
        }
        self.send.reserve_capacity(buf.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let piece = buf.get(..self.send.capacity()).unwrap_or(buf);
        let sent = self.send.send_data(Bytes::copy_from_slice(piece), false);
        Poll::Ready(sent.map(|()| piece.len()).map_err(broken))
    }

    /// Does nothing, because the connection's task sends the bytes of its streams.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::replace(&mut self.ended, true) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(broken))
    }
}
