//! Bidirectional copy between two connections, within limits, without interpreting their bytes.
//!
//! An idle tunnel holds no buffer and no pipe. Bytes pass through the worker's scratch buffer. When
//! reads keep filling it, bytes between two TCP sockets move inside the kernel until the bulk
//! transfer is over. End of stream on one side is passed on to the other.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::clock::TICK;
use super::rate::Rate;
use super::splice::SplicePipe;
use super::{DrainDeadline, Io, Phase, ReadAhead, Timer, WorkerLocal, WriteBuffer};

mod screen;

pub use screen::{Screen, ScreenRejection, Step};

/// Reads per poll before other tasks run.
const MAX_READS_PER_POLL: usize = 8;
/// Consecutive reads that must fill the scratch buffer before splicing begins.
const FULL_READS_BEFORE_SPLICE: u8 = 2;
/// A bulk transfer is over when the socket is empty after fewer bytes than this.
const MIN_SPLICE_BURST: usize = 32 * 1024;
/// Maximum number of bytes of one splice.
const MAX_SPLICE: usize = 1 << 20;

/// A stream at one end of a tunnel.
pub trait TunnelStream: Io {
    /// The TCP socket, if the stream adds no layer such as TLS to it.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl TunnelStream for TcpStream {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl TunnelStream for Box<tokio_rustls::server::TlsStream<ReadAhead>> {}

/// Limits of a tunnel.
pub struct TunnelLimits<'a> {
    /// Idle timeout, for both directions together.
    pub idle: Duration,
    /// Time at which the tunnel ends in any case.
    pub ends_at: Option<Instant>,
    /// Limits on bytes per second, both directions together.
    pub rates: [Option<Arc<Rate>>; 2],
    /// Counters that are updated while the tunnel is open.
    pub moved: &'a ByteCounts,
    /// Whether the tunnel is still allowed. Called once after each change of configuration.
    pub allowed: &'a dyn Fn() -> bool,
}

/// Bytes moved so far. Other threads may read them.
#[derive(Debug, Default)]
pub struct ByteCounts {
    /// From A to B.
    pub a_to_b: AtomicU64,
    /// From B to A.
    pub b_to_a: AtomicU64,
}

/// The reason why a tunnel ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TunnelEnd {
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
    /// The tunnel reached its maximum lifetime.
    Expired,
    /// The gateway is shutting down.
    Draining,
    /// The configuration changed and no longer allows it.
    Forbidden,
}

/// Copies between `a` and `b` until the tunnel ends. The bytes beside each stream were already read
/// from it and are sent to the other side first.
///
/// # Cancellation
///
/// Dropping the future closes both streams.
pub async fn join<A: TunnelStream, B: TunnelStream>(
    local: &Rc<WorkerLocal>,
    (a, of_a): (A, Bytes),
    (b, of_b): (B, Bytes),
    terms: TunnelLimits<'_>,
) -> TunnelEnd {
    let (ab, ba) = (CopyDirection::new(&of_a), CopyDirection::new(&of_b));
    drop((of_a, of_b));
    let watch = TunnelTimers::new(local, &terms);
    go_on(local, (a, b), (ab, ba), watch, terms).await
}

