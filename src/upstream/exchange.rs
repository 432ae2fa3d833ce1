//! One request and its answer on one upstream connection.
//!
//! No call blocks: each makes the progress that is possible now. The caller owns the loop, so
//! request body and answer move at the same time in one task, and an answer that arrives before the
//! end of the request is seen at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead as _, ReadBuf};

use crate::message::body::BodyError;
use crate::message::response::MAX_RESPONSE_HEAD;
use crate::message::scan::{HeadProgress, HeadScanner};
use crate::message::{BodyDecoder, DecodeStep, Framing, Reason, ResponseHead};
use crate::net::relay::RelaySide;
use crate::net::{WorkerLocal, WriteBuffer};
use crate::telemetry::upstreams::ConnGauge;

use super::connect::{Stream, blame};
use super::pool::{ConnAddrs, PooledConn, is_quiet};

/// Interim answers (1xx) an upstream may send before the real one.
const MAX_INTERIM: u8 = 8;

/// Bytes that are read at a time where nothing limits it: a worker's scratch buffer.
const WHOLE_READ: usize = 64 * 1024;

/// Result of a poll for the head.
#[derive(Debug)]
pub enum ResponseHeadPoll {
    /// A 1xx answer other than 101; the real one follows.
    Interim(ResponseHead),
    /// The answer.
    Final(ResponseHead),
}

/// Result of a poll for the body.
#[derive(Debug, Eq, PartialEq)]
pub enum BodyStep {
    /// Some of it was handed over; there may be more.
    Some,
    /// It has ended, with these trailer fields as text.
    End(Vec<u8>),
}

/// An observer of the answer body, called before the body is passed on. It changes nothing.
pub trait BodyTap {
    /// Looks at a piece; whether there is nothing more to see.
    fn read(&mut self, piece: &[u8]) -> bool;
}

/// A failure, and whether the request may have been acted upon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExchangeFailure {
    /// The word for it.
    pub reason: Reason,
    /// Not one byte of an answer was seen.
    pub silent: bool,
    /// Fault in the answer, for the operator.
    pub detail: Option<&'static str>,
}

impl ExchangeFailure {
    /// An answer that is not to be trusted.
    fn bad(detail: &'static str) -> Self {
        Self { reason: Reason::UpstreamBadAnswer, silent: false, detail: Some(detail) }
    }
}

/// Why a body does not go on.
#[derive(Clone, Copy)]
enum Broken {
    /// It ended early, for this reason.
    Cut(Reason),
    /// It is malformed.
    Bad(BodyError),
}

/// See the module.
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one connection")]
pub struct Exchange {
    stream: Stream,
    reused: bool,
    seat: Option<ConnGauge>,
    ends: Option<Box<ConnAddrs>>,
    out: WriteBuffer,
    /// The head is staged and may leave together with the first of the body.
    staged: bool,
    sending: Framing,
    sent: bool,
    broken: bool,
    input: BytesMut,
    scanner: HeadScanner,
    interim: u8,
    head_request: bool,
    heard: bool,
    decoder: Option<BodyDecoder>,
    reusable: bool,
    /// Bytes that are read at a time.
    read_limit: usize,
    onlookers: Vec<Box<dyn BodyTap>>,
    fault: Option<&'static str>,
}

impl Exchange {
    /// Starts an exchange: `head` is the request's head as sent, `sending` the framing it states.
    ///
    /// # Errors
    ///
    /// [`Reason::UpstreamBadAnswer`] if a new connection already holds bytes: an answer that comes
    /// before its request would be taken for the answer to another.
    pub fn begin(
        connection: PooledConn,
        head: Vec<u8>,
        sending: Framing,
        head_request: bool,
    ) -> Result<Self, ExchangeFailure> {
        let PooledConn { mut stream, reused, seat, ends } = connection;
        if !reused && !is_quiet(&mut stream) {
            return Err(ExchangeFailure::bad("bytes on a new connection before its request"));
        }
        stream.set_frugal(false);
        let mut out = WriteBuffer::new();
        *out.staged() = head;
        Ok(Self {
            stream,
            reused,
            seat,
            ends,
            out,
            staged: true,
            sent: sending == Framing::None,
            sending,
            broken: false,
            input: BytesMut::new(),
            scanner: HeadScanner::default(),
            interim: 0,
            head_request,
            heard: false,
            decoder: None,
            reusable: true,
            read_limit: WHOLE_READ,
            onlookers: Vec::new(),
            fault: None,
        })
    }

