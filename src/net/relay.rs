//! Bidirectional relay between two streams, for WebSockets and upgraded connections.
//!
//! An idle relay holds no buffer. Bytes are read into the worker's scratch buffer and written on at
//! once. Only bytes that the receiver does not take are kept, and until it has taken them nothing
//! more is read.

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

/// Reads per poll before other tasks run.
const MAX_READS_PER_POLL: usize = 16;

/// The reason why a relay ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RelayEnd {
    /// Side A closed first.
    ClosedByA,
    /// Side B closed first.
    ClosedByB,
    /// The connection of side A failed.
    BrokenA,
    /// The connection of side B failed.
    BrokenB,
    /// No bytes moved for the idle timeout.
    Idle,
    /// The gateway is shutting down.
    Draining,
    /// The configuration changed and no longer allows it.
    Forbidden,
    /// The configuration changed and requires more of the TLS handshake of side A.
    Outdated,
}

/// Result and byte counts of a relay.
#[derive(Clone, Copy, Debug)]
pub struct RelaySummary {
    /// The reason why it ended.
    pub end: RelayEnd,
    /// Bytes from A to B.
    pub a_to_b: u64,
    /// Bytes from B to A.
    pub b_to_a: u64,
    /// Code of the Close frame that the gateway sent to side A, if it sent one.
    pub close_code: Option<u16>,
    /// For a WebSocket: one of the sides had sent a Close frame.
    pub close_sent: bool,
    /// Time between the last bytes and the end.
    pub silent: Duration,
}

impl RelayEnd {
    /// The Close frame for both peers of a WebSocket, if the gateway ends it.
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

/// The owner of a relay, which decides whether it may continue and observes its bytes.
pub trait RelayOwner {
    /// Whether the relay may continue after a change of configuration.
    fn standing(&self) -> Standing;

    /// Called when bytes have moved.
    fn moved(&self, moved: RelayedBytes) {
        let _ = moved;
    }
}

/// The fate of a relay after a change of configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It continues.
    Stays,
    /// It ends at a random moment within this time, with [`RelayEnd::Outdated`].
    Leaves(Duration),
    /// It ends at once, with [`RelayEnd::Forbidden`].
    Forbidden,
}

/// Progress of a relay.
#[derive(Clone, Copy, Debug)]
pub struct RelayedBytes {
    /// Bytes since the last call.
    pub a_to_b: u64,
    /// Bytes since the last call.
    pub b_to_a: u64,
    /// For a WebSocket: total messages from A and from B, up to 255 each.
    pub messages: [u8; 2],
}

impl<F: Fn() -> bool> RelayOwner for F {
    fn standing(&self) -> Standing {
        if self() { Standing::Stays } else { Standing::Forbidden }
    }
}

/// One end of a relay: a stream, and the bytes already read from it.
pub struct RelaySide<T> {
    /// The stream.
    pub io: T,
    /// Bytes read from the stream before the relay began. They are sent first.
    pub early: Bytes,
}

/// Relays between `a` and `b` until both have closed, one fails, nothing moves for `idle`, or the
/// worker closes all connections. End of stream on one side is passed on to the other. `owner` is
/// asked once after each change of configuration whether the relay may continue.
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

/// As [`relay`], for a WebSocket that `a` requested from `b`. If the gateway ends it, both sides
/// are sent a Close frame at a frame boundary (RFC 6455 section 5.5.1) and get a moment to answer
/// it. A direction whose bytes are not valid frames is closed without one.
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
    let frames = |sender| Some(FrameTracker::new(sender));
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
        reported: (0, 0),
    };
    let end = poll_fn(|cx| {
        let polled = (ab.poll(cx, local, &mut a, &mut b), ba.poll(cx, local, &mut b, &mut a));
        if (ab.bytes, ba.bytes) != watch.reported {
            watch.moved = local.clock.now();
            watch.report(owner, &ab, &ba);
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
        // Boxed, because every open tunnel would reserve space for this future.
        let closing = Box::pin(close_handshake::run(
            local,
            &watch.timer,
            (&mut ab, &mut a),
            (&mut ba, &mut b),
            close,
        ));
        close_code = closing.await.then_some(close.code);
    }
    watch.report(owner, &ab, &ba);
    RelaySummary { end, a_to_b: ab.bytes, b_to_a: ba.bytes, close_code, close_sent, silent }
}

/// Deadlines of a relay. They are checked when the timer fires, so that moving a message does not
/// set the timer.
struct IdleWatch {
    timer: Timer,
    idle: Duration,
    moved: Instant,
    first: Option<RelayEnd>,
    leave: DrainDeadline,
    /// Time at which the relay ends because the TLS handshake of side A no longer suffices.
    outdated: Option<Instant>,
    generation: u64,
    /// Bytes of each direction that were reported to the owner.
    reported: (u64, u64),
}

impl IdleWatch {
    /// Reports the bytes moved since the last call to the owner.
    fn report(&mut self, owner: &dyn RelayOwner, ab: &RelayDirection, ba: &RelayDirection) {
        let (a_to_b, b_to_a) = std::mem::replace(&mut self.reported, (ab.bytes, ba.bytes));
        owner.moved(RelayedBytes {
            a_to_b: ab.bytes - a_to_b,
            b_to_a: ba.bytes - b_to_a,
            messages: [ab.messages(), ba.messages()],
        });
    }

    /// Schedules the end of the relay at a random time, unless one is already set.
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
        if let Some(at) = self.leave.decide(local, now) {
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
    /// Frame positions, for a WebSocket.
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
                // The receiver may already have disconnected, which is no failure of this
                // direction.
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
            // A peer that closes TCP without a TLS close_notify has closed all the same.
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