/// As [`join`], with `screen` inspecting the first bytes of both sides. `ahead` was read from A
/// after `of_a` and is inspected too.
///
/// # Errors
///
/// [`ScreenRejection`] if the screen rejects the tunnel. B is then closed, and A is still open.
///
/// # Cancellation
///
/// Dropping the future closes both streams.
pub async fn join_screened<A: TunnelStream, B: TunnelStream, S: Screen>(
    local: &Rc<WorkerLocal>,
    (mut a, of_a): (A, Bytes),
    (mut b, of_b): (B, Bytes),
    terms: TunnelLimits<'_>,
    (mut screen, ahead): (Box<S>, Bytes),
) -> Result<TunnelEnd, ScreenRejection<S, A>> {
    let (mut ab, mut ba) = (CopyDirection::new(&of_a), CopyDirection::new(&[]));
    let mut watch = TunnelTimers::new(local, &terms);
    // Boxed, because every open tunnel would reserve space for this future.
    let screened = Box::pin(async {
        let mut pair = screen::Pair { a: &mut a, b: &mut b, ab: &mut ab, ba: &mut ba };
        pair.pass(local, &mut *screen, (&mut watch, &terms), (&ahead, &of_b)).await
    });
    let end = screened.await;
    drop((of_a, of_b, ahead));
    match end {
        Some(screen::Over::Refused) => Err(ScreenRejection { screen, a, out: ba.out }),
        Some(screen::Over::Ended(end)) => Ok(end),
        None => {
            drop(screen);
            Ok(go_on(local, (a, b), (ab, ba), watch, terms).await)
        }
    }
}

/// Moves bytes until the tunnel ends.
async fn go_on<A: TunnelStream, B: TunnelStream>(
    local: &Rc<WorkerLocal>,
    (mut a, mut b): (A, B),
    (mut ab, mut ba): (CopyDirection, CopyDirection),
    mut watch: TunnelTimers,
    terms: TunnelLimits<'_>,
) -> TunnelEnd {
    poll_fn(|cx| {
        let now = local.clock.now();
        let held_until = terms.rates.iter().flatten().filter_map(|rate| rate.wait(now)).max();
        let before = ab.bytes + ba.bytes;
        let piece = terms.rates.iter().flatten().map(|rate| rate.piece()).min();
        let pass = PollPass { local, held: held_until.is_some(), piece, last: ba.closed };
        match ab.poll(cx, &pass, &mut a, &mut b) {
            Poll::Ready(Err(TunnelError::From)) => return Poll::Ready(TunnelEnd::BrokenA),
            Poll::Ready(Err(TunnelError::To)) => return Poll::Ready(TunnelEnd::BrokenB),
            Poll::Ready(Ok(())) => _ = watch.first.get_or_insert(TunnelEnd::ClosedByA),
            Poll::Pending => {}
        }
        let pass = PollPass { last: ab.closed, ..pass };
        match ba.poll(cx, &pass, &mut b, &mut a) {
            Poll::Ready(Err(TunnelError::From)) => return Poll::Ready(TunnelEnd::BrokenB),
            Poll::Ready(Err(TunnelError::To)) => return Poll::Ready(TunnelEnd::BrokenA),
            Poll::Ready(Ok(())) => _ = watch.first.get_or_insert(TunnelEnd::ClosedByB),
            Poll::Pending => {}
        }
        let moved = ab.bytes + ba.bytes - before;
        if moved > 0 {
            terms.moved.a_to_b.store(ab.bytes, Ordering::Relaxed);
            terms.moved.b_to_a.store(ba.bytes, Ordering::Relaxed);
            watch.moved = now;
            let moved = usize::try_from(moved).unwrap_or(usize::MAX);
            for rate in terms.rates.iter().flatten() {
                rate.moved(now, moved);
            }
        }
        if ab.closed && ba.closed {
            return Poll::Ready(watch.first.unwrap_or(TunnelEnd::ClosedByA));
        }
        watch.poll(cx, local, &terms, held_until)
    })
    .await
}

/// Deadlines of a tunnel. They are checked when the timer fires, so that moving bytes does not set
/// the timer.
struct TunnelTimers {
    timer: Timer,
    moved: Instant,
    first: Option<TunnelEnd>,
    leave: DrainDeadline,
    generation: u64,
}

impl TunnelTimers {
    fn new(local: &WorkerLocal, terms: &TunnelLimits<'_>) -> Self {
        let timer = local.clock.timer();
        let now = local.clock.now();
        let watch = Self {
            timer,
            moved: now,
            first: None,
            leave: DrainDeadline::NotYet,
            generation: local.generation(),
        };
        watch.timer.set_at(watch.due(terms, None) + TICK);
        watch
    }

