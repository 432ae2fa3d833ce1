//! Client and endpoint joined: bytes we do not read, in a task of its own, which is small.
//!
//! TLS passed through pins a client to an endpoint for as long as its connection lives, and a
//! browser keeps one connection for everything. So a connection whose endpoint is not the one to
//! use any more is closed, if that is what is configured, at a moment of its own.

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

/// A connection that only needs to be joined.
pub(super) struct OpenedConn {
    pub(super) upstream: TcpStream,
    /// Read of the client after its hello, if the endpoint may ask for a second one.
    pub(super) ahead: Option<Bytes>,
    pub(super) seat: ConnGauge,
    pub(super) busy: Option<InFlight>,
    pub(super) timeouts: TcpTimeouts,
    pub(super) record: PassthroughLog,
    /// Counts it among the connections in use.
    pub(super) reserved: Use,
    /// What let it in.
    pub(super) passthrough_listener: Arc<PassthroughListener>,
}

/// Joins client and upstream; what was read of the client goes first.
pub(super) fn spawn(
    service: &Rc<PassthroughService>,
    client: (TcpStream, Bytes),
    opened: OpenedConn,
    admitted: AdmittedConn,
) {
    let OpenedConn {
        upstream,
        ahead,
        seat,
        busy,
        timeouts,
        mut record,
        reserved,
        passthrough_listener,
    } = opened;
    let passthrough_conn = record.opened(&service.passthrough_listener);
    // A change of configuration while an endpoint was connected to: nobody has asked it yet.
    let now = service.passthrough_listener.load_full();
    if !Arc::ptr_eq(&now, &passthrough_listener)
        && now.outlook(&passthrough_conn) == ReloadVerdict::Forbidden
    {
        return record.ended(PassthroughEnd::Policy);
    }
    drop((now, passthrough_listener));
    let local = Rc::clone(&service.worker.local);
    local.clone().spawn(async move {
        let moved = ByteCounts::default();
        let allowed =
            || passthrough_conn.place.load().outlook(&passthrough_conn) != ReloadVerdict::Forbidden;
        let total = timeouts.total;
        let terms = TunnelLimits {
            idle: timeouts.idle,
            ends_at: (!total.is_zero()).then(|| local.clock.now() + total),
            rates: [None, None],
            moved: &moved,
            allowed: &allowed,
        };
        let upstream = (upstream, Bytes::new());
        let joined = async {
            let Some(ahead) = ahead else { return Ok(join(&local, client, upstream, terms).await) };
            let screen =
                SecondHello::new(|second: &HelloProgress| same_name(&passthrough_conn, second));
            join_screened(&local, client, upstream, terms, (screen, ahead)).await
        };
        let mut joined = pin!(joined);
        let mut leaving = CloseSchedule::default();
        let end = poll_fn(|cx| match joined.as_mut().poll(cx) {
            Poll::Ready(Ok(end)) => Poll::Ready(Ok(ended(end))),
            Poll::Ready(Err(refused)) => Poll::Ready(Err(refused)),
            Poll::Pending => {
                leaving.poll(cx, &local, &passthrough_conn).map(|()| Ok(PassthroughEnd::FailedOver))
            }
        });
        let end = match end.await {
            Ok(end) => end,
            Err(ScreenRejection { screen, a, out }) => {
                if let Some(reason) = screen.refused {
                    record.refused(reason, Some(screen.detail()));
                }
                refuse(&local, a, out).await;
                PassthroughEnd::Refused
            }
        };
        record.sent = moved.a_to_b.load(Ordering::Relaxed).saturating_sub(record.header);
        record.received = moved.b_to_a.load(Ordering::Relaxed);
        record.ended(end);
        drop((record, seat, busy, reserved, admitted));
    });
}

/// When a connection is closed because its endpoint is not the one to use any more.
#[derive(Default)]
struct CloseSchedule {
    /// The shift after which it was asked last.
    asked: Option<u64>,
    /// Its moment, if it has to go.
    timer: Option<Timer>,
}

impl CloseSchedule {
    /// Ready once it is to be closed. When work shifts, the task is woken through the alarm that
    /// every tunnel has.
    fn poll(
        &mut self,
        cx: &Context<'_>,
        local: &WorkerLocal,
        passthrough_conn: &PassthroughConn,
    ) -> Poll<()> {
        let shifts = local.shifts();
        if self.asked.replace(shifts) != Some(shifts) {
            match passthrough_conn.place.load().outlook(passthrough_conn) {
                ReloadVerdict::Superseded(within) => {
                    self.timer.get_or_insert_with(|| {
                        let timer = local.clock.timer();
                        timer.set_at(local.clock.now() + moment_within(within));
                        timer
                    });
                }
                // The endpoint may be well again before the moment has come.
                ReloadVerdict::Stays | ReloadVerdict::Forbidden => self.timer = None,
            }
        }
        self.timer.as_ref().map_or(Poll::Pending, |timer| timer.poll(cx))
    }
}

/// Whether a second hello asks for the name that the connection was passed on for. Clients must not
/// change it (RFC 8446 section 4.1.2).
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
