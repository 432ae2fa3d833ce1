//! The first bytes of a tunnel: read, judged, and only then sent on.

use std::time::Duration;

use crate::addr::Destination;
use crate::config::SniPolicy;
use crate::downstream::Conn;
use crate::downstream::client_hello::{ClientHelloError, First, UNRECOGNIZED_NAME, read};
use crate::egress::sni::{SniVerdict, judge, wants_hello};
use crate::message::Reason;
use crate::net::Io;
use crate::tls::hello::HelloProgress;

use super::record::EgressLog;

/// Reads the client's ClientHello, if the settings require one, and judges it. The bytes stay in
/// the connection, to be forwarded unchanged. Returns the end of the ClientHello, if the server may
/// request a second one.
///
/// # Errors
///
/// Why the tunnel is closed.
pub(super) async fn admit<T: Io>(
    conn: &mut Conn<T>,
    (sni, within): (SniPolicy, Duration),
    destination: &Destination,
    record: &mut EgressLog,
) -> Result<Option<usize>, Reason> {
    if !wants_hello(sni) {
        return Ok(None);
    }
    let First { progress: read, retried_from } =
        read(conn, within).await.map_err(|none| match none {
            ClientHelloError::Gone => Reason::ClientGone,
            ClientHelloError::TimedOut => Reason::HelloTimeout,
        })?;
    if let HelloProgress::Hello(hello) = &read {
        record.sni = hello.sni.as_deref().map(Into::into);
    }
    match judge(sni, destination, &read) {
        SniVerdict::Pass => Ok(retried_from),
        SniVerdict::Logged(reason) => {
            record.noted = Some(reason);
            Ok(retried_from)
        }
        SniVerdict::Refused(reason) => {
            if matches!(read, HelloProgress::Hello(_)) {
                // A TLS client gets a TLS alert.
                conn.out.staged().extend_from_slice(&UNRECOGNIZED_NAME);
            }
            Err(reason)
        }
    }
}
