//! ClientHello of connections whose TLS the gateway does not terminate. It is read for its server
//! name and forwarded unchanged.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::message::Reason;
use crate::net::tunnel::{Screen, Step};
use crate::net::{Io, WorkerLocal, WriteBuffer};
use crate::tls::hello::{HelloProgress, HelloReader};
use crate::tls::retry::{RetryWatch, Watch};

use super::Conn;

/// Time limit for sending a TLS alert to a client.
pub(crate) const ALERT_TIMEOUT: Duration = Duration::from_secs(10);
/// TLS record with the fatal alert `unrecognized_name` (RFC 8446 section 6).
pub(crate) const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Reason why no ClientHello was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ClientHelloError {
    /// The client closed the connection before its first byte, or reading failed.
    Gone,
    /// The time limit expired.
    TimedOut,
}

/// Sends a TLS alert to a client, after the bytes in `out`, and closes the connection.
pub(crate) async fn refuse<T: Io>(local: &Rc<WorkerLocal>, io: T, out: WriteBuffer) {
    let mut conn = Conn::new(io, local);
    conn.out = out;
    conn.out.staged().extend_from_slice(&UNRECOGNIZED_NAME);
    conn.linger(ALERT_TIMEOUT).await;
}

/// Result of reading the first bytes of a client.
pub(crate) struct First {
    /// [`HelloProgress::NeedMore`] if the client closed within its ClientHello.
    pub(crate) progress: HelloProgress,
    /// Length of the ClientHello, if the server may request a second one (TLS 1.3).
    pub(crate) retried_from: Option<usize>,
}

/// Reads until there is a complete ClientHello, or bytes that cannot be one. The bytes stay in the
/// input buffer of the connection.
///
/// # Errors
///
/// [`ClientHelloError`] if the client closes or takes longer than `within`.
pub(crate) async fn read<T: Io>(
    conn: &mut Conn<T>,
    within: Duration,
) -> Result<First, ClientHelloError> {
    let mut reader = HelloReader::new();
    let progress = read_with(&mut reader, conn, within).await?;
    let retried_from = reader.offers_tls13().then(|| reader.length());
    Ok(First { progress, retried_from })
}

async fn read_with<T: Io>(
    reader: &mut HelloReader,
    conn: &mut Conn<T>,
    within: Duration,
) -> Result<HelloProgress, ClientHelloError> {
    let mut fed = 0;
    conn.timer.set(within);
    poll_fn(|cx| {
        loop {
            let unread = conn.input.get(fed..).unwrap_or_default();
            fed += unread.len();
            match reader.feed(unread) {
                HelloProgress::NeedMore => {}
                done => return Poll::Ready(Ok(done)),
            }
            match conn.poll_fill(cx) {
                // The client closed without sending anything, as port scans and health checks do.
                Poll::Ready(Ok(0)) if conn.input.is_empty() => {
                    return Poll::Ready(Err(ClientHelloError::Gone));
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(HelloProgress::NeedMore)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(ClientHelloError::Gone)),
                Poll::Pending => break,
            }
        }
        conn.timer.poll(cx).map(|()| Err(ClientHelloError::TimedOut))
    })
    .await
}

/// Tunnel screen that inspects a second ClientHello after a HelloRetryRequest. An error of `judge`
/// closes the tunnel.
pub(crate) struct SecondHello<J> {
    watch: RetryWatch,
    judge: J,
    /// The reason why the second hello was refused.
    pub(crate) refused: Option<Reason>,
    /// Server name in the refused ClientHello.
    pub(crate) name: Option<String>,
}

impl<J> SecondHello<J> {
    /// A screen for a tunnel that has sent the first ClientHello to the server.
    pub(crate) fn new(judge: J) -> Box<Self> {
        Box::new(Self { watch: RetryWatch::new(), judge, refused: None, name: None })
    }

    /// Detail for the access log.
    pub(crate) fn detail(&self) -> String {
        match &self.name {
            Some(name) => format!("the second TLS hello, after a HelloRetryRequest, names {name}"),
            None => "in the second TLS hello, after a HelloRetryRequest".to_owned(),
        }
    }
}

impl<J: FnMut(&HelloProgress) -> Result<(), Reason>> SecondHello<J> {
    fn step(&mut self, watch: Watch, out: &mut Vec<u8>) -> Step {
        let second = match watch {
            Watch::Going => return Step::More,
            Watch::Over => return Step::Done,
            Watch::Second(second) => second,
        };
        if let Err(reason) = (self.judge)(&second) {
            self.refused = Some(reason);
            if let HelloProgress::Hello(hello) = second {
                self.name = hello.sni;
            }
            return Step::Refuse;
        }
        self.watch.release(out);
        Step::Done
    }
}

impl<J: FnMut(&HelloProgress) -> Result<(), Reason>> Screen for SecondHello<J> {
    fn on_a(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Step {
        let watch = self.watch.client(bytes, out);
        self.step(watch, out)
    }

    fn on_b(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Step {
        let watch = self.watch.server(bytes, out);
        self.step(watch, out)
    }

    fn holds_a(&self) -> bool {
        self.watch.holds_client()
    }
}
