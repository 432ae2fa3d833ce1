//! Two streams joined: what comes out of one goes into the other.
//!
//! While nothing moves, a relay holds no buffer. Bytes are read into the worker's scratch buffer
//! and written straight on; only what the far side does not take is kept, and while it is kept
//! nothing more is read.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::local::moment_within;
use super::websocket::{CloseFrame, FrameSender, FrameTracker};
use super::{DrainDeadline, Io, Phase, Timer, WorkerLocal, WriteBuffer};

mod close_handshake;

/// Reads per poll before others get their turn.
const MAX_READS_PER_POLL: usize = 16;

/// How a relay ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RelayEnd {
    /// Side A closed first.
    ClosedByA,
    /// Side B closed first.
    ClosedByB,
    /// Side A broke.
    BrokenA,
    /// Side B broke.
    BrokenB,
    /// Nothing moved for too long.
    Idle,
    /// The gateway shuts down.
    Draining,
    /// A new configuration does not allow it any more.
    Forbidden,
    /// A new configuration asks more of the handshake of side A.
    Outdated,
}

/// What a relay did.
#[derive(Clone, Copy, Debug)]
pub struct RelaySummary {
    /// How it ended.
    pub end: RelayEnd,
    /// Bytes from A to B.
    pub a_to_b: u64,
    /// Bytes from B to A.
    pub b_to_a: u64,
    /// The code of the Close frame that side A was sent, if it was sent one.
    pub close_code: Option<u16>,
    /// Of a WebSocket: one of the sides had said Close.
    pub close_sent: bool,
    /// How long nothing had moved when it ended.
    pub silent: Duration,
}

impl RelayEnd {
    /// What the peers of a WebSocket are told, if it is we who end it.
    fn close(self) -> Option<CloseFrame> {
        match self {
            Self::ClosedByA | Self::ClosedByB | Self::BrokenA | Self::BrokenB => None,
            Self::Idle => Some(CloseFrame { code: 1001, word: "tunnel_idle" }),
            Self::Draining => Some(CloseFrame { code: 1001, word: "draining" }),
            Self::Forbidden => Some(CloseFrame { code: 1008, word: "policy" }),
            Self::Outdated => Some(CloseFrame { code: 1001, word: "handshake_outdated" }),
        }
    }
}

/// Whoever a relay belongs to.
pub trait RelayOwner {
    /// Whether it may go on under a configuration that has changed.
    fn standing(&self) -> Standing;

    /// Told of bytes as they move.
    fn moved(&self, moved: RelayedBytes) {
        let _ = moved;
    }
}

/// The state of a relay under a configuration that has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It goes on.
    Stays,
    /// It ends at a random moment within this time, with [`RelayEnd::Outdated`].
    Leaves(Duration),
    /// It ends at once, with [`RelayEnd::Forbidden`].
    Forbidden,
}

/// What has moved.
#[derive(Clone, Copy, Debug)]
pub struct RelayedBytes {
    /// Bytes since the last time.
    pub a_to_b: u64,
    /// Bytes since the last time.
    pub b_to_a: u64,
    /// Of a WebSocket: messages so far from A and from B, up to 255 each.
    pub messages: [u8; 2],
}

impl<F: Fn() -> bool> RelayOwner for F {
    fn standing(&self) -> Standing {
        if self() { Standing::Stays } else { Standing::Forbidden }
    }
}

/// One end of a relay: a stream, and what was already read from it.
pub struct RelaySide<T> {
    /// The stream.
    pub io: T,
    /// Read from it before the relay began; goes first.
    pub early: Bytes,
}

/// Joins `a` and `b` until both have closed, one breaks, nothing moves for `idle`, or the worker
/// cuts what is left. One side's end of stream is passed on to the other. `owner` is asked once
/// after each change of configuration whether it may go on.
///
/// # Cancellation
///
/// Dropping the future closes both streams.
pub fn relay<A: Io, B: Io>(
    local: &Rc<WorkerLocal>,
    a: RelaySide<A>,
    b: RelaySide<B>,
    idle: Duration,
    owner: &dyn RelayOwner,
) -> impl Future<Output = RelaySummary> {
    join(local, (a, None), (b, None), idle, owner)
}

