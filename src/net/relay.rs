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

use super::{Alarm, Io, Local, Outgoing, Phase};

/// Reads per poll before others get their turn.
const TURNS: usize = 16;

/// How a relay ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
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
}

/// What a relay did.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// How it ended.
    pub end: End,
    /// Bytes from A to B.
    pub a_to_b: u64,
    /// Bytes from B to A.
    pub b_to_a: u64,
}

/// One end of a relay: a stream, and what was already read from it.
pub struct Side<T> {
    /// The stream.
    pub io: T,
    /// Read from it before the relay began; goes first.
    pub early: Bytes,
}

/// Joins `a` and `b` until both have closed, one breaks, nothing moves for `idle`, or the worker
/// cuts what is left. One side's end of stream is passed on to the other.
///
/// # Cancellation
///
/// Dropping the future closes both streams.
pub async fn relay<A: Io, B: Io>(
    local: &Rc<Local>,
    a: Side<A>,
    b: Side<B>,
    idle: Duration,
) -> Summary {
    let (Side { io: mut a, early: a_early }, Side { io: mut b, early: b_early }) = (a, b);
    let (mut ab, mut ba) = (Direction::new(&a_early), Direction::new(&b_early));
    drop((a_early, b_early));
    let alarm = local.clock.alarm();
    alarm.set(idle);
    let mut watch =
        Watch { alarm, idle, moved: local.clock.now(), first: None, closing: Closing::No };
    let end = poll_fn(|cx| {
        let before = ab.bytes + ba.bytes;
        match ab.poll(cx, local, &mut a, &mut b) {
            Poll::Ready(Err(Broken::From)) => return Poll::Ready(End::BrokenA),
            Poll::Ready(Err(Broken::To)) => return Poll::Ready(End::BrokenB),
            Poll::Ready(Ok(())) => _ = watch.first.get_or_insert(End::ClosedByA),
            Poll::Pending => {}
        }
        match ba.poll(cx, local, &mut b, &mut a) {
            Poll::Ready(Err(Broken::From)) => return Poll::Ready(End::BrokenB),
            Poll::Ready(Err(Broken::To)) => return Poll::Ready(End::BrokenA),
            Poll::Ready(Ok(())) => _ = watch.first.get_or_insert(End::ClosedByB),
            Poll::Pending => {}
        }
        if ab.closed && ba.closed {
            return Poll::Ready(watch.first.unwrap_or(End::ClosedByA));
        }
        if before != ab.bytes + ba.bytes {
            watch.moved = local.clock.now();
        }
        watch.poll(cx, local)
    })
    .await;
    Summary { end, a_to_b: ab.bytes, b_to_a: ba.bytes }
}

/// Looks after the idle time without touching the alarm for each message.
struct Watch {
    alarm: Alarm,
    idle: Duration,
    moved: Instant,
    first: Option<End>,

    closing: Closing,
}

/// What draining means for this relay.
enum Closing {
    /// It has not begun.
    No,
    /// It is left alone.
    LeftAlone,
    /// It closes then.
    At(Instant),
}

impl Watch {
    fn poll(&mut self, cx: &Context<'_>, local: &Local) -> Poll<End> {
        let now = local.clock.now();
        if local.phase() == Phase::Cutting {
            return Poll::Ready(End::Draining);
        }
        if local.phase() == Phase::Draining && matches!(self.closing, Closing::No) {
            self.closing = match local.closing_time() {
                None => Closing::LeftAlone,
                Some(after) => {
                    self.alarm.set_at(now + after);
                    Closing::At(now + after)
                }
            };
        }
        if self.alarm.poll(cx).is_pending() {
            return Poll::Pending;
        }
        if let Closing::At(at) = self.closing {
            if at <= now {
                return Poll::Ready(End::Draining);
            }
            self.alarm.set_at(at);
            return Poll::Pending;
        }
        let due = self.moved + self.idle;
        if due > now {
            self.alarm.set_at(due + super::clock::TICK);
            return Poll::Pending;
        }
        Poll::Ready(End::Idle)
    }
}

enum Broken {
    From,
    To,
}

struct Direction {
    out: Outgoing,
    bytes: u64,
    ended: bool,
    closed: bool,
}

impl Direction {
    fn new(early: &[u8]) -> Self {
        let mut out = Outgoing::new();
        out.staged().extend_from_slice(early);
        Self { out, bytes: early.len() as u64, ended: false, closed: false }
    }

