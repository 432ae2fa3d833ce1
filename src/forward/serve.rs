//! One client connection: one request after another, until one of them becomes a tunnel.

use std::rc::Rc;
use std::time::Duration;

use crate::downstream::Conn;
use crate::downstream::accept::{Acceptor as _, AdmittedConn};
use crate::downstream::conn::HeadLimits;
use crate::message::{ProxiedHead, Reason};
use crate::net::tunnel::TunnelStream;

use super::record::EgressLog;
use super::request::EgressRequest;
use super::tunnel::{self, OpenedTunnel};
use super::{ForwardConn, ForwardService, rejection};

/// Time within which a client must read an answer of the gateway.
pub(super) const CLIENT_WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// State of the connection after a request.
pub(super) enum AfterRequest {
    /// It carries another.
    KeepAlive,
    /// It is closed; unread bytes of the client are waited for, so that a reset does not take the
    /// answer away from it.
    Close,
    /// The connection is cut: the answer is incomplete and the client must notice.
    Cut,
    /// It has become a tunnel.
    Tunnel(Box<OpenedTunnel>),
}

/// Serves one connection until it closes.
pub(super) async fn serve<T: TunnelStream>(
    service: &Rc<ForwardService>,
    client_conn: ForwardConn,
    io: T,
    admitted: AdmittedConn,
) {
    let worker = &service.worker;
    let client_conn = Rc::new(client_conn);
    let mut conn = Conn::new(io, &worker.local);
    loop {
        // Copied: a connection that waits must not keep a configuration alive.
        let limits = {
            let listener_state = service.listener_state.load();
            let forward_proxy = &listener_state.way.forward_proxy;
            HeadLimits {
                keep_alive: forward_proxy.timeouts.keep_alive,
                header: forward_proxy.timeouts.header,
                size: forward_proxy.limits.header_size,
            }
        };
        let leaves = || service.closes_idle_connections() || client_conn.is_outdated(service);
        let head = conn.read_head(&limits, &leaves).await;
        // The current generation decides, not the one in force when the connection became idle.
        let listener_state = service.listener_state.load_full();
        let asked = match head {
            Ok(Some(head)) => {
                ProxiedHead::parse(&head, listener_state.way.forward_proxy.limits.header_count)
            }
            Ok(None) => break,
            Err(reason) => Err(reason),
        };
        // Workers hear of a change a moment after it.
        let outdated = !client_conn.is_accepted_by(&listener_state.listener);
        let asked =
            asked.and_then(
                |asked| if outdated { Err(Reason::EgressHandshakeOutdated) } else { Ok(asked) },
            );
        let mut record = EgressLog::new(worker, &client_conn, &listener_state);
        let next = match asked {
            Ok(asked) => {
                record.on_head(&asked);
                let request = EgressRequest {
                    service,
                    way: &listener_state.way,
                    client_conn: &client_conn,
                    asked,
                };
                // Boxed: the state of a request is large, and an idle connection has none.
                Box::pin(request.serve(&mut conn, record)).await
            }
            Err(reason) => {
                record.start = conn.head_began.unwrap_or(record.start);
                record.refused(reason, None);
                if reason != Reason::ClientGone {
                    let reply = rejection::reply(&record, rejection::ExplanationFormat::Text);
                    record.status = reply.status.as_u16();
                    reply.write(conn.out.staged(), worker, &record.id, None, true);
                }
                AfterRequest::Close
            }
        };
        match next {
            AfterRequest::KeepAlive if conn.flush(CLIENT_WRITE_TIMEOUT).await.is_ok() => {}
            AfterRequest::KeepAlive | AfterRequest::Cut => return,
            AfterRequest::Close => break conn.linger(CLIENT_WRITE_TIMEOUT).await,
            AfterRequest::Tunnel(opened) => {
                let client = (conn.io, conn.input.freeze());
                return tunnel::spawn(service, client, *opened, admitted);
            }
        }
    }
    conn.close().await;
}