/// As [`relay`], for a WebSocket that `a` asked `b` for: if it is ended from here, both are sent a
/// Close frame (RFC 6455 section 5.5.1) where one of their frames ends, and get a moment to answer
/// it. What does not look like frames is closed without.
///
/// # Cancellation
///
/// Dropping the future closes both streams, without Close frames.
pub fn relay_websocket<A: Io, B: Io>(
    local: &Rc<WorkerLocal>,
    a: RelaySide<A>,
    b: RelaySide<B>,
    idle: Duration,
    owner: &dyn RelayOwner,
) -> impl Future<Output = RelaySummary> {
    let frames = |sender| Some(FrameTracker::of(sender));
    join(local, (a, frames(FrameSender::Client)), (b, frames(FrameSender::Server)), idle, owner)
}

async fn join<A: Io, B: Io>(
    local: &Rc<WorkerLocal>,
    (a, a_frames): (RelaySide<A>, Option<FrameTracker>),
    (b, b_frames): (RelaySide<B>, Option<FrameTracker>),
    idle: Duration,
    owner: &dyn RelayOwner,
) -> RelaySummary {
    let (RelaySide { io: mut a, early: a_early }, RelaySide { io: mut b, early: b_early }) = (a, b);
    let (mut ab, mut ba) =
        (RelayDirection::new(&a_early, a_frames), RelayDirection::new(&b_early, b_frames));
    drop((a_early, b_early));
    let timer = local.clock.timer();
    timer.set(idle);
    let mut watch = IdleWatch {
        timer,
        idle,
        moved: local.clock.now(),
        first: None,
        leave: DrainDeadline::NotYet,
        outdated: None,
        generation: local.generation(),
        told: (0, 0),
    };
    let end = poll_fn(|cx| {
        let polled = (ab.poll(cx, local, &mut a, &mut b), ba.poll(cx, local, &mut b, &mut a));
        if (ab.bytes, ba.bytes) != watch.told {
            watch.moved = local.clock.now();
            watch.tell(owner, &ab, &ba);
        }
        match polled.0 {
            Poll::Ready(Err(RelayError::From)) => return Poll::Ready(RelayEnd::BrokenA),
            Poll::Ready(Err(RelayError::To)) => return Poll::Ready(RelayEnd::BrokenB),
            Poll::Ready(Ok(())) => _ = watch.first.get_or_insert(RelayEnd::ClosedByA),
            Poll::Pending => {}
        }
        match polled.1 {
            Poll::Ready(Err(RelayError::From)) => return Poll::Ready(RelayEnd::BrokenB),
            Poll::Ready(Err(RelayError::To)) => return Poll::Ready(RelayEnd::BrokenA),
            Poll::Ready(Ok(())) => _ = watch.first.get_or_insert(RelayEnd::ClosedByB),
            Poll::Pending => {}
        }
        if ab.closed && ba.closed {
            return Poll::Ready(watch.first.unwrap_or(RelayEnd::ClosedByA));
        }
        if watch.generation != local.generation() {
            watch.generation = local.generation();
            match owner.standing() {
                Standing::Stays => watch.outdated = None,
                Standing::Leaves(within) => watch.leave_within(within, local),
                Standing::Forbidden => return Poll::Ready(RelayEnd::Forbidden),
            }
        }
        watch.poll(cx, local)
    })
    .await;
    let silent = local.clock.now().saturating_duration_since(watch.moved);
    let close_sent = ab.close_sent() || ba.close_sent();
    let mut close_code = None;
    if let Some(close) = end.close() {
        // Boxed: a tunnel that is open has no room for how it ends.
        let told = Box::pin(close_handshake::say(
            local,
            &watch.timer,
            (&mut ab, &mut a),
            (&mut ba, &mut b),
            close,
        ));
        close_code = told.await.then_some(close.code);
    }
    watch.tell(owner, &ab, &ba);
    RelaySummary { end, a_to_b: ab.bytes, b_to_a: ba.bytes, close_code, close_sent, silent }
}

/// Looks after the idle time without touching the alarm for each message.
struct IdleWatch {
    timer: Timer,
    idle: Duration,
    moved: Instant,
    first: Option<RelayEnd>,
    leave: DrainDeadline,
    /// When it ends because the handshake of side A does not suffice any more.
    outdated: Option<Instant>,
    generation: u64,
    /// Bytes either way that the owner has been told of.
    told: (u64, u64),
}

