//! Sends an answer on an HTTP/2 stream, at the speed of the client.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason as Code, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio::time::Instant;

use crate::downstream::Worker;
use crate::downstream::drive::push;
use crate::downstream::min_rate::MinRate;
use crate::message::Reason;
use crate::message::body::trailer_fields;
use crate::message::forward::ResponseEdits;
use crate::net::Timer;
use crate::net::clock::TICK;
use crate::reverse::record::RequestLog;
use crate::upstream::{BodyStep, Exchange};

use super::Switched;
use super::body::StreamRequestBody;
use super::budget::StreamBudget;
use super::coalesce::ConnProgress;
use super::local_reply::reject;
use super::streams::OpenStream;

/// The body of an answer.
pub(super) enum ResponseStream {
    Empty,
    Own(Bytes),
    Relay(Box<ResponseRelay>),
    /// No body: the stream becomes a tunnel.
    Tunnel(Box<Switched>),
}

/// Sends an answer on its stream. `open` counts the stream.
pub(super) async fn deliver(
    response: Response<ResponseStream>,
    mut respond: SendResponse<Bytes>,
    open: OpenStream,
) {
    let (parts, body) = response.into_parts();
    let head = Response::from_parts(parts, ());
    match body {
        // If sending fails, the client has reset the stream. The record is already written.
        ResponseStream::Empty => drop(respond.send_response(head, true)),
        ResponseStream::Own(body) => {
            if let Ok(mut send) = respond.send_response(head, false) {
                drop(send.send_data(body, true));
            }
        }
        ResponseStream::Relay(relay) => relay.run(head, respond).await,
        ResponseStream::Tunnel(switched) => {
            if let Ok(send) = respond.send_response(head, false) {
                switched.begin(send, open);
            }
        }
    }
}

/// An answer that is being forwarded, and the rest of the request if there is any.
pub(super) struct ResponseRelay {
    pub(super) exchange: Option<Exchange>,
    pub(super) budget: Arc<StreamBudget>,
    pub(super) sender: StreamRequestBody,
    pub(super) record: Box<RequestLog>,
    pub(super) worker: Rc<Worker>,
    pub(super) timer: Timer,
    /// Field edits for an error answer of the gateway, if one is needed.
    pub(super) edits: Arc<ResponseEdits>,
    /// Minimum rate of the client.
    pub(super) pace: MinRate,
    /// Progress of the connection.
    pub(super) progress: ConnProgress,
    /// Bytes of the connection that the client receives before it can enlarge the window.
    pub(super) goal: i64,
    /// Idle timeout of the upstream.
    pub(super) idle: Duration,
    pub(super) identity: u64,
    pub(super) keep: Duration,
    pub(super) max_idle: usize,
    pub(super) ready: VecDeque<Bytes>,
    pub(super) trailers: Option<Vec<u8>>,
    pub(super) ended: bool,
    /// The whole answer has been passed to the stream.
    pub(super) delivered: bool,
    pub(super) silent_since: Option<Instant>,
}

impl ResponseRelay {
    async fn run(mut self: Box<Self>, head: Response<()>, mut respond: SendResponse<Bytes>) {
        // The first part of the body is read before the head is sent. If it is malformed, a 502 is
        // still possible.
        let first = poll_fn(|cx| Poll::Ready(self.advance(cx))).await;
        if let Poll::Ready(Err(reason)) = first {
            return self.reject(reason, respond);
        }
        let is_over = self.is_over();
        let Ok(mut send) = respond.send_response(head, is_over) else {
            return self.fail(self.record.gone());
        };
        let done = if is_over { Ok(()) } else { poll_fn(|cx| self.poll(cx, &mut send)).await };
        let Err(reason) = done else {
            self.delivered = true;
            return;
        };
        self.fail(reason);
        let is_clients = matches!(reason, Reason::ClientTooSlow | Reason::BodyTooSlow);
        send.send_reset(if is_clients { Code::CANCEL } else { Code::INTERNAL_ERROR });
    }

    /// Records why the answer ends early, and drops the upstream connection.
    fn fail(&mut self, reason: Reason) {
        self.record.detail = self.exchange.take().and_then(|exchange| exchange.fault(reason));
        self.record.reason = Some(reason);
    }

    /// Answers with an error instead.
    fn reject(mut self: Box<Self>, reason: Reason, mut respond: SendResponse<Bytes>) {
        self.fail(reason);
        let (parts, body) = reject(&mut self.record, &self.edits, reason, None).into_parts();
        let head = Response::from_parts(parts, ());
        let ResponseStream::Own(body) = body else {
            return drop(respond.send_response(head, true));
        };
        if let Ok(mut send) = respond.send_response(head, false) {
            drop(send.send_data(body, true));
        }
    }

