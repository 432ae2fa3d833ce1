//! The first bytes of a tunnel: read, judged, and only then sent on.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::addr::Destination;
use crate::config::Sni;
use crate::downstream::Conn;
use crate::egress::sni::{Judged, judge, wants_hello};
use crate::egress::{HelloReader, Progress};
use crate::message::Reason;
use crate::net::Io;

use super::record::Record;

/// A fatal alert in a record of its own (RFC 8446 section 6): `unrecognized_name`.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Reads the client's hello, as far as the settings want one, and judges it. The bytes stay in the
/// connection, to be sent on as they came.
///
/// # Errors
///
/// Why the tunnel is closed.
pub(super) async fn admit<T: Io>(
    conn: &mut Conn<T>,
    (sni, within): (Sni, Duration),
    destination: &Destination,
    record: &mut Record,
) -> Result<(), Reason> {
    if !wants_hello(sni) {
        return Ok(());
    }
    let read = read(conn, within).await?;
    if let Progress::Hello(hello) = &read {
        record.sni = hello.sni.as_deref().map(Into::into);
    }
    match judge(sni, destination, &read) {
        Judged::Pass => Ok(()),
        Judged::Logged(reason) => {
            record.noted = Some(reason);
            Ok(())
        }
        Judged::Refused(reason) => {
            if matches!(read, Progress::Hello(_)) {
                // Whoever speaks TLS is told in TLS.
                conn.out.staged().extend_from_slice(&ALERT);
            }
            Err(reason)
        }
    }
}

async fn read<T: Io>(conn: &mut Conn<T>, within: Duration) -> Result<Progress, Reason> {
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
                // A client that closes at once has used the tunnel for nothing.
                Poll::Ready(Ok(0)) if conn.input.is_empty() => {
                    return Poll::Ready(Err(Reason::ClientGone));
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Progress::NeedMore)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Reason::ClientGone)),
                Poll::Pending => break,
            }
        }
        conn.alarm.poll(cx).map(|()| Err(Reason::HelloTimeout))
    })
    .await
}
