//! Exchange with an upstream, common to HTTP/1 and HTTP/2 clients: sends the request while waiting
//! for the head of the response.

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

/// State of a request body that is sent to the upstream.
pub(crate) struct Upload {
    /// Decoder of an HTTP/1 body; unused for HTTP/2.
    pub(crate) decoder: BodyDecoder,
    pub(crate) bytes: u64,
    pub(crate) pace: MinRate,
    max: u64,
    /// Set while the client waits for `100 Continue`.
    pub(crate) held: bool,
    /// Whether a 100 may still be sent to the client.
    pub(crate) may_continue: bool,
    ended: bool,
    /// Observer of the body for Socket.IO tracking.
    probe: Option<Rc<RequestProbe>>,
}

impl Upload {
    /// Upload of at most `max` bytes. The client may be silent for `idle`, and must otherwise send
    /// `min_rate` bytes per second.
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
            may_continue: head.expects_continue,
            ended: head.framing == Framing::None,
            probe: probe.cloned(),
        }
    }

    /// Whether the whole body has been read from the client.
    pub(crate) fn is_done(&self) -> bool {
        self.ended
    }

    /// Counts a piece of the body and sends it to the upstream.
    ///
    /// # Errors
    ///
    /// [`Reason::BodyTooLarge`] if the body exceeds the limit of the route.
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
            probe.read_request(data);
        }
        exchange.send(cx, data);
        Ok(())
    }

    /// Starts waiting for more of the body.
    ///
    /// # Errors
    ///
    /// [`Reason::BodyTooSlow`] if the average rate so far is too low.
    pub(crate) fn wait(&mut self, now: Instant) -> Result<(), Reason> {
        if !self.pace.keeps_up() {
            return Err(Reason::BodyTooSlow);
        }
        self.pace.wait(now);
        Ok(())
    }

    /// Sends the end of the body to the upstream.
    pub(crate) fn end(&mut self, cx: &mut Context<'_>, trailers: &[u8], exchange: &mut Exchange) {
        self.ended = true;
        exchange.finish(cx, trailers);
    }
}

/// Moves the request body from the client to the upstream until one of them blocks.
///
/// # Errors
///
/// The reason word of a bad, oversized or slow body, or of a client that has closed.
pub(crate) fn push<C: RequestSource>(
    client: &mut C,
    cx: &mut Context<'_>,
    exchange: &mut Exchange,
) -> Result<(), Reason> {
    loop {
        client.poll_upload(cx, exchange)?;
        // If the exchange accepts more, the client has no further bytes at present.
        let starved = exchange.takes_more() || client.upload().is_done() || client.upload().held;
        if exchange.poll_flush(cx).is_pending() || starved || !exchange.takes_more() {
            return Ok(());
        }
    }
}

/// Source of request bodies and destination of interim responses: the connection of a client.
pub(crate) trait RequestSource {
    /// Moves available bytes of the request body to the exchange.
    ///
    /// # Errors
    ///
    /// The reason word of a bad, oversized or slow body, or of a client that has closed.
    fn poll_upload(&mut self, cx: &mut Context<'_>, exchange: &mut Exchange) -> Result<(), Reason>;
    /// State of the upload.
    fn upload(&mut self) -> &mut Upload;
    /// Forwards a 1xx response, or sends a 100 of the gateway if `head` is `None`.
    fn interim(&mut self, cx: &mut Context<'_>, head: Option<&ResponseHead>);
    /// Ready when the client has closed the connection. Also sends the staged output.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Reason why an exchange has no response.
pub(crate) enum ExchangeError {
    /// Caused by the client.
    Client(Reason),
    /// Caused by the upstream.
    Upstream(ExchangeFailure),
}

impl ExchangeError {
    /// Whether the upstream had closed a reused connection before the request arrived.
    pub(crate) fn is_stale(&self, exchange: &Exchange) -> bool {
        matches!(self, Self::Upstream(failure) if is_stale(*failure, exchange))
    }
}

/// Sends the request until the head of the response arrives, which may be before the end of the
/// request body.
///
/// `first_byte` limits the time in which only the upstream can make progress.
///
/// # Cancellation
///
/// Dropping the future may leave a partly sent request. The exchange must be dropped too.
pub(crate) async fn await_head<C: RequestSource>(
    client: &mut C,
    exchange: &mut Exchange,
    local: &WorkerLocal,
    timer: &Timer,
    first_byte: Duration,
) -> Result<ResponseHead, ExchangeError> {
    let mut wait = UpstreamWait { limit: first_byte, since: None };
    let mut continue_at = client.upload().held.then(|| local.clock.now() + super::CONTINUE_TIMEOUT);
    poll_fn(|cx| {
        let before = client.upload().bytes;
        if let Err(reason) = push(client, cx, exchange) {
            return Poll::Ready(Err(ExchangeError::Client(reason)));
        }
        // A client that sends its body without waiting for the 100 needs none.
        continue_at = continue_at.filter(|_| client.upload().held);
        loop {
            match exchange.poll_head(cx, local) {
                Poll::Ready(Ok(ResponseHeadPoll::Interim(head))) => {
                    client.interim(cx, Some(&head));
                    if head.status == 100 && std::mem::take(&mut client.upload().held) {
                        continue_at = None;
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
        wait.update(exchange, client.upload().bytes != before, local.clock.now());
        let deadlines = [continue_at, wait.deadline(), client.upload().pace.deadline()];
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
        // Many upstreams do not send `100 Continue`. The gateway sends its own.
        continue_at = None;
        if std::mem::take(&mut client.upload().held) {
            client.interim(cx, None);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Time for which only the upstream has been able to make progress.
struct UpstreamWait {
    limit: Duration,
    since: Option<Instant>,
}

impl UpstreamWait {
    fn update(&mut self, exchange: &Exchange, moved: bool, now: Instant) {
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

/// Whether the request may be sent again after this failure: the upstream closed a reused
/// connection without sending a byte of a response.
pub(crate) fn is_stale(failure: ExchangeFailure, exchange: &Exchange) -> bool {
    failure.silent && failure.reason == Reason::UpstreamClosed && exchange.is_reused()
}

/// Whether a request may be repeated on a stale connection.
///
/// It must be idempotent (RFC 9110 section 9.2.2), have no body, and not be a Socket.IO poll,
/// because two concurrent polls of one session end that session.
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

/// Whether this is an Engine.IO request. All of them have the parameter `EIO`.
fn is_poll(target: &[u8]) -> bool {
    memchr::memmem::find(target, b"?EIO=").is_some()
        || memchr::memmem::find(target, b"&EIO=").is_some()
}

/// Whether the response switches the protocol to WebSocket.
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
