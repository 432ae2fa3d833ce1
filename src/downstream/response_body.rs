//! Response bodies for HTTP/1 clients: framing, back-pressure and timeouts.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::message::forward::{ResponseEdits, ResponseFraming};
use crate::message::{Framing, KnownField, Reason, ResponseHead, Version};
use crate::net::clock::TICK;
use crate::net::{Io, Timer};
use crate::upstream::exchange::chunk_size;
use crate::upstream::{BodyStep, Exchange};

use super::MAX_READS_PER_POLL;
use super::conn::Conn;
use super::drive::push;
use super::min_rate::MinRate;
use super::request_body::RequestBody;

/// Chunks smaller than this are copied to the output buffer, to be sent together with later ones.
const COALESCE_BELOW: usize = 4 * 1024;

/// A response head with the settings of its route.
pub(crate) struct ResponseParts<'a> {
    pub(crate) head: &'a ResponseHead,
    pub(crate) edits: &'a ResponseEdits,
    pub(crate) idle: Duration,
}

impl ResponseParts<'_> {
    /// Framing of the body for a client of this HTTP version.
    pub(crate) fn sent(&self, version: Version) -> ResponseFraming {
        let stated = || {
            let length = self.head.fields.first(KnownField::ContentLength)?;
            std::str::from_utf8(length).ok()?.parse().ok()
        };
        match self.head.framing {
            Framing::Length(length) => ResponseFraming::Length(length),
            // In responses to HEAD, and in a 304, the length describes a body that is not sent.
            Framing::None if self.head.status >= 200 && self.head.status != 204 => {
                stated().map_or(ResponseFraming::Nothing, ResponseFraming::Length)
            }
            Framing::None => ResponseFraming::Nothing,
            Framing::Chunked | Framing::Close if version == Version::Http11 => {
                ResponseFraming::Chunked
            }
            Framing::Chunked | Framing::Close => ResponseFraming::Close,
        }
    }
}

/// State of a response body that is sent to the client.
pub(crate) struct ResponseBody {
    chunked: bool,
    /// The head is in the output buffer and can be sent together with the start of the body.
    staged: bool,
    ended: bool,
    pub(crate) bytes: u64,
    pace: MinRate,
    idle: Duration,
    silent_since: Option<Instant>,
}

impl ResponseBody {
    /// Body of a response whose head is in the output buffer. `pace` checks the client; `idle` is
    /// the longest silence of the upstream.
    pub(crate) fn new(sent: ResponseFraming, pace: MinRate, idle: Duration) -> Self {
        Self {
            chunked: sent == ResponseFraming::Chunked,
            staged: true,
            ended: false,
            bytes: 0,
            pace,
            idle,
            silent_since: None,
        }
    }

