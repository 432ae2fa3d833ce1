//! How a WebSocket that we end is ended: with a Close frame each way, where a frame of the peers
//! ends, and a moment for their answers (RFC 6455 section 7).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;

use super::{CloseFrame, MAX_READS_PER_POLL, RelayDirection};
use crate::net::websocket::{FrameSender, FrameTracker};
use crate::net::{Io, Phase, Timer, WorkerLocal};

/// How long the peers get, for the rest of a frame and for their answers together.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Tells both sides and waits for their answers, for [`CLOSE_TIMEOUT`] at most, or for as long as the
/// worker does not cut. Returns whether side A was told. `ab` carries what comes from A, `ba` what
/// comes from B.
pub(super) async fn say<A: Io, B: Io>(
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
        // No answer came; they are told all the same that this is all.
        let _ = (to_a.poll_shut(cx, true, a), to_b.poll_shut(cx, true, b));
        Poll::Ready(())
    })
    .await;
    to_a.is_told()
}

/// The end of one direction.
struct Closing<'a> {
    direction: &'a mut RelayDirection,
    /// Until it is on its way.
    close: Option<Vec<u8>>,
    /// What its sender has said so far; counted on after our Close too, to see theirs.
    frames: FrameTracker,
    said: bool,
    /// Nothing can be sent in this direction any more, or nothing that would be understood.
    mute: bool,
}

impl<'a> Closing<'a> {
    fn new(direction: &'a mut RelayDirection, close: CloseFrame, sender: FrameSender) -> Self {
        let frames = direction.frames;
        let over = direction.closed || frames.is_none_or(|frames| frames.is_closed());
        Self {
            close: (!over).then(|| close.frame(sender)),
            frames: frames.unwrap_or(FrameTracker::of(sender)),
            said: false,
            mute: frames.is_none_or(|frames| frames.is_lost()),
            direction,
        }
    }

    /// Moves what can be moved; true if there may be more at once.
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
                // What ended in the middle of a frame can only be cut.
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

    /// Puts our Close behind what is on its way, if a frame ends there.
    fn stage(&mut self) {
        if self.mute || !self.frames.is_between() {
            return;
        }
        // After a Close of their own nothing may follow.
        if let Some(close) = self.close.take()
            && !self.frames.is_closed()
        {
            self.direction.out.staged().extend_from_slice(&close);
            self.said = true;
        }
    }

    /// Reads once: passes on what still belongs before our Close, and drops the rest.
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

    /// Whether the sender of this direction has answered the Close it was sent, or has gone.
    fn answered(&self) -> bool {
        self.frames.is_closed() || self.direction.ended
    }

    /// Whether the receiver of this direction has been sent our Close, all of it.
    fn is_told(&self) -> bool {
        self.said && !self.mute && self.direction.out.is_empty()
    }

    /// Closes the receiver's stream once it has been told, and has `answered`.
    fn poll_shut<W: Io>(&mut self, cx: &mut Context<'_>, answered: bool, to: &mut W) -> Poll<()> {
        if self.mute || self.direction.closed {
            return Poll::Ready(());
        }
        if self.close.is_some() || !self.direction.out.is_empty() || !answered {
            return Poll::Pending;
        }
        // It may already have gone.
        let _ = ready!(Pin::new(to).poll_shutdown(cx));
        self.direction.closed = true;
        Poll::Ready(())
    }
}