    /// Sets an observer for the body of the answer.
    pub fn shown_to(&mut self, body_tap: Box<dyn BodyTap>) {
        self.onlookers.push(body_tap);
    }

    /// Limits reads of the answer to this many bytes at a time, without read-ahead unless that is a
    /// whole scratch buffer.
    pub fn limit_reads(&mut self, bytes: usize) {
        if self.read_limit != bytes {
            self.read_limit = bytes;
            self.stream.set_frugal(bytes < WHOLE_READ);
        }
    }

    /// Whether the connection had carried another request before.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Fault in the answer, for the operator; `reason` is the reason the exchange failed with.
    #[must_use]
    pub fn fault(&self, reason: Reason) -> Option<String> {
        (reason == Reason::UpstreamBadAnswer).then(|| self.fault.unwrap_or("malformed").to_owned())
    }

    /// Whether the whole request has been handed over to this exchange.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.sent
    }

    /// Whether more of the request body may be handed over now.
    #[must_use]
    pub fn takes_more(&self) -> bool {
        !self.sent && !self.broken && (self.staged || self.out.is_empty())
    }

    /// Whether bytes of the request are waiting for the upstream to take them.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        !self.out.is_empty() && !self.broken
    }

    /// Hands over some of the request body, framed as the head says.
    pub fn send(&mut self, cx: &mut Context<'_>, data: &[u8]) {
        if self.broken || data.is_empty() {
            return;
        }
        self.staged = false;
        let written = if self.sending == Framing::Chunked {
            let mut size = [0; 18];
            let size = chunk_size(&mut size, data.len());
            self.out.write(cx, &mut self.stream, [size, data, b"\r\n"])
        } else {
            self.out.write(cx, &mut self.stream, [data, &[], &[]])
        };
        // The upstream may have answered and closed without reading on; that answer is what counts.
        self.broken |= written.is_err();
    }

    /// Says that the request body has ended.
    pub fn finish(&mut self, cx: &mut Context<'_>, trailers: &[u8]) {
        if self.sending == Framing::Chunked && !self.broken {
            let written = self.out.write(cx, &mut self.stream, [b"0\r\n", trailers, b"\r\n"]);
            self.broken |= written.is_err();
        }
        self.sent = true;
    }

    /// Sends the staged bytes.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.staged = false;
        if !self.broken {
            self.broken = ready!(self.out.poll_flush(cx, &mut self.stream)).is_err();
        }
        Poll::Ready(())
    }

    /// Waits for the next head.
    ///
    /// # Errors
    ///
    /// [`ExchangeFailure`] if the upstream closes, violates HTTP/1.1, or floods.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        local: &WorkerLocal,
    ) -> Poll<Result<ResponseHeadPoll, ExchangeFailure>> {
        let bad = |detail| Poll::Ready(Err(ExchangeFailure::bad(detail)));
        loop {
            match self.scanner.scan(&self.input) {
                HeadProgress::Ends(end) if end > MAX_RESPONSE_HEAD => {
                    return bad("head longer than 64 KiB");
                }
                HeadProgress::Ends(end) => {
                    let head = self.input.split_to(end).freeze();
                    self.scanner = HeadScanner::default();
                    return Poll::Ready(self.received(&head));
                }
                HeadProgress::BareLf => return bad("a line of the head ends in LF without CR"),
                HeadProgress::Partial => {}
            }
            let expected = b"HTTP/1.";
            let start = self.input.len().min(expected.len());
            if self.input.get(..start) != expected.get(..start) {
                return bad("not HTTP/1.0 or HTTP/1.1");
            }
            if self.input.len() > MAX_RESPONSE_HEAD {
                return bad("head longer than 64 KiB");
            }
            match ready!(self.fill(cx, local)) {
                Ok(0) => return self.fail(Reason::UpstreamClosed),
                Err(error) => return self.fail(blame(&error, Reason::UpstreamClosed)),
                Ok(_) => {}
            }
        }
    }

    fn received(&mut self, head: &Bytes) -> Result<ResponseHeadPoll, ExchangeFailure> {
        let head = ResponseHead::parse(head, self.head_request).map_err(ExchangeFailure::bad)?;
        if head.status < 200 && head.status != 101 {
            self.interim += 1;
            return if self.interim > MAX_INTERIM {
                Err(ExchangeFailure::bad("too many interim answers"))
            } else {
                Ok(ResponseHeadPoll::Interim(head))
            };
        }
        self.reusable = head.keep_alive && head.framing != Framing::Close;
        self.decoder = Some(BodyDecoder::of_answer(head.framing));
        Ok(ResponseHeadPoll::Final(head))
    }

    /// Hands some of the answer's body to `sink`, reading at most once.
    ///
    /// # Errors
    ///
    /// [`Reason::UpstreamCut`] if it ends early, [`Reason::UpstreamBadAnswer`] if it is malformed.
    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        local: &WorkerLocal,
        sink: &mut dyn FnMut(&mut Context<'_>, &[u8]),
    ) -> Poll<Result<BodyStep, Reason>> {
        let Some(mut decoder) = self.decoder.take() else {
            return Poll::Ready(Err(Reason::Internal));
        };
        let result = self.step(cx, local, &mut decoder, sink);
        self.decoder = Some(decoder);
        // Even where the body has ended, as it has when only its trailers are malformed.
        self.reusable &= !matches!(result, Poll::Ready(Err(_)));
        result
    }

    fn step(
        &mut self,
        cx: &mut Context<'_>,
        local: &WorkerLocal,
        decoder: &mut BodyDecoder,
        sink: &mut dyn FnMut(&mut Context<'_>, &[u8]),
    ) -> Poll<Result<BodyStep, Reason>> {
        let onlookers = &mut self.onlookers;
        let sink = &mut |cx: &mut Context<'_>, data: &[u8]| {
            if !onlookers.is_empty() {
                onlookers.retain_mut(|body_tap| !body_tap.read(data));
            }
            sink(cx, data);
        };
        if !self.input.is_empty() || decoder.is_done() {
            let mut at = 0;
            let ended = hand_over(decoder, &self.input, &mut at, cx, sink);
            self.input.advance(at);
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
            return Poll::Ready(self.stepped(decoder, ended));
        }
        let (stream, limit) = (&mut self.stream, self.read_limit);
        let (ended, surplus) = ready!(local.with_scratch(|scratch| {
            let limit = limit.min(scratch.len());
            let mut buffer = ReadBuf::new(scratch.get_mut(..limit).unwrap_or_default());
            match ready!(Pin::new(stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    let mut at = 0;
                    let ended = hand_over(decoder, buffer.filled(), &mut at, cx, sink);
                    Poll::Ready((ended, at < buffer.filled().len()))
                }
                // A TLS stream that stops without close_notify was cut, even if the body was to end
                // with the connection.
                Ok(()) if decoder.ends_with_connection() => Poll::Ready((Ok(true), false)),
                Ok(()) => Poll::Ready((Err(Broken::Cut(Reason::UpstreamCut)), false)),
                Err(error) => {
                    let reason = blame(&error, Reason::UpstreamCut);
                    Poll::Ready((Err(Broken::Cut(reason)), false))
                }
            }
        }));
        self.reusable &= !surplus;
        Poll::Ready(self.stepped(decoder, ended))
    }

    fn stepped(
        &mut self,
        decoder: &mut BodyDecoder,
        ended: Result<bool, Broken>,
    ) -> Result<BodyStep, Reason> {
        let bad = match ended {
            Ok(false) => return Ok(BodyStep::Some),
            Ok(true) => match decoder.trailers() {
                Ok(trailers) => return Ok(BodyStep::End(trailers)),
                Err(bad) => bad,
            },
            Err(Broken::Cut(reason)) => return Err(reason),
            Err(Broken::Bad(bad)) => bad,
        };
        self.fault = Some(bad.as_str());
        Err(Reason::UpstreamBadAnswer)
    }

    /// Takes the connection out after a 101, with the bytes read beyond its head and its gauge.
    #[must_use]
    pub fn into_tunnel(self) -> (RelaySide<Stream>, Option<ConnGauge>) {
        (RelaySide { io: self.stream, early: self.input.freeze() }, self.seat)
    }

    /// The connection, if request and answer are complete and it may carry another.
    #[must_use]
    pub fn into_idle(self) -> Option<PooledConn> {
        let complete = self.sent
            && !self.broken
            && self.out.is_empty()
            && self.input.is_empty()
            && self.decoder.as_ref().is_some_and(BodyDecoder::is_done);
        let Self { stream, reused, seat, ends, .. } = self;
        (complete && self.reusable).then_some(PooledConn { stream, reused, seat, ends })
    }

    fn fill(&mut self, cx: &mut Context<'_>, local: &WorkerLocal) -> Poll<io::Result<usize>> {
        let (stream, input, limit) = (&mut self.stream, &mut self.input, self.read_limit);
        let read = ready!(local.with_scratch(|scratch| {
            let limit = limit.min(scratch.len());
            let mut buffer = ReadBuf::new(scratch.get_mut(..limit).unwrap_or_default());
            ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
            input.extend_from_slice(buffer.filled());
            Poll::Ready(io::Result::Ok(buffer.filled().len()))
        }))?;
        self.heard |= read > 0;
        Poll::Ready(Ok(read))
    }

    fn fail<T>(&self, reason: Reason) -> Poll<Result<T, ExchangeFailure>> {
        Poll::Ready(Err(ExchangeFailure { reason, silent: !self.heard, detail: None }))
    }
}