    pub(crate) fn poll<T: Io>(
        &mut self,
        cx: &mut Context<'_>,
        sender: &mut RequestBody<'_, T>,
        exchange: &mut Exchange,
        timer: &Timer,
    ) -> Poll<Result<(), Reason>> {
        if let Err(reason) = push(sender, cx, exchange) {
            return Poll::Ready(Err(reason));
        }
        let before = self.taken(sender.conn);
        let blocked = match self.advance(cx, sender.conn, exchange) {
            Poll::Ready(Ok(Flow::Done)) => return Poll::Ready(Ok(())),
            Poll::Ready(Ok(Flow::Again)) => {
                cx.waker().wake_by_ref();
                false
            }
            Poll::Ready(Ok(Flow::Waiting)) => false,
            Poll::Ready(Err(reason)) => return Poll::Ready(Err(reason)),
            Poll::Pending => true,
        };
        if sender.upload.is_done() && sender.conn.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Reason::ClientGone));
        }
        let now = sender.conn.local.clock.now();
        let moved = self.taken(sender.conn).saturating_sub(before);
        // A poll without progress must not reset the waiting time of a client that reads nothing.
        if !blocked || moved > 0 {
            self.pace.moved(now, moved);
        }
        if blocked {
            if !self.pace.keeps_up() {
                return Poll::Ready(Err(Reason::ClientTooSlow));
            }
            self.pace.wait(now);
            self.silent_since = None;
        } else if moved > 0 {
            self.silent_since = Some(now);
        } else {
            self.silent_since.get_or_insert(now);
        }
        self.poll_deadlines(cx, sender, timer, now)
    }

    /// Number of body bytes that were sent to the client.
    fn taken<T>(&self, conn: &Conn<T>) -> u64 {
        self.bytes.saturating_sub(conn.out.len() as u64)
    }

    fn poll_deadlines<T: Io>(
        &mut self,
        cx: &Context<'_>,
        sender: &RequestBody<'_, T>,
        timer: &Timer,
        now: Instant,
    ) -> Poll<Result<(), Reason>> {
        loop {
            let upstream = self.silent_since.map(|since| since + self.idle);
            let upload = sender.upload.pace.deadline();
            let checks = [self.pace.next_check(), upstream, upload];
            let Some(earliest) = checks.into_iter().flatten().min() else { return Poll::Pending };
            timer.set_at(earliest + TICK);
            if timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
            let acknowledged = || sender.conn.io.unacknowledged().map(|queued| -queued);
            if self.pace.is_late(now, acknowledged) {
                return Poll::Ready(Err(Reason::ClientTooSlow));
            }
            if upstream.is_some_and(|at| at <= now) {
                return Poll::Ready(Err(Reason::UpstreamStalled));
            }
            if upload.is_some_and(|at| at <= now) {
                return Poll::Ready(Err(Reason::BodyTooSlow));
            }
        }
    }

    /// Moves bytes from the upstream to the client. Pending if the client does not read.
    fn advance<T: Io>(
        &mut self,
        cx: &mut Context<'_>,
        conn: &mut Conn<T>,
        exchange: &mut Exchange,
    ) -> Poll<Result<Flow, Reason>> {
        for _ in 0..MAX_READS_PER_POLL {
            let mut waiting = false;
            if !self.ended && (conn.out.is_empty() || self.staged) {
                self.staged = false;
                match self.step(cx, conn, exchange) {
                    Poll::Ready(result) => result?,
                    Poll::Pending => waiting = true,
                }
            }
            match conn.out.poll_flush(cx, &mut conn.io) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Reason::ClientGone)),
                Poll::Ready(Ok(())) if self.ended => return Poll::Ready(Ok(Flow::Done)),
                Poll::Ready(Ok(())) if waiting => return Poll::Ready(Ok(Flow::Waiting)),
                Poll::Ready(Ok(())) => {}
            }
        }
        Poll::Ready(Ok(Flow::Again))
    }

    fn step<T: Io>(
        &mut self,
        cx: &mut Context<'_>,
        conn: &mut Conn<T>,
        exchange: &mut Exchange,
    ) -> Poll<Result<(), Reason>> {
        let Conn { io, out, local, .. } = conn;
        let (chunked, mut moved, mut gone) = (self.chunked, 0, false);
        let mut sink = |cx: &mut Context<'_>, data: &[u8]| {
            moved += data.len() as u64;
            let mut size = [0; 18];
            let written = if !chunked {
                out.write(cx, io, [data, &[], &[]])
            } else if data.len() < COALESCE_BELOW {
                let staged = out.staged();
                for part in [chunk_size(&mut size, data.len()), data, b"\r\n"] {
                    staged.extend_from_slice(part);
                }
                Ok(())
            } else {
                out.write(cx, io, [chunk_size(&mut size, data.len()), data, b"\r\n"])
            };
            gone |= written.is_err();
        };
        let step = exchange.poll_body(cx, local, &mut sink);
        self.bytes += moved;
        if gone {
            return Poll::Ready(Err(Reason::ClientGone));
        }
        match ready!(step) {
            Ok(BodyStep::Some) => Poll::Ready(Ok(())),
            Ok(BodyStep::End(trailers)) => {
                self.ended = true;
                if chunked {
                    let staged = out.staged();
                    for part in [b"0\r\n", trailers.as_slice(), b"\r\n"] {
                        staged.extend_from_slice(part);
                    }
                }
                Poll::Ready(Ok(()))
            }
            Err(reason) => Poll::Ready(Err(reason)),
        }
    }
}

/// Result of one round of moving bytes.
enum Flow {
    /// The whole response has been sent.
    Done,
    /// The upstream has no more bytes at present.
    Waiting,
    /// There may be more bytes, but other tasks of the worker run first.
    Again,
}