    /// The earliest deadline.
    fn due(&self, terms: &TunnelLimits<'_>, held_until: Option<Instant>) -> Instant {
        let idle = self.moved + terms.idle;
        [self.leave.at(), terms.ends_at, held_until].into_iter().flatten().fold(idle, Instant::min)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        local: &WorkerLocal,
        terms: &TunnelLimits<'_>,
        held_until: Option<Instant>,
    ) -> Poll<TunnelEnd> {
        let now = local.clock.now();
        if self.generation != local.generation() {
            self.generation = local.generation();
            if !(terms.allowed)() {
                return Poll::Ready(TunnelEnd::Forbidden);
            }
        }
        if local.phase() == Phase::Cutting {
            return Poll::Ready(TunnelEnd::Draining);
        }
        if let Some(at) = self.leave.decide(local, now) {
            self.timer.set_at(at);
        }
        if let Some(until) = held_until {
            self.timer.set_at(until);
        }
        if self.timer.poll(cx).is_pending() {
            return Poll::Pending;
        }
        if self.leave.at().is_some_and(|at| at <= now) {
            return Poll::Ready(TunnelEnd::Draining);
        }
        if terms.ends_at.is_some_and(|at| at <= now) {
            return Poll::Ready(TunnelEnd::Expired);
        }
        if self.moved + terms.idle <= now {
            return Poll::Ready(TunnelEnd::Idle);
        }
        self.timer.set_at(self.due(terms, held_until) + TICK);
        if held_until.is_some() {
            // The rate limit allows reading again.
            cx.waker().wake_by_ref();
        }
        let _ = self.timer.poll(cx);
        Poll::Pending
    }
}

enum TunnelError {
    From,
    To,
}

/// Parameters of one poll of both directions.
struct PollPass<'a> {
    local: &'a WorkerLocal,
    /// A rate limit forbids reading for now.
    held: bool,
    /// Maximum number of bytes to read before the rate limits are checked again.
    piece: Option<usize>,
    /// The other direction has ended, so the sockets are about to be closed.
    last: bool,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum CopyMode {
    /// Through the scratch buffer, with the number of consecutive reads that filled it.
    Copy(u8),
    /// Inside the kernel.
    Splice,
    /// Through the scratch buffer for the rest of the tunnel, because the kernel cannot splice
    /// these sockets.
    CopyOnly,
}

struct CopyDirection {
    out: WriteBuffer,
    pipe: Option<SplicePipe>,
    way: CopyMode,
    /// Bytes spliced since the socket was last empty.
    run: usize,
    bytes: u64,
    ended: bool,
    closed: bool,
}

impl CopyDirection {
    fn new(early: &[u8]) -> Self {
        let mut out = WriteBuffer::new();
        out.staged().extend_from_slice(early);
        Self {
            out,
            pipe: None,
            way: CopyMode::Copy(0),
            run: 0,
            bytes: early.len() as u64,
            ended: false,
            closed: false,
        }
    }

