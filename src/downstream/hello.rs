//! The TLS hello a client begins with, where we do not answer it ourselves: read, and kept to be
//! sent on as it came.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::net::Io;
use crate::tls::hello::{HelloReader, Progress};

use super::Conn;

/// A fatal alert in a record of its own (RFC 8446 section 6): `unrecognized_name`.
pub(crate) const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Why there is no hello to judge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NoHello {
    /// The client went away, before its first byte or with an error.
    Gone,
    /// It took too long.
    TimedOut,
}

/// Reads until there is a whole hello, or something that is none; at most `within`. What was read
/// stays in the connection. [`Progress::NeedMore`] is a client that ended before its hello did.
///
/// # Errors
///
/// [`NoHello`].
pub(crate) async fn read<T: Io>(conn: &mut Conn<T>, within: Duration) -> Result<Progress, NoHello> {
    let mut reader = HelloReader::new();
    let mut fed = 0;
    conn.alarm.set(within);
    poll_fn(|cx| {
        loop {
            let unread = conn.input.get(fed..).unwrap_or_default();
            fed += unread.len();
            match reader.feed(unread) {
                Progress::NeedMore => {}
                done => return Poll::Ready(Ok(done)),
            }
            match conn.poll_fill(cx) {
                // A client that closes at once has used the connection for nothing.
                Poll::Ready(Ok(0)) if conn.input.is_empty() => {
                    return Poll::Ready(Err(NoHello::Gone));
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Progress::NeedMore)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(NoHello::Gone)),
                Poll::Pending => break,
            }
        }
        conn.alarm.poll(cx).map(|()| Err(NoHello::TimedOut))
    })
    .await
}
