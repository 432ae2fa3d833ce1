//! The part of an exchange that is the same for HTTP/1 and HTTP/2 clients: sending the request
//! while waiting for the head of the answer.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use crate::message::{BodyDecoder, Framing, KnownField, Reason, RequestHead, ResponseHead, field};
use crate::net::clock::TICK;
use crate::net::{Timer, WorkerLocal};
use crate::socketio::RequestProbe;
use crate::upstream::exchange::ExchangeFailure;
use crate::upstream::{Exchange, ResponseHeadPoll};

use super::min_rate::MinRate;

/// The body of a request on its way to the upstream.
pub(crate) struct Upload {
    /// Cuts an HTTP/1 body out of the connection; unused for HTTP/2.
    pub(crate) decoder: BodyDecoder,
    pub(crate) bytes: u64,
    pub(crate) pace: MinRate,
    max: u64,
    /// Set while the client waits to be told to go on.
    pub(crate) held: bool,
    /// The client may still be sent a 100.
    pub(crate) asks: bool,
    ended: bool,
    /// Who looks at the pieces.
    probe: Option<Rc<RequestProbe>>,
}

impl Upload {
    /// Of this request, of at most `max` bytes, with a client's patience `idle` and `min_rate`.
    pub(crate) fn new(
        head: &RequestHead,
        max: u64,
        (idle, min_rate): (Duration, u64),
        probe: Option<&Rc<RequestProbe>>,
    ) -> Self {
        Self {
            decoder: BodyDecoder::new(head.framing),
            bytes: 0,
            pace: MinRate::new(idle, min_rate),
            max,
            held: head.expects_continue,
            asks: head.expects_continue,
            ended: head.framing == Framing::None,
            probe: probe.cloned(),
        }
    }

    /// Whether the whole body has been read from the client.
    pub(crate) fn is_done(&self) -> bool {
        self.ended
    }

    /// Counts a piece and passes it on.
    ///
    /// # Errors
    ///
    /// [`Reason::BodyTooLarge`] if it goes over the route's limit.
    pub(crate) fn pass(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        data: &[u8],
        exchange: &mut Exchange,
    ) -> Result<(), Reason> {
        self.bytes += data.len() as u64;
        if self.bytes > self.max {
            return Err(Reason::BodyTooLarge);
        }
        self.pace.moved(now, data.len() as u64);
        if let Some(probe) = &self.probe {
            probe.sends(data);
        }
        exchange.send(cx, data);
        Ok(())
    }

    /// Starts waiting for more of it.
    ///
    /// # Errors
    ///
    /// [`Reason::BodyTooSlow`] if what came so far took too long.
    pub(crate) fn wait(&mut self, now: Instant) -> Result<(), Reason> {
        if !self.pace.keeps_up() {
            return Err(Reason::BodyTooSlow);
        }
        self.pace.wait(now);
        Ok(())
    }

    /// Passes the end on.
    pub(crate) fn end(&mut self, cx: &mut Context<'_>, trailers: &[u8], exchange: &mut Exchange) {
        self.ended = true;
        exchange.finish(cx, trailers);
    }
}

/// Moves what can be moved of the request, from the client and to the upstream, until one of them
/// has to be waited for.
///
/// # Errors
///
/// What is wrong with the body or its sender.
pub(crate) fn push<C: RequestSource>(
    client: &mut C,
    cx: &mut Context<'_>,
    exchange: &mut Exchange,
) -> Result<(), Reason> {
    loop {
        client.poll_upload(cx, exchange)?;
        // If more would be taken, it is the client that has none.
        let starved = exchange.takes_more() || client.upload().is_done() || client.upload().held;
        if exchange.poll_flush(cx).is_pending() || starved || !exchange.takes_more() {
            return Ok(());
        }
    }
}

