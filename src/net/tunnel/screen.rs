//! Inspection of the first bytes of a tunnel, before the rest is copied without interpretation.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::{CopyDirection, TunnelEnd, TunnelLimits, TunnelTimers};
use crate::net::{Io, WorkerLocal, WriteBuffer};

/// Reads of each side per poll, before other tasks run.
const MAX_READS_PER_SIDE: u32 = 8;

/// Inspects the first bytes of both directions and decides whether the tunnel may continue.
pub trait Screen {
    /// Inspects the next bytes of A. Those that may pass to B are appended to `out`.
    fn on_a(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Step;

    /// Inspects the next bytes of B, which pass to A. Bytes of A that may now pass are appended to
    /// `out`.
    fn on_b(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Step;

    /// Whether A must not be read until B has sent more.
    fn holds_a(&self) -> bool;
}

/// The decision of a [`Screen`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// It needs more bytes.
    More,
    /// It needs no more bytes and holds none.
    Done,
    /// The tunnel must be closed.
    Refuse,
}

/// A tunnel that its screen rejected.
pub struct ScreenRejection<S, A> {
    /// The screen, which holds the reason.
    pub screen: Box<S>,
    /// Side A, still open.
    pub a: A,
    /// Unsent bytes for A.
    pub out: WriteBuffer,
}

/// The end of a tunnel during its inspection.
pub(super) enum Over {
    Refused,
    Ended(TunnelEnd),
}

/// Both sides and directions of a tunnel.
pub(super) struct Pair<'a, A, B> {
    pub(super) a: &'a mut A,
    pub(super) b: &'a mut B,
    /// From A to B.
    pub(super) ab: &'a mut CopyDirection,
    /// From B to A.
    pub(super) ba: &'a mut CopyDirection,
}