    /// Whether everything has been sent.
    fn is_over(&self) -> bool {
        self.ended && self.ready.is_empty() && self.trailers.is_none()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        send: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), Reason>> {
        loop {
            match self.send_ready(cx, send) {
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Err(reason)) => return Poll::Ready(Err(reason)),
                Poll::Pending => return self.wait_for_client(cx, send),
            }
            if !self.ended && self.budget.poll_room(cx).is_pending() {
                return self.wait_for_client(cx, send);
            }
            if let Poll::Ready(step) = self.advance(cx) {
                step?;
            } else if send.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(self.record.gone()));
            } else {
                return self.wait_for_upstream(cx);
            }
        }
    }

    /// Sends what fits into the client's window. Returns whether that was the end of the answer.
    fn send_ready(
        &mut self,
        cx: &mut Context<'_>,
        send: &mut SendStream<Bytes>,
    ) -> Poll<Result<bool, Reason>> {
        while let Some(piece) = self.ready.front_mut() {
            send.reserve_capacity(piece.len());
            let room = send.capacity();
            if room == 0 {
                match ready!(send.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return Poll::Ready(Err(self.record.gone())),
                }
            }
            let part = piece.split_to(room.min(piece.len()));
            if piece.is_empty() {
                self.ready.pop_front();
            }
            let length = part.len() as u64;
            self.record.response_bytes += length;
            self.silent_since = None;
            self.pace.moved(self.worker.local.clock.now(), length);
            let is_over = self.is_over();
            if send.send_data(part, is_over).is_err() {
                return Poll::Ready(Err(self.record.gone()));
            }
            if is_over {
                return Poll::Ready(Ok(true));
            }
        }
        if !self.ended {
            return Poll::Ready(Ok(false));
        }
        let ended = match self.trailers.take().and_then(|text| trailer_map(&text)) {
            Some(trailers) => send.send_trailers(trailers),
            None => send.send_data(Bytes::new(), true),
        };
        Poll::Ready(ended.map(|()| true).map_err(|_| self.record.gone()))
    }

    /// Reads more from the upstream, and sends more of the request.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(Err(Reason::Internal)) };
        push(&mut self.sender, cx, exchange)?;
        self.record.request_bytes = self.sender.upload.bytes;
        exchange.limit_reads(self.budget.piece());
        let (queue, budget) = (&mut self.ready, &self.budget);
        let mut sink = |_: &mut Context<'_>, data: &[u8]| queue.push_back(budget.keep(data));
        match ready!(exchange.poll_body(cx, &self.worker.local, &mut sink))? {
            BodyStep::Some => {}
            BodyStep::End(trailers) => {
                self.trailers = (!trailers.is_empty()).then_some(trailers);
                self.finish();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the client to open its window, within its minimum rate.
    fn wait_for_client(
        &mut self,
        cx: &mut Context<'_>,
        send: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), Reason>> {
        if let Some(exchange) = &mut self.exchange {
            push(&mut self.sender, cx, exchange)?;
            self.record.request_bytes = self.sender.upload.bytes;
        }
        if send.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(self.record.gone()));
        }
        if !self.pace.keeps_up() {
            return Poll::Ready(Err(Reason::ClientTooSlow));
        }
        self.silent_since = None;
        if self.pace.deadline().is_none() {
            self.goal = self.progress.goal();
        }
        self.pace.wait(self.worker.local.clock.now());
        self.check_deadlines(cx)
    }

    fn wait_for_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let now = self.worker.local.clock.now();
        self.pace.moved(now, 0);
        self.silent_since.get_or_insert(now);
        self.check_deadlines(cx)
    }

    fn check_deadlines(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        loop {
            let upstream = self.silent_since.map(|since| since + self.idle);
            let upload = self.sender.upload.pace.deadline();
            let checks = [self.pace.next_check(), upstream, upload];
            let Some(earliest) = checks.into_iter().flatten().min() else { return Poll::Pending };
            self.timer.set_at(earliest + TICK);
            if self.timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = self.worker.local.clock.now();
            let (progress, goal) = (&self.progress, self.goal);
            let acknowledged = || progress.acknowledged().map(|bytes| bytes.min(goal));
            if self.pace.is_late(now, acknowledged) {
                return Poll::Ready(Err(Reason::ClientTooSlow));
            }
            if upload.is_some_and(|at| at <= now) {
                return Poll::Ready(Err(Reason::BodyTooSlow));
            }
            if upstream.is_some_and(|at| at <= now) {
                return Poll::Ready(Err(Reason::UpstreamStalled));
            }
        }
    }

    /// Ends an exchange whose answer has no body.
    pub(super) fn skip_body(&mut self) {
        let Some(exchange) = &mut self.exchange else { return };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let step = exchange.poll_body(&mut cx, &self.worker.local, &mut |_, _| {});
        if matches!(step, Poll::Ready(Ok(BodyStep::End(_)))) {
            self.finish();
            self.delivered = true;
        }
    }

    fn finish(&mut self) {
        self.ended = true;
        if let Some(connection) = self.exchange.take().and_then(Exchange::into_idle) {
            self.worker.pool.put(self.identity, connection, self.keep, self.max_idle);
        }
    }
}

impl Drop for ResponseRelay {
    fn drop(&mut self) {
        if !self.delivered && self.record.reason.is_none() {
            self.record.reason = Some(self.record.gone());
        }
    }
}

fn trailer_map(text: &[u8]) -> Option<HeaderMap> {
    let fields = trailer_fields(text).ok()?;
    let mut map = HeaderMap::with_capacity(fields.len());
    for (_, name, value) in fields.iter() {
        map.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(map)
}
