//! The bodies of an HTTP/2 stream, both ways.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use crate::downstream::Worker;
use crate::downstream::transfer::{Client, Upload, push};
use crate::message::body::{passable_trailers, trailer_fields};
use crate::message::forward::field;
use crate::message::{Reason, ResponseHead};
use crate::net::clock::TICK;
use crate::net::{Alarm, Clock};
use crate::reverse::record::Record;
use crate::upstream::{BodyStep, Exchange};

use super::streams::Stall;

/// Longest answer, in bytes, that a stream may hold without anybody watching whether its client takes
/// it; a frame, and a quarter of the room that clients begin with.
const SHORT: u64 = 16 * 1024;

/// The request body of a stream.
pub(super) struct Sender {
    pub(super) body: Incoming,
    pub(super) upload: Upload,
    pub(super) stated: Option<u64>,
    /// Trailer fields as text, as they came.
    pub(super) trailers: Vec<u8>,
    pub(super) clock: Clock,
}

impl Client for Sender {
    fn poll_upload(&mut self, cx: &mut Context<'_>, exchange: &mut Exchange) -> Result<(), Reason> {
        let now = self.clock.now();
        while !self.upload.is_done() && exchange.takes_more() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => {
                    self.upload.pace.wait(now);
                    return Ok(());
                }
                Poll::Ready(Some(Err(_))) => return Err(Reason::ClientGone),
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.upload.pass(cx, now, data, exchange)?;
                        if self.stated.is_some_and(|stated| self.upload.bytes > stated) {
                            return Err(Reason::AmbiguousFraming);
                        }
                    }
                    for (name, value) in frame.trailers_ref().into_iter().flatten() {
                        field(&mut self.trailers, name.as_str(), value.as_bytes());
                    }
                }
                Poll::Ready(None) => {
                    if self.stated.is_some_and(|stated| self.upload.bytes != stated) {
                        return Err(Reason::AmbiguousFraming);
                    }
                    let trailers = passable_trailers(&std::mem::take(&mut self.trailers))
                        .map_err(|_| Reason::BadRequest)?;
                    self.upload.end(cx, &trailers, exchange);
                }
            }
        }
        if self.upload.pace.moved(now, 0) { Ok(()) } else { Err(Reason::BodyTooSlow) }
    }

    fn upload(&mut self) -> &mut Upload {
        &mut self.upload
    }

    fn interim(&mut self, _: &mut Context<'_>, _: Option<&ResponseHead>) {}

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // hyper drops the request when its stream is reset.
        Poll::Pending
    }
}

/// The body of an answer.
pub(super) enum AnswerBody {
    Empty,
    Own(Option<Bytes>),
    Relay(Box<Relay>),
}

/// Why a stream is reset instead of ended.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.word())]
pub(super) struct Cut(Reason);

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Own(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Relay(relay) => relay.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Own(None) => true,
            Self::Own(Some(_)) => false,
            Self::Relay(relay) => relay.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Own(None) => SizeHint::with_exact(0),
            Self::Own(Some(body)) => SizeHint::with_exact(body.len() as u64),
            Self::Relay(_) => SizeHint::default(),
        }
    }
}

/// An answer on its way, and the rest of the request if there is any.
pub(super) struct Relay {
    pub(super) exchange: Option<Exchange>,
    pub(super) sender: Sender,
    pub(super) record: Box<Record>,
    pub(super) worker: Rc<Worker>,
    pub(super) alarm: Alarm,
    pub(super) stall: Rc<Stall>,
    pub(super) patience: Duration,
    pub(super) idle: Duration,
    pub(super) identity: u64,
    pub(super) keep: Duration,
    pub(super) max_idle: usize,
    pub(super) ready: VecDeque<Bytes>,
    pub(super) trailers: Option<Vec<u8>>,
    pub(super) ended: bool,
    pub(super) silent_since: Option<Instant>,
}

impl Relay {
    /// Whether the end may be said with the last bytes: in a frame of its own it would be a TLS
    /// record and a system call of its own. Not of long answers: once hyper knows of the end it no
    /// longer asks, and nobody would notice that the client makes no room for what is left.
    fn is_over(&self) -> bool {
        let short = self.record.response_bytes <= SHORT;
        short && self.ended && self.ready.is_empty() && self.trailers.is_none()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.stall.deadline.set(None);
        loop {
            if let Some(data) = self.ready.pop_front() {
                self.record.response_bytes += data.len() as u64;
                self.silent_since = None;
                self.stall.deadline.set(Some(self.worker.local.clock.now() + self.patience));
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if self.ended {
                return Poll::Ready(
                    self.trailers.take().and_then(|text| trailer_frame(&text)).map(Ok),
                );
            }
            if let Err(reason) = ready!(self.advance(cx)) {
                self.record.reason = Some(reason);
                self.exchange = None;
                return Poll::Ready(Some(Err(Cut(reason))));
            }
        }
    }

    /// Moves what can be moved; pending when only others can go on.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(Err(Reason::Internal)) };
        push(&mut self.sender, cx, exchange)?;
        self.record.request_bytes = self.sender.upload.bytes;
        let queue = &mut self.ready;
        let mut sink =
            |_: &mut Context<'_>, data: &[u8]| queue.push_back(Bytes::copy_from_slice(data));
        match exchange.poll_body(cx, &self.worker.local, &mut sink) {
            Poll::Ready(Ok(BodyStep::Some)) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(BodyStep::End(trailers))) => {
                self.trailers = (!trailers.is_empty()).then_some(trailers);
                self.finish();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(reason)) => Poll::Ready(Err(reason)),
            Poll::Pending => self.look_at_clock(cx),
        }
    }

    fn look_at_clock(&mut self, cx: &Context<'_>) -> Poll<Result<(), Reason>> {
        let now = self.worker.local.clock.now();
        let silent = *self.silent_since.get_or_insert(now) + self.idle;
        let upload = self.sender.upload.pace.deadline();
        self.alarm.set_at(upload.map_or(silent, |upload| upload.min(silent)) + TICK);
        if self.alarm.poll(cx).is_ready() {
            if upload.is_some_and(|at| at <= now) {
                return Poll::Ready(Err(Reason::BodyTooSlow));
            }
            if silent <= now {
                return Poll::Ready(Err(Reason::UpstreamStalled));
            }
        }
        Poll::Pending
    }

    /// Ends an exchange whose answer has no body.
    pub(super) fn skip_body(&mut self) {
        let Some(exchange) = &mut self.exchange else { return };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let step = exchange.poll_body(&mut cx, &self.worker.local, &mut |_, _| {});
        if matches!(step, Poll::Ready(Ok(BodyStep::End(_)))) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.ended = true;
        self.stall.deadline.set(None);
        if let Some(connection) = self.exchange.take().and_then(Exchange::into_idle) {
            self.worker.pool.put(self.identity, connection, self.keep, self.max_idle);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.ended || self.record.reason.is_some() {
            return;
        }
        let now = self.worker.local.clock.now();
        let stalled = self.stall.deadline.get().is_some_and(|at| at <= now);
        self.record.reason = Some(if stalled { Reason::ClientTooSlow } else { Reason::ClientGone });
    }
}

fn trailer_frame(text: &[u8]) -> Option<Frame<Bytes>> {
    let fields = trailer_fields(text).ok()?;
    let mut map = HeaderMap::with_capacity(fields.len());
    for (_, name, value) in fields.iter() {
        map.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(Frame::trailers(map))
}