impl<A: Io, B: Io> Pair<'_, A, B> {
    /// Passes bytes until `screen` needs no more, or one side has ended, which leaves nothing to
    /// inspect. `of_a` and `of_b` were read already.
    pub(super) async fn pass<S: Screen>(
        &mut self,
        local: &WorkerLocal,
        screen: &mut S,
        (watch, terms): (&mut TunnelTimers, &TunnelLimits<'_>),
        (of_a, of_b): (&[u8], &[u8]),
    ) -> Option<Over> {
        let mut step = Step::More;
        if !of_b.is_empty() {
            step = self.take_b(of_b, screen);
        }
        match step {
            Step::More if of_a.is_empty() => {}
            Step::More => step = self.take_a(of_a, screen),
            Step::Refuse => {}
            Step::Done => {
                self.ab.out.staged().extend_from_slice(of_a);
                self.ab.bytes += of_a.len() as u64;
            }
        }
        poll_fn(|cx| {
            let before = self.ab.bytes + self.ba.bytes;
            let mut turns = 0;
            while step == Step::More && turns < MAX_READS_PER_SIDE {
                turns += 1;
                step = match self.turn(cx, local, screen) {
                    Poll::Ready(Ok(step)) => step,
                    Poll::Ready(Err(end)) => return Poll::Ready(Some(Over::Ended(end))),
                    Poll::Pending => {
                        turns = 0;
                        break;
                    }
                };
            }
            let moved = self.ab.bytes + self.ba.bytes - before;
            if moved > 0 {
                self.count(local, watch, terms, usize::try_from(moved).unwrap_or(usize::MAX));
            }
            match step {
                Step::Refuse => return Poll::Ready(Some(Over::Refused)),
                Step::Done => return Poll::Ready(None),
                Step::More if turns == MAX_READS_PER_SIDE => cx.waker().wake_by_ref(),
                Step::More => {}
            }
            watch.poll(cx, local, terms, None).map(|end| Some(Over::Ended(end)))
        })
        .await
    }

    /// Reads each side once. B is first, because its answer decides whether A is inspected at all.
    fn turn<S: Screen>(
        &mut self,
        cx: &mut Context<'_>,
        local: &WorkerLocal,
        screen: &mut S,
    ) -> Poll<Result<Step, TunnelEnd>> {
        let b = self.poll_b(cx, local, screen);
        if !matches!(b, Poll::Pending | Poll::Ready(Ok(Step::More))) {
            return b;
        }
        match self.poll_a(cx, local, screen) {
            Poll::Pending => b,
            a @ Poll::Ready(_) => a,
        }
    }

    fn count(
        &self,
        local: &WorkerLocal,
        watch: &mut TunnelTimers,
        terms: &TunnelLimits<'_>,
        moved: usize,
    ) {
        let now = local.clock.now();
        watch.moved = now;
        terms.moved.a_to_b.store(self.ab.bytes, Ordering::Relaxed);
        terms.moved.b_to_a.store(self.ba.bytes, Ordering::Relaxed);
        for rate in terms.rates.iter().flatten() {
            rate.moved(now, moved);
        }
    }

    fn take_a<S: Screen>(&mut self, bytes: &[u8], screen: &mut S) -> Step {
        let out = self.ab.out.staged();
        let before = out.len();
        let step = screen.on_a(bytes, out);
        self.ab.bytes += (out.len() - before) as u64;
        step
    }

    fn take_b<S: Screen>(&mut self, bytes: &[u8], screen: &mut S) -> Step {
        self.ba.bytes += bytes.len() as u64;
        self.ba.out.staged().extend_from_slice(bytes);
        let out = self.ab.out.staged();
        let before = out.len();
        let step = screen.on_b(bytes, out);
        self.ab.bytes += (out.len() - before) as u64;
        step
    }

    /// Reads B once, after sending its earlier bytes.
    fn poll_b<S: Screen>(
        &mut self,
        cx: &mut Context<'_>,
        local: &WorkerLocal,
        screen: &mut S,
    ) -> Poll<Result<Step, TunnelEnd>> {
        ready!(self.ba.out.poll_flush(cx, self.a)).map_err(|_| TunnelEnd::BrokenA)?;
        local.with_scratch(|scratch| {
            let data = ready!(read(cx, self.b, scratch)).map_err(|_| TunnelEnd::BrokenB)?;
            let step = if data.is_empty() {
                self.ba.ended = true;
                Step::Done
            } else {
                self.take_b(data, screen)
            };
            let _ = self.ba.out.poll_flush(cx, self.a);
            Poll::Ready(Ok(step))
        })
    }

    /// Reads A once, unless the screen forbids it.
    fn poll_a<S: Screen>(
        &mut self,
        cx: &mut Context<'_>,
        local: &WorkerLocal,
        screen: &mut S,
    ) -> Poll<Result<Step, TunnelEnd>> {
        ready!(self.ab.out.poll_flush(cx, self.b)).map_err(|_| TunnelEnd::BrokenB)?;
        if screen.holds_a() {
            return Poll::Pending;
        }
        local.with_scratch(|scratch| {
            let data = ready!(read(cx, self.a, scratch)).map_err(|_| TunnelEnd::BrokenA)?;
            let step = if data.is_empty() {
                self.ab.ended = true;
                Step::Done
            } else {
                self.take_a(data, screen)
            };
            let _ = self.ab.out.poll_flush(cx, self.b);
            Poll::Ready(Ok(step))
        })
    }
}

/// Reads once. An empty result is the end of the stream.
fn read<'a, R: Io>(
    cx: &mut Context<'_>,
    from: &mut R,
    scratch: &'a mut [u8],
) -> Poll<io::Result<&'a [u8]>> {
    let mut buffer = ReadBuf::new(scratch);
    match ready!(Pin::new(from).poll_read(cx, &mut buffer)) {
        Ok(()) => {}
        // A peer that closes TCP without a TLS close_notify has closed all the same.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Poll::Ready(Err(error)),
    }
    let length = buffer.filled().len();
    Poll::Ready(Ok(scratch.get(..length).unwrap_or_default()))
}