impl IdleWatch {
    /// Tells of bytes that have moved since the last time.
    fn tell(&mut self, owner: &dyn RelayOwner, ab: &RelayDirection, ba: &RelayDirection) {
        let (a_to_b, b_to_a) = std::mem::replace(&mut self.told, (ab.bytes, ba.bytes));
        owner.moved(RelayedBytes {
            a_to_b: ab.bytes - a_to_b,
            b_to_a: ba.bytes - b_to_a,
            messages: [ab.messages(), ba.messages()],
        });
    }

    /// Ends the relay at a random moment, unless that is set already.
    fn leave_within(&mut self, within: Duration, local: &WorkerLocal) {
        let now = local.clock.now();
        let at = *self.outdated.get_or_insert_with(|| now + moment_within(within));
        self.timer.set_at(at);
    }

    fn poll(&mut self, cx: &Context<'_>, local: &WorkerLocal) -> Poll<RelayEnd> {
        let now = local.clock.now();
        if local.phase() == Phase::Cutting {
            return Poll::Ready(RelayEnd::Draining);
        }
        if let Some(at) = self.leave.notice(local, now) {
            self.timer.set_at(at);
        }
        if self.timer.poll(cx).is_pending() {
            return Poll::Pending;
        }
        if self.outdated.is_some_and(|at| at <= now) {
            return Poll::Ready(RelayEnd::Outdated);
        }
        if let Some(at) = self.leave.at() {
            if at <= now {
                return Poll::Ready(RelayEnd::Draining);
            }
            self.timer.set_at(at);
            return Poll::Pending;
        }
        let due = self.moved + self.idle;
        if due > now {
            self.timer.set_at(self.outdated.map_or(due + super::clock::TICK, |at| at.min(due)));
            return Poll::Pending;
        }
        Poll::Ready(RelayEnd::Idle)
    }
}

enum RelayError {
    From,
    To,
}

struct RelayDirection {
    out: WriteBuffer,
    bytes: u64,
    /// Of a WebSocket.
    frames: Option<FrameTracker>,
    ended: bool,
    closed: bool,
}

impl RelayDirection {
    fn new(early: &[u8], mut frames: Option<FrameTracker>) -> Self {
        let mut out = WriteBuffer::new();
        out.staged().extend_from_slice(early);
        if let Some(frames) = &mut frames {
            frames.pass(early);
        }
        Self { out, bytes: early.len() as u64, frames, ended: false, closed: false }
    }

    fn messages(&self) -> u8 {
        self.frames.map_or(0, |frames| frames.messages())
    }

    fn close_sent(&self) -> bool {
        self.frames.is_some_and(|frames| frames.is_closed())
    }

    fn poll<R: Io, W: Io>(
        &mut self,
        cx: &mut Context<'_>,
        local: &WorkerLocal,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), RelayError>> {
        for _ in 0..MAX_READS_PER_POLL {
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            if !self.out.is_empty() || self.ended {
                ready!(self.out.poll_flush(cx, to)).map_err(|_| RelayError::To)?;
            }
            if self.ended {
                // The far side may already have gone; that is no failure of this direction.
                let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                self.closed = true;
                continue;
            }
            match local.with_scratch(|scratch| self.step(cx, scratch, from, to)) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    if let Poll::Ready(Err(_)) = self.out.poll_flush(cx, to) {
                        return Poll::Ready(Err(RelayError::To));
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn step<R: Io, W: Io>(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), RelayError>> {
        let mut buffer = ReadBuf::new(scratch);
        match ready!(Pin::new(from).poll_read(cx, &mut buffer)) {
            Ok(()) => {}
            // A peer that closes TCP without TLS's close_notify has closed all the same.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(_) => return Poll::Ready(Err(RelayError::From)),
        }
        let data = buffer.filled();
        self.ended = data.is_empty();
        self.bytes += data.len() as u64;
        if let Some(frames) = &mut self.frames {
            frames.pass(data);
        }
        if !data.is_empty() {
            self.out.write(cx, to, [data, &[], &[]]).map_err(|_| RelayError::To)?;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
