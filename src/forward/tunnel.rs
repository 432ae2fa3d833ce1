//! After the 200: bytes we do not read, in a task of its own, which is small.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::addr::Destination;
use crate::config::SniPolicy;
use crate::downstream::accept::AdmittedConn;
use crate::downstream::client_hello::{SecondHello, refuse};
use crate::egress::sni::{SniVerdict, judge};
use crate::egress::{EgressPolicy, Verdict};
use crate::message::{Reason, RequestForm};
use crate::net::rate::Rate;
use crate::net::tunnel::{
    ByteCounts, ScreenRejection, TunnelEnd, TunnelLimits, TunnelStream, join, join_screened,
};
use crate::tls::hello::HelloProgress;
use crate::upstream::Stream;

use super::limits::TunnelPermit;
use super::record::EgressLog;
use super::registry::OpenTunnel;
use super::{ForwardListenerState, ForwardRuntime, ForwardService};

/// A tunnel that only needs to be joined.
pub(super) struct OpenedTunnel {
    pub(super) record: EgressLog,
    pub(super) stream: Stream,
    /// Already read from the destination.
    pub(super) early: Bytes,
    /// End of the client's ClientHello, if the server may request a second one, and the SNI policy
    /// for that.
    pub(super) second: Option<(usize, SniPolicy)>,
    pub(super) idle: Duration,
    pub(super) ends_at: Option<Instant>,
    pub(super) rates: [Option<Arc<Rate>>; 2],
    pub(super) place: TunnelPermit,
    /// The one that allowed it.
    pub(super) way: Arc<ForwardRuntime>,
}

/// Joins client and destination.
pub(super) fn spawn<T: TunnelStream>(
    service: &Rc<ForwardService>,
    (client, mut of_client): (T, Bytes),
    opened: OpenedTunnel,
    admitted: AdmittedConn,
) {
    let OpenedTunnel { mut record, stream, early, second, idle, ends_at, rates, place, way } =
        opened;
    let own = Rc::clone(service);
    // The configuration may have changed while the ClientHello was awaited, so the new one is
    // checked.
    let now = service.listener_state.load_full();
    if !Arc::ptr_eq(&now.way, &way) && !is_still_allowed(&record, &now) {
        return record.tunnel_ended("policy");
    }
    drop((now, way));
    let listed = service.forward_shared.live.list(shown(&record));
    service.worker.local.spawn(async move {
        let allowed = || is_still_allowed(&record, &own.listener_state.load());
        let moved = &listed.open.moved;
        let terms = TunnelLimits { idle, ends_at, rates, moved, allowed: &allowed };
        let (local, noted) = (&own.worker.local, Cell::new(None));
        let upstream = (stream, early);
        let end = match second {
            None => Ok(join(local, (client, of_client), upstream, terms).await),
            Some((from, sni)) => {
                let ahead = of_client.split_off(from.min(of_client.len()));
                let (record, noted) = (&record, &noted);
                let judge = move |second: &HelloProgress| judge_second(sni, record, second, noted);
                let screen = (SecondHello::new(judge), ahead);
                join_screened(local, (client, of_client), upstream, terms, screen).await
            }
        };
        let (end, refused) = match end {
            Ok(end) => (word(end), None),
            Err(ScreenRejection { screen, a, out }) => {
                let why = screen.refused.map(|reason| (reason, screen.detail()));
                refuse(local, a, out).await;
                ("rejected", why)
            }
        };
        record.noted = record.noted.or(noted.take());
        if let Some((reason, detail)) = refused {
            (record.reason, record.detail) = (Some(reason), Some(detail));
        }
        record.request_bytes = moved.a_to_b.load(Ordering::Relaxed);
        record.response_bytes = moved.b_to_a.load(Ordering::Relaxed);
        record.tunnel_ended(end);
        drop((record, listed, place, admitted));
    });
}

const fn word(end: TunnelEnd) -> &'static str {
    match end {
        TunnelEnd::ClosedByA => "client_closed",
        TunnelEnd::ClosedByB => "upstream_closed",
        TunnelEnd::BrokenA => "client_broken",
        TunnelEnd::BrokenB => "upstream_broken",
        TunnelEnd::Idle => "tunnel_idle",
        TunnelEnd::Expired => "tunnel_expired",
        TunnelEnd::Draining => "draining",
        TunnelEnd::Forbidden => "policy",
    }
}

/// Judges the hello that the server asked for like the first one.
fn judge_second(
    sni: SniPolicy,
    record: &EgressLog,
    second: &HelloProgress,
    noted: &Cell<Option<Reason>>,
) -> Result<(), Reason> {
    let Some(destination) = record.destination() else { return Ok(()) };
    match judge(sni, destination, second) {
        SniVerdict::Pass => Ok(()),
        SniVerdict::Logged(reason) => {
            noted.set(Some(reason));
            Ok(())
        }
        SniVerdict::Refused(reason) => Err(reason),
    }
}

fn shown(record: &EgressLog) -> OpenTunnel {
    OpenTunnel {
        id: record.id.as_str().into(),
        since: Timestamp::now(),
        client: record.address().0,
        user: record.user.clone(),
        destination: record.destination().cloned(),
        upstream_addr: record.upstream_addr,
        parent: record.parent.clone(),
        rule: record.rule().name.as_str().into(),
        sni: record.sni.clone(),
        moved: ByteCounts::default(),
    }
}

/// Whether a tunnel would be opened today, by any rule, to the same address and the same way, for a
/// client with this handshake.
fn is_still_allowed(record: &EgressLog, listener_state: &ForwardListenerState) -> bool {
    if !record.is_accepted_by(&listener_state.listener) {
        return false;
    }
    let Some(destination) = record.destination() else { return true };
    let forward_proxy = &listener_state.way.forward_proxy;
    let client = record.client();
    let known = |user| forward_proxy.users.as_ref().is_some_and(|users| users.contains(user));
    if client.user.is_some_and(|user| !known(user)) {
        return false;
    }
    let Verdict::Allowed(grant) = decide(&forward_proxy.policy, record, destination) else {
        return false;
    };
    match (forward_proxy.parent(&grant.rule, destination), record.upstream_addr) {
        (Some(parent), _) => record.parent.as_deref() == Some(parent.name.as_str()),
        (None, _) if record.parent.is_some() => false,
        (None, Some(upstream_addr)) => {
            forward_proxy.guard.check(&grant.rule, upstream_addr.ip(), upstream_addr.port()).is_ok()
        }
        (None, None) => true,
    }
}

fn decide(policy: &EgressPolicy, record: &EgressLog, destination: &Destination) -> Verdict {
    policy.decide(&record.client(), destination, RequestForm::Connect, Timestamp::now())
}