    fn poll<R: Io, W: Io>(
        &mut self,
        cx: &mut Context<'_>,
        local: &Local,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..TURNS {
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            if !self.out.is_empty() || self.ended {
                ready!(self.out.poll_flush(cx, to)).map_err(|_| Broken::To)?;
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
                        return Poll::Ready(Err(Broken::To));
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
    ) -> Poll<Result<(), Broken>> {
        let mut buffer = ReadBuf::new(scratch);
        match ready!(Pin::new(from).poll_read(cx, &mut buffer)) {
            Ok(()) => {}
            // A peer that closes TCP without TLS's close_notify has closed all the same.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(_) => return Poll::Ready(Err(Broken::From)),
        }
        let data = buffer.filled();
        self.ended = data.is_empty();
        self.bytes += data.len() as u64;
        if !data.is_empty() {
            self.out.write(cx, to, [data, &[], &[]]).map_err(|_| Broken::To)?;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        runtime.block_on(test);
    }

    fn side<T>(io: T, early: &'static [u8]) -> Side<T> {
        Side { io, early: Bytes::from_static(early) }
    }

    #[test]
    fn carries_early_bytes_first_and_half_closes() {
        run(async {
            let local = Local::new();
            let (mut client, a) = tokio::io::duplex(7);
            let (b, mut server) = tokio::io::duplex(7);
            let relaying = tokio::task::spawn_local({
                let local = Rc::clone(&local);
                async move {
                    relay(&local, side(a, b"early "), side(b, b""), Duration::from_secs(60)).await
                }
            });
            let answering = tokio::task::spawn_local(async move {
                let mut all = String::new();
                server.read_to_string(&mut all).await.unwrap();
                server.write_all(b"good bye, and thanks").await.unwrap();
                all
            });
            client.write_all(b"hello, how are you?").await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "good bye, and thanks");
            assert_eq!(answering.await.unwrap(), "early hello, how are you?");
            let summary = relaying.await.unwrap();
            assert_eq!((summary.end, summary.a_to_b, summary.b_to_a), (End::ClosedByA, 25, 20));
        });
    }

    #[test]
    fn ends_when_nothing_moves() {
        run(async {
            let local = Local::new();
            tokio::task::spawn_local(local.clock.clone().run());
            let (mut client, a) = tokio::io::duplex(64);
            let (b, _server) = tokio::io::duplex(64);
            let start = Instant::now();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_secs(8)).await;
                client.write_all(b"x").await.unwrap();
                std::future::pending::<()>().await;
            });
            let summary = relay(&local, side(a, b""), side(b, b""), Duration::from_secs(10)).await;
            assert_eq!((summary.end, summary.a_to_b), (End::Idle, 1));
            assert!((17..=20).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        });
    }

    #[test]
    fn tunnels_close_one_after_another_while_draining() {
        run(async {
            let local = Local::new();
            tokio::task::spawn_local(local.clock.clone().run());
            let start = Instant::now();
            let relays: Vec<_> = (0..40)
                .map(|_| {
                    let local = Rc::clone(&local);
                    tokio::task::spawn_local(async move {
                        let (_client, a) = tokio::io::duplex(64);
                        let (b, _server) = tokio::io::duplex(64);
                        let summary =
                            relay(&local, side(a, b""), side(b, b""), Duration::from_secs(600))
                                .await;
                        (summary.end, start.elapsed())
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            local.enter(Phase::Draining, Duration::from_secs(20));
            let mut ends = Vec::new();
            for relay in relays {
                let (end, after) = relay.await.unwrap();
                assert_eq!(end, End::Draining);
                ends.push(after.as_secs());
            }
            ends.sort_unstable();
            assert!(ends[39] <= 21, "{ends:?}");
            ends.dedup();
            assert!(ends.len() > 5, "{ends:?}");
        });
    }

    #[test]
    fn ends_when_the_worker_cuts() {
        run(async {
            let local = Local::new();
            let (_client, a) = tokio::io::duplex(64);
            let (b, _server) = tokio::io::duplex(64);
            tokio::task::spawn_local({
                let local = Rc::clone(&local);
                async move { local.enter(Phase::Cutting, Duration::ZERO) }
            });
            let summary = relay(&local, side(a, b""), side(b, b""), Duration::from_secs(10)).await;
            assert_eq!(summary.end, End::Draining);
        });
    }
}
