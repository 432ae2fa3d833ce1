//! A stream that enforces a minimum read rate on clients of the admin listener.
//!
//! A client that does not read its response would occupy one of the listener's few connections.
//! Once a write blocks, the client gets a grace period and must then read at a minimum rate until
//! everything queued is sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Time for which an answer may go unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum rate after that, in bytes a second.
const MIN_RATE: u32 = 16 * 1024;

/// Bounds the time that a client takes to read.
pub(super) struct Paced<T> {
    inner: T,
    blocked: Option<WriteStall>,
}

/// State since a write had to wait.
struct WriteStall {
    since: Instant,
    /// Bytes written since.
    written: u32,
    timer: Pin<Box<Sleep>>,
}

impl<T> Paced<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, blocked: None }
    }

    /// Takes the result of a write into account.
    fn judge(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match (&result, &mut self.blocked) {
            (Poll::Ready(Ok(written)), Some(blocked)) => {
                let written = u32::try_from(*written).unwrap_or(u32::MAX);
                blocked.written = blocked.written.saturating_add(written);
                result
            }
            (Poll::Ready(_), _) => result,
            (Poll::Pending, blocked) => {
                let blocked = blocked.get_or_insert_with(|| {
                    let now = Instant::now();
                    let timer = Box::pin(tokio::time::sleep_until(now + WRITE_TIMEOUT));
                    WriteStall { since: now, written: 0, timer }
                });
                let earned = Duration::from_secs(1) * blocked.written / MIN_RATE;
                let deadline = blocked.since + WRITE_TIMEOUT + earned;
                if blocked.timer.deadline() != deadline {
                    blocked.timer.as_mut().reset(deadline);
                }
                match blocked.timer.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.judge(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.judge(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// The caller flushes once its own buffer is empty: everything was sent.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.blocked = None;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_cut() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let begun = Instant::now();
        let error = Paced::new(ours).write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), WRITE_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_drips_is_cut_and_a_slow_one_is_not() {
        for (rate, fine) in [(100, false), (32 * 1024, true)] {
            let (ours, mut theirs) = tokio::io::duplex(16);
            let reading = tokio::spawn(async move {
                let mut bytes = vec![0; rate];
                while theirs.read_exact(&mut bytes).await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
            let written = Paced::new(ours).write_all(&vec![0; 512 * 1024]).await;
            assert_eq!(written.is_ok(), fine, "{rate}");
            reading.await.unwrap();
        }
    }
}
