//! Tunnel of a passthrough connection, in a small task of its own.
//!
//! A passthrough connection keeps its client on one endpoint, and a browser may use one connection
//! for all requests. After a failover, connections to endpoints that are no longer in use are
//! therefore closed, as configured, each after its own random delay.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::config::TcpTimeouts;
use crate::downstream::accept::AdmittedConn;
use crate::downstream::client_hello::{SecondHello, refuse};
use crate::generation::PassthroughListener;
use crate::generation::passthrough::{PassthroughConn, ReloadVerdict};
use crate::message::Reason;
use crate::net::local::moment_within;
use crate::net::quota::Use;
use crate::net::tunnel::{
    ByteCounts, ScreenRejection, TunnelEnd, TunnelLimits, join, join_screened,
};
use crate::net::{Timer, WorkerLocal};
use crate::telemetry::tcp::PassthroughEnd;
use crate::telemetry::upstreams::ConnGauge;
use crate::tls::hello::HelloProgress;
use crate::upstream::InFlight;

use super::PassthroughService;
use super::record::PassthroughLog;

/// An accepted connection with an open connection to its endpoint.
pub(super) struct OpenedConn {
    pub(super) upstream: TcpStream,
    /// Bytes of the client after the ClientHello, if the endpoint may request a second one.
    pub(super) ahead: Option<Bytes>,
    pub(super) open_gauge: ConnGauge,
    pub(super) busy: Option<InFlight>,
    pub(super) timeouts: TcpTimeouts,
    pub(super) record: PassthroughLog,
    /// Reservation that counts the connection for the limits of the upstream.
    pub(super) reserved: Use,
    /// Listener configuration that chose the route.
    pub(super) passthrough_listener: Arc<PassthroughListener>,
}

/// Starts the tunnel between client and upstream. Bytes already read of the client are sent first.
pub(super) fn spawn(
    service: &Rc<PassthroughService>,
    client: (TcpStream, Bytes),
    opened: OpenedConn,
    admitted: AdmittedConn,
) {
    let OpenedConn {
        upstream,
        ahead,
        open_gauge,
        busy,
        timeouts,
        mut record,
        reserved,
        passthrough_listener,
    } = opened;
    let passthrough_conn = record.opened(&service.passthrough_listener);
    // A reload during the connect has not evaluated this connection.
    let now = service.passthrough_listener.load_full();
    if !Arc::ptr_eq(&now, &passthrough_listener)
        && now.reload_verdict(&passthrough_conn) == ReloadVerdict::Forbidden
    {
        return record.ended(PassthroughEnd::Policy);
    }
    drop((now, passthrough_listener));
    let local = Rc::clone(&service.worker.local);
    local.clone().spawn(async move {
        let moved = ByteCounts::default();
        let allowed = || {
            passthrough_conn.listener.load().reload_verdict(&passthrough_conn)
                != ReloadVerdict::Forbidden
        };
        let total = timeouts.max_lifetime;
        let limits = TunnelLimits {
            idle: timeouts.idle,
            ends_at: (!total.is_zero()).then(|| local.clock.now() + total),
            rates: [None, None],
            moved: &moved,
            allowed: &allowed,
        };
        let upstream = (upstream, Bytes::new());
        let joined = async {
            let Some(ahead) = ahead else {
                return Ok(join(&local, client, upstream, limits).await);
            };
            let screen =
                SecondHello::new(|second: &HelloProgress| same_name(&passthrough_conn, second));
            join_screened(&local, client, upstream, limits, (screen, ahead)).await
        };
        let mut joined = pin!(joined);
        let mut close_schedule = CloseSchedule::default();
        let end = poll_fn(|cx| match joined.as_mut().poll(cx) {
            Poll::Ready(Ok(end)) => Poll::Ready(Ok(ended(end))),
            Poll::Ready(Err(refused)) => Poll::Ready(Err(refused)),
            Poll::Pending => close_schedule
                .poll(cx, &local, &passthrough_conn)
                .map(|()| Ok(PassthroughEnd::FailedOver)),
        });
        let end = match end.await {
            Ok(end) => end,
            Err(ScreenRejection { screen, a, out }) => {
                if let Some(reason) = screen.refused {
                    record.refused(reason, Some(screen.detail()));
                }
                refuse(&local, a, out).await;
                PassthroughEnd::Rejected
            }
        };
        record.sent = moved.a_to_b.load(Ordering::Relaxed).saturating_sub(record.header);
        record.received = moved.b_to_a.load(Ordering::Relaxed);
        record.ended(end);
        drop((record, open_gauge, busy, reserved, admitted));
    });
}

/// Delayed close of a connection to an endpoint that is no longer in use.
#[derive(Default)]
struct CloseSchedule {
    /// Number of the failover event that was evaluated last.
    evaluated: Option<u64>,
    /// Time of the close, if the connection has to be closed.
    timer: Option<Timer>,
}

impl CloseSchedule {
    /// Ready when the connection has to be closed. After a failover the worker wakes this task
    /// through the timer that every tunnel has.
    fn poll(
        &mut self,
        cx: &Context<'_>,
        local: &WorkerLocal,
        passthrough_conn: &PassthroughConn,
    ) -> Poll<()> {
        let failovers = local.failovers();
        if self.evaluated.replace(failovers) != Some(failovers) {
            match passthrough_conn.listener.load().reload_verdict(passthrough_conn) {
                ReloadVerdict::Superseded(within) => {
                    self.timer.get_or_insert_with(|| {
                        let timer = local.clock.timer();
                        timer.set_at(local.clock.now() + moment_within(within));
                        timer
                    });
                }
                // The endpoint may be in use again before the delay is over.
                ReloadVerdict::Stays | ReloadVerdict::Forbidden => self.timer = None,
            }
        }
        self.timer.as_ref().map_or(Poll::Pending, |timer| timer.poll(cx))
    }
}

/// Checks that a second ClientHello has the server name by which the connection was routed. Clients
/// must not change it (RFC 8446 section 4.1.2).
fn same_name(passthrough_conn: &PassthroughConn, second: &HelloProgress) -> Result<(), Reason> {
    match second {
        HelloProgress::Hello(hello)
            if hello.sni.as_deref() == passthrough_conn.server_name.as_deref() =>
        {
            Ok(())
        }
        HelloProgress::Hello(_) => Err(Reason::TcpSniChanged),
        _ => Err(Reason::TcpBadHello),
    }
}

fn ended(end: TunnelEnd) -> PassthroughEnd {
    match end {
        TunnelEnd::ClosedByA => PassthroughEnd::ByClient,
        TunnelEnd::ClosedByB => PassthroughEnd::ByUpstream,
        TunnelEnd::BrokenA => PassthroughEnd::ClientBroke,
        TunnelEnd::BrokenB => PassthroughEnd::UpstreamBroke,
        TunnelEnd::Idle => PassthroughEnd::Idle,
        TunnelEnd::Expired => PassthroughEnd::Expired,
        TunnelEnd::Draining => PassthroughEnd::Draining,
        TunnelEnd::Forbidden => PassthroughEnd::Policy,
    }
}