/// Passes all data in `input` to `sink`; whether the body has ended.
fn hand_over(
    decoder: &mut BodyDecoder,
    input: &[u8],
    at: &mut usize,
    cx: &mut Context<'_>,
    sink: &mut dyn FnMut(&mut Context<'_>, &[u8]),
) -> Result<bool, Broken> {
    loop {
        match decoder.decode(input, at) {
            Ok(DecodeStep::Data(range)) => sink(cx, input.get(range).unwrap_or_default()),
            Ok(DecodeStep::More) => return Ok(decoder.is_done()),
            Ok(DecodeStep::End) => return Ok(true),
            Err(bad) => return Err(Broken::Bad(bad)),
        }
    }
}

/// Writes `length` as a chunk-size line into `buffer` and returns it.
#[must_use]
pub fn chunk_size(buffer: &mut [u8; 18], length: usize) -> &[u8] {
    let mut at = buffer.len() - 2;
    buffer[16] = b'\r';
    buffer[17] = b'\n';
    let mut left = length;
    loop {
        at -= 1;
        buffer[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
        if left == 0 || at == 0 {
            return &buffer[at..];
        }
    }
}

/// Idle lifetime of a connection: the configured one, or a second less than the upstream announces.
#[must_use]
pub fn kept_for(configured: Duration, head: &ResponseHead) -> Duration {
    match head.keep_alive_hint() {
        // The upstream counts from its last byte, we from ours; a second covers the difference.
        Some(hint) => configured.min(hint.saturating_sub(Duration::from_secs(1))),
        None => configured,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_chunk_sizes() {
        let mut buffer = [0; 18];
        assert_eq!(chunk_size(&mut buffer, 0), b"0\r\n");
        assert_eq!(chunk_size(&mut buffer, 15), b"f\r\n");
        assert_eq!(chunk_size(&mut buffer, 0x1_2345), b"12345\r\n");
        assert_eq!(chunk_size(&mut buffer, usize::MAX), b"ffffffffffffffff\r\n");
    }
}
