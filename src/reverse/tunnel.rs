//! WebSocket tunnels, after the upstream's 101.

use std::rc::Rc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

use crate::base64;
use crate::downstream::accept::AdmittedConn;
use crate::net::Io;
use crate::net::relay::{RelayEnd, RelayOwner, RelaySide, RelayedBytes, Standing, relay_websocket};
use crate::socketio::SocketEnded;
use crate::telemetry::websockets::WebSocketClose;
use crate::upstream::Stream;

use super::ReverseService;
use super::record::RequestLog;

/// Time over which WebSockets are closed if their clients must authenticate again, so that they do
/// not all reconnect at once.
pub(super) const OUTDATED_CLOSE_SPREAD: Duration = Duration::from_secs(5);

/// Relays between client and upstream in a new task, which is small: the state of the request that
/// became the tunnel has been freed.
pub(super) fn spawn<T: Io>(
    service: &Rc<ReverseService>,
    client: RelaySide<T>,
    upstream: RelaySide<Stream>,
    idle: Duration,
    (mut record, admitted): (Box<RequestLog>, Option<AdmittedConn>),
) {
    let task_service = Rc::clone(service);
    record.list(&service.virtual_server);
    service.worker.local.spawn(async move {
        let owner = WebSocketTunnel { record: &record, service: &task_service };
        let summary =
            relay_websocket(&task_service.worker.local, client, upstream, idle, &owner).await;
        record.close_code = summary.close_code;
        record.request_bytes = summary.a_to_b;
        record.response_bytes = summary.b_to_a;
        let how = match summary.end {
            RelayEnd::ClosedByA => WebSocketClose::ByClient,
            RelayEnd::ClosedByB => WebSocketClose::ByUpstream,
            RelayEnd::BrokenA => WebSocketClose::ClientBroke,
            RelayEnd::BrokenB => WebSocketClose::UpstreamBroke,
            RelayEnd::Idle => WebSocketClose::Idle,
            RelayEnd::Draining => WebSocketClose::Draining,
            RelayEnd::Forbidden | RelayEnd::Outdated => WebSocketClose::Policy,
        };
        record.tunnel_ended(SocketEnded::new(how, summary.silent, summary.close_sent));
        drop((record, admitted));
    });
}

/// The owner of a WebSocket relay.
struct WebSocketTunnel<'a> {
    record: &'a RequestLog,
    service: &'a ReverseService,
}

impl RelayOwner for WebSocketTunnel<'_> {
    fn standing(&self) -> Standing {
        self.record.standing(&self.service.virtual_server.load())
    }

    fn moved(&self, moved: RelayedBytes) {
        let RelayedBytes { a_to_b, b_to_a, messages } = moved;
        self.record.websockets().inspect(|websockets| websockets.moved(a_to_b, b_to_a));
        self.record.talked(messages);
    }
}

/// Generates a `Sec-WebSocket-Key` (RFC 6455 section 4.1), for WebSockets over HTTP/2.
pub(super) fn new_key() -> String {
    let mut nonce = [0; 16];
    // The key is not secret. It only ties the answer to the request.
    let _ = SystemRandom::new().fill(&mut nonce);
    base64::encode(&nonce)
}

/// The `Sec-WebSocket-Accept` for `key` (RFC 6455 section 4.2.2).
pub(super) fn accept_for(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_for_matches_the_example_of_rfc_6455() {
        assert_eq!(accept_for("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn keys_have_sixteen_bytes() {
        assert_eq!(new_key().len(), 24);
    }
}