    /// Moves available bytes. Ready when end of stream has been passed on to the receiver.
    fn poll<R: TunnelStream, W: TunnelStream>(
        &mut self,
        cx: &mut Context<'_>,
        pass: &PollPass<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), TunnelError>> {
        let turns = if pass.piece.is_some() { 1 } else { MAX_READS_PER_POLL };
        for _ in 0..turns {
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            if !self.out.is_empty() || self.ended {
                ready!(self.out.poll_flush(cx, to)).map_err(|_| TunnelError::To)?;
            }
            if self.ended && self.pipe.is_none() {
                // Closing a plain socket signals end of stream too. The receiver may already have
                // disconnected, which is no failure of this direction.
                if !(pass.last && to.socket().is_some()) {
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                }
                self.closed = true;
                continue;
            }
            let step = match (self.way, from.socket(), to.socket()) {
                (CopyMode::Splice, Some(from), Some(to)) => self.splice(cx, pass, from, to),
                _ if pass.held => return Poll::Pending,
                _ => pass.local.with_scratch(|scratch| {
                    let size = pass.piece.map_or(scratch.len(), |piece| piece.min(scratch.len()));
                    self.copy(cx, scratch.get_mut(..size).unwrap_or_default(), from, to)
                }),
            };
            match step {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    if let Poll::Ready(Err(_)) = self.out.poll_flush(cx, to) {
                        return Poll::Ready(Err(TunnelError::To));
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn copy<R: TunnelStream, W: TunnelStream>(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), TunnelError>> {
        let size = scratch.len();
        let mut buffer = ReadBuf::new(scratch);
        match ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer)) {
            Ok(()) => {}
            // A peer that closes TCP without a TLS close_notify has closed all the same.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(_) => return Poll::Ready(Err(TunnelError::From)),
        }
        let data = buffer.filled();
        self.ended = data.is_empty();
        self.bytes += data.len() as u64;
        if !data.is_empty() {
            self.out.write(cx, to, [data, &[], &[]]).map_err(|_| TunnelError::To)?;
        }
        if let CopyMode::Copy(full) = self.way {
            self.way = if data.len() < size {
                CopyMode::Copy(0)
            } else if full + 1 >= FULL_READS_BEFORE_SPLICE
                && from.socket().is_some()
                && to.socket().is_some()
            {
                CopyMode::Splice
            } else {
                CopyMode::Copy((full + 1).min(FULL_READS_BEFORE_SPLICE))
            };
        }
        Poll::Ready(Ok(()))
    }

    /// Fills and empties the pipe once. Ready: there may be more to do.
    fn splice(
        &mut self,
        cx: &mut Context<'_>,
        pass: &PollPass<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<Result<(), TunnelError>> {
        let pipes = &pass.local.pipes;
        let mut pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None if pass.held => return Poll::Pending,
            None => match pipes.take() {
                Ok(pipe) => pipe,
                // No descriptors are left for a pipe. The scratch buffer needs none.
                Err(_) => return self.back_to(CopyMode::Copy(0)),
            },
        };
        if pipe.held() == 0 {
            match self.fill(cx, pass, &mut pipe, from) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                Poll::Pending => {
                    pipes.put(pipe);
                    let flood = std::mem::take(&mut self.run) >= MIN_SPLICE_BURST;
                    if !flood && self.way == CopyMode::Splice {
                        self.way = CopyMode::Copy(0);
                    }
                    return Poll::Pending;
                }
            }
        }
        while pipe.held() > 0 {
            let drained = match to.poll_write_ready(cx) {
                Poll::Ready(ready) => ready.and_then(|()| pipe.drain(to)),
                Poll::Pending => {
                    self.pipe = Some(pipe);
                    return Poll::Pending;
                }
            };
            match drained {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Err(TunnelError::To)),
            }
        }
        pipes.put(pipe);
        Poll::Ready(Ok(()))
    }

    /// Moves bytes from `from` into the pipe, or records its end of stream.
    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        pass: &PollPass<'_>,
        pipe: &mut SplicePipe,
        from: &TcpStream,
    ) -> Poll<Result<(), TunnelError>> {
        let most = pass.piece.map_or(MAX_SPLICE, |piece| piece.min(MAX_SPLICE));
        loop {
            let filled = ready!(from.poll_read_ready(cx)).and_then(|()| pipe.fill(from, most));
            match filled {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.bytes += count as u64;
                    self.run += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.way = CopyMode::CopyOnly;
                }
                Err(_) => return Poll::Ready(Err(TunnelError::From)),
            }
            return Poll::Ready(Ok(()));
        }
    }

    fn back_to(&mut self, way: CopyMode) -> Poll<Result<(), TunnelError>> {
        self.way = way;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