/// Where request bodies come from and interim answers go to.
pub(crate) trait RequestSource {
    /// Moves as much of the request body as can be moved now.
    ///
    /// # Errors
    ///
    /// What is wrong with the body or its sender.
    fn poll_upload(&mut self, cx: &mut Context<'_>, exchange: &mut Exchange) -> Result<(), Reason>;
    /// The upload's state.
    fn upload(&mut self) -> &mut Upload;
    /// Passes on a 1xx answer, or our own 100 if there is none.
    fn interim(&mut self, cx: &mut Context<'_>, head: Option<&ResponseHead>);
    /// Ready when the client has gone; also sends what is staged for it.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Why there is no answer.
pub(crate) enum ExchangeError {
    /// The client's doing.
    Client(Reason),
    /// The upstream's.
    Upstream(ExchangeFailure),
}

impl ExchangeError {
    /// Whether a kept connection had been closed before the request arrived.
    pub(crate) fn is_stale(&self, exchange: &Exchange) -> bool {
        matches!(self, Self::Upstream(failure) if is_stale(*failure, exchange))
    }
}

/// Sends the request and waits for the head of the answer, whichever ends first.
///
/// `first_byte` runs while only the upstream can make progress.
///
/// # Cancellation
///
/// Dropping the future leaves a half-sent request behind; the exchange must be dropped too.
pub(crate) async fn await_head<C: RequestSource>(
    client: &mut C,
    exchange: &mut Exchange,
    local: &WorkerLocal,
    timer: &Timer,
    first_byte: Duration,
) -> Result<ResponseHead, ExchangeError> {
    let mut wait = UpstreamWait { limit: first_byte, since: None };
    let mut go_on = client.upload().held.then(|| local.clock.now() + super::CONTINUE_TIMEOUT);
    poll_fn(|cx| {
        let before = client.upload().bytes;
        if let Err(reason) = push(client, cx, exchange) {
            return Poll::Ready(Err(ExchangeError::Client(reason)));
        }
        // A client that sends its body all the same is not told to go on.
        go_on = go_on.filter(|_| client.upload().held);
        loop {
            match exchange.poll_head(cx, local) {
                Poll::Ready(Ok(ResponseHeadPoll::Interim(head))) => {
                    client.interim(cx, Some(&head));
                    if head.status == 100 && std::mem::take(&mut client.upload().held) {
                        go_on = None;
                        cx.waker().wake_by_ref();
                    }
                }
                Poll::Ready(Ok(ResponseHeadPoll::Final(head))) => return Poll::Ready(Ok(head)),
                Poll::Ready(Err(failure)) => {
                    return Poll::Ready(Err(ExchangeError::Upstream(failure)));
                }
                Poll::Pending => break,
            }
        }
        if client.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(ExchangeError::Client(Reason::ClientGone)));
        }
        wait.look(exchange, client.upload().bytes != before, local.clock.now());
        let deadlines = [go_on, wait.deadline(), client.upload().pace.deadline()];
        let Some(earliest) = deadlines.into_iter().flatten().min() else {
            timer.clear();
            let _ = timer.poll(cx);
            return Poll::Pending;
        };
        timer.set_at(earliest + TICK);
        if timer.poll(cx).is_pending() {
            return Poll::Pending;
        }
        let now = local.clock.now();
        if client.upload().pace.deadline().is_some_and(|at| at <= now) {
            return Poll::Ready(Err(ExchangeError::Client(Reason::BodyTooSlow)));
        }
        if wait.deadline().is_some_and(|at| at <= now) {
            let reason = Reason::UpstreamFirstByteTimeout;
            let failure = ExchangeFailure { reason, silent: false, detail: None };
            return Poll::Ready(Err(ExchangeError::Upstream(failure)));
        }
        // The upstream does not know about 100-continue, as many do not: go on without it.
        go_on = None;
        if std::mem::take(&mut client.upload().held) {
            client.interim(cx, None);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// How long we have been waiting for the upstream alone.
struct UpstreamWait {
    limit: Duration,
    since: Option<Instant>,
}

impl UpstreamWait {
    fn look(&mut self, exchange: &Exchange, moved: bool, now: Instant) {
        if exchange.is_sent() || exchange.is_blocked() || !exchange.takes_more() {
            if moved || self.since.is_none() {
                self.since = Some(now);
            }
        } else {
            self.since = None;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + self.limit)
    }
}

/// Whether this failure is one to send the request again after: a kept connection that the upstream
/// had closed, with not one byte of an answer seen.
pub(crate) fn is_stale(failure: ExchangeFailure, exchange: &Exchange) -> bool {
    failure.silent && failure.reason == Reason::UpstreamClosed && exchange.is_reused()
}

/// Whether a request may be sent again when a kept connection proves closed before any answer.
///
/// Only if doing it twice is the same as doing it once (RFC 9110 section 9.2.2), there is no body
/// to read again, and it is no Socket.IO poll: two polls of one session at once end the session.
pub(crate) fn may_repeat(head: &RequestHead, allowed: bool) -> bool {
    let idempotent = matches!(
        head.method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    );
    allowed
        && idempotent
        && head.framing == Framing::None
        && (head.upgrade || !is_poll(&head.target))
}

/// Whether this is an Engine.IO request, by the parameter all of them carry.
fn is_poll(target: &[u8]) -> bool {
    memchr::memmem::find(target, b"?EIO=").is_some()
        || memchr::memmem::find(target, b"&EIO=").is_some()
}

/// Whether a 101 is the switch that was asked for.
pub(crate) fn is_switch(head: &ResponseHead) -> bool {
    head.status == 101
        && field::tokens(head.fields.all(KnownField::Upgrade))
            .any(|t| t.eq_ignore_ascii_case(b"websocket"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn only_harmless_requests_are_repeated() {
        let may = |text: &str| {
            let text = format!("{text} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            may_repeat(&RequestHead::parse(&Bytes::from(text), 100).unwrap(), true)
        };
        assert!(may("GET /a"));
        assert!(may("DELETE /a"));
        assert!(!may("POST /a"));
        assert!(!may("PATCH /a"));
        assert!(!may("GET /socket.io/?EIO=4&transport=polling&sid=x"));
        assert!(!may("GET /socket.io/?transport=polling&EIO=3"));
    }
}
