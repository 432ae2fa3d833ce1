//! What the streams of one HTTP/2 connection share, and who watches over them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::net::clock::TICK;
use crate::net::{Alarm, Clock};

/// What the streams of one connection share.
pub(super) struct Streams {
    pub(super) clock: Clock,
    pub(super) open: Cell<usize>,
    pub(super) used: Cell<Instant>,
    /// The stream whose task is running.
    pub(super) current: RefCell<Option<Rc<Stall>>>,
    /// The connection's own.
    pub(super) alarm: Alarm,
    /// The connection is to carry no new streams.
    pub(super) leaves: Cell<bool>,
}

impl Streams {
    /// Lets the connection end once its streams have; its client is told within a tick.
    pub(super) fn leave(&self) {
        self.leaves.set(true);
        self.alarm.set_at(self.clock.now());
    }
}

/// Whether a stream waits for its client to make room.
#[derive(Default)]
pub(super) struct Stall {
    pub(super) deadline: Cell<Option<Instant>>,
}

/// Runs the tasks of a connection's streams, and ends one whose client makes no room for too long:
/// hyper asks for no more of an answer then, so nothing inside it could notice.
#[derive(Clone)]
pub(super) struct Spawner(pub(super) Rc<Streams>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, task: F) {
        let open = OpenStream::new(Rc::clone(&self.0));
        tokio::task::spawn_local(async move {
            let mut task = pin!(task);
            let stall = Rc::<Stall>::default();
            let alarm = open.0.clock.alarm();
            poll_fn(|cx| {
                open.0.current.replace(Some(Rc::clone(&stall)));
                let done = task.as_mut().poll(cx);
                open.0.current.replace(None);
                let Some(deadline) = stall.deadline.get().filter(|_| done.is_pending()) else {
                    return done;
                };
                alarm.set_at(deadline + TICK);
                alarm.poll(cx)
            })
            .await;
        });
    }
}

struct OpenStream(Rc<Streams>);

impl OpenStream {
    fn new(streams: Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Self(streams)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.used.set(self.0.clock.now());
    }
}

/// A stream that remembers since when it could not be written to.
pub(super) struct Watched<T> {
    pub(super) io: T,
    pub(super) clock: Clock,
    pub(super) blocked: Rc<Cell<Option<Instant>>>,
}

impl<T> Watched<T> {
    fn note<R>(&self, result: Poll<R>) -> Poll<R> {
        match &result {
            Poll::Ready(_) => self.blocked.set(None),
            Poll::Pending if self.blocked.get().is_none() => {
                self.blocked.set(Some(self.clock.now()));
            }
            Poll::Pending => {}
        }
        result
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
