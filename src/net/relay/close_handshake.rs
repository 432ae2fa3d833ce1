//! The closing handshake of a WebSocket that the gateway ends (RFC 6455 section 7): a Close frame
//! in each direction, inserted at a frame boundary, and a moment for the peers to answer.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;

use super::{CloseFrame, MAX_READS_PER_POLL, RelayDirection};
use crate::net::websocket::{FrameSender, FrameTracker};
use crate::net::{Io, Phase, Timer, WorkerLocal};

/// Time for the peers to finish a frame and to answer, together.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends Close frames to both sides and waits for their answers, for at most [`CLOSE_TIMEOUT`] and
/// not after the worker begins to close all connections. Returns whether side A was sent its Close
/// frame. `ab` is the direction from A to B, `ba` that from B to A.
pub(super) async fn run<A: Io, B: Io>(
    local: &WorkerLocal,
    timer: &Timer,
    (ab, a): (&mut RelayDirection, &mut A),
    (ba, b): (&mut RelayDirection, &mut B),
    close: CloseFrame,
) -> bool {
    let mut to_b = Closing::new(ab, close, FrameSender::Client);
    let mut to_a = Closing::new(ba, close, FrameSender::Server);
    timer.set(CLOSE_TIMEOUT);
    poll_fn(|cx| {
        let more = [to_b.poll(cx, local, a, b), to_a.poll(cx, local, b, a)];
        if more.contains(&true) {
            cx.waker().wake_by_ref();
        }
        let a_done = to_a.poll_shut(cx, to_b.answered(), a);
        let b_done = to_b.poll_shut(cx, to_a.answered(), b);
        if (a_done.is_ready() && b_done.is_ready()) || local.phase() == Phase::Cutting {
            return Poll::Ready(());
        }
        ready!(timer.poll(cx));
        // No answer came in time. The end of the stream is sent all the same.
        let _ = (to_a.poll_shut(cx, true, a), to_b.poll_shut(cx, true, b));
        Poll::Ready(())
    })
    .await;
    to_a.is_sent()
}

/// Closing state of one direction.
struct Closing<'a> {
    direction: &'a mut RelayDirection,
    /// The Close frame, until it is staged.
    close: Option<Vec<u8>>,
    /// Frame position of the sender. Tracked after our Close too, to detect the sender's.
    frames: FrameTracker,
    staged: bool,
    /// Nothing more can be sent in this direction, or the receiver would not understand it.
    mute: bool,
}

impl<'a> Closing<'a> {
    fn new(direction: &'a mut RelayDirection, close: CloseFrame, sender: FrameSender) -> Self {
        let frames = direction.frames;
        let over = direction.closed || frames.is_none_or(|frames| frames.is_closed());
        Self {
            close: (!over).then(|| close.frame(sender)),
            frames: frames.unwrap_or(FrameTracker::new(sender)),
            staged: false,
            mute: frames.is_none_or(|frames| frames.is_lost()),
            direction,
        }
    }

    /// Moves available bytes. Returns true if there may be more at once.
    fn poll<R: Io, W: Io>(
        &mut self,
        cx: &mut Context<'_>,
        local: &WorkerLocal,
        from: &mut R,
        to: &mut W,
    ) -> bool {
        for _ in 0..MAX_READS_PER_POLL {
            self.stage();
            if matches!(self.direction.out.poll_flush(cx, to), Poll::Ready(Err(_))) {
                self.mute = true;
            }
            if self.direction.ended {
                // A stream that ended within a frame can only be cut off.
                self.mute |= self.close.is_some();
                return false;
            }
            if self.close.is_some() && !self.mute && !self.direction.out.is_empty() {
                return false;
            }
            match local.with_scratch(|scratch| self.step(cx, scratch, from, to)) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.direction.ended = true,
                Poll::Pending => return false,
            }
        }
        true
    }

    /// Appends our Close to the unsent bytes, if they end at a frame boundary.
    fn stage(&mut self) {
        if self.mute || !self.frames.is_between() {
            return;
        }
        // Nothing may follow a Close frame of the sender.
        if let Some(close) = self.close.take()
            && !self.frames.is_closed()
        {
            self.direction.out.staged().extend_from_slice(&close);
            self.staged = true;
        }
    }

    /// Reads once. Bytes of the frame in progress are passed on, the rest is dropped.
    fn step<R: Io, W: Io>(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        from: &mut R,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        let data = buffer.filled();
        self.direction.ended = data.is_empty();
        if self.close.is_none() || self.mute {
            self.frames.pass(data);
            return Poll::Ready(Ok(()));
        }
        let here = self.frames.pass_one(data).unwrap_or(data.len());
        let (before, after) = data.split_at_checked(here).unwrap_or((data, &[]));
        self.direction.bytes += before.len() as u64;
        if self.direction.out.write(cx, to, [before, &[], &[]]).is_err() || self.frames.is_lost() {
            self.mute = true;
        }
        self.stage();
        self.frames.pass(after);
        Poll::Ready(Ok(()))
    }

    /// Whether the sender of this direction has answered its Close frame or disconnected.
    fn answered(&self) -> bool {
        self.frames.is_closed() || self.direction.ended
    }

    /// Whether our whole Close frame was sent to the receiver of this direction.
    fn is_sent(&self) -> bool {
        self.staged && !self.mute && self.direction.out.is_empty()
    }

    /// Closes the receiver's stream once our Close is sent and the receiver has `answered`.
    fn poll_shut<W: Io>(&mut self, cx: &mut Context<'_>, answered: bool, to: &mut W) -> Poll<()> {
        if self.mute || self.direction.closed {
            return Poll::Ready(());
        }
        if self.close.is_some() || !self.direction.out.is_empty() || !answered {
            return Poll::Pending;
        }
        // The receiver may already have disconnected.
        let _ = ready!(Pin::new(to).poll_shutdown(cx));
        self.direction.closed = true;
        Poll::Ready(())
    }
}
