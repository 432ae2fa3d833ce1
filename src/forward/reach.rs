//! From a destination that is allowed to a connection with it: names looked up, every address
//! judged, only judged ones dialled.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::addr::{Destination, Host};
use crate::egress::{Barred, Denial, Grant, Rule};
use crate::generation::Outlet;
use crate::message::Reason;
use crate::net::{CheckedAddr, DialError, dial};
use crate::upstream::Stream;
use crate::upstream::connect::dial_error;

use super::names::Addresses;
use super::{Commons, parent};

/// A connection that leads to a destination.
pub(super) struct Reached {
    /// The connection.
    pub(super) stream: Stream,
    /// What a parent has sent beyond its answer: the destination's first words.
    pub(super) early: Bytes,
    /// The address connected to.
    pub(super) dialled: Option<SocketAddr>,
    /// The parent it goes through.
    pub(super) parent: Option<Box<str>>,
}

/// Why there is none.
pub(super) enum Unreached {
    /// The guard bars its addresses.
    Denied(Denial),
    /// It cannot be reached.
    Failed(Reason, String),
}

/// Connects to a destination, or to the parent that leads there, within the time for that.
///
/// # Errors
///
/// [`Unreached`].
///
/// # Cancellation
///
/// Dropping the future closes what was being tried.
pub(super) async fn reach(
    commons: &Commons,
    outlet: &Outlet,
    grant: &Grant,
    destination: &Destination,
) -> Result<Reached, Unreached> {
    let rule = &grant.rule;
    let deadline = Instant::now() + outlet.timeouts.connect;
    let parent = outlet.parent(rule, destination);
    let found = match timeout_at(deadline, addresses(commons, outlet, destination)).await {
        Ok(Ok(found)) => found,
        // The parent looks names up; one that is unknown here may be known there.
        _ if parent.is_some() => Addresses::from([]),
        Ok(Err(said)) => return Err(Unreached::Failed(Reason::UpstreamUnresolved, said)),
        Err(_) => {
            let said = format!("looking {} up took too long", destination.host);
            return Err(Unreached::Failed(Reason::UpstreamConnectTimeout, said));
        }
    };
    let checked = check(outlet, rule, &found, destination.port).map_err(Unreached::Denied)?;
    if let Some(parent) = parent {
        return parent::open(parent, destination).await;
    }
    let budget = deadline.saturating_duration_since(Instant::now());
    match dial::race(&checked, budget).await {
        Ok((stream, dialled)) => Ok(Reached {
            stream: Stream::Plain(stream),
            early: Bytes::new(),
            dialled: Some(dialled),
            parent: None,
        }),
        Err(error) => Err(failed(&error, &checked, outlet.timeouts.connect)),
    }
}

/// The addresses of a destination, as claimed.
async fn addresses(
    commons: &Commons,
    outlet: &Outlet,
    destination: &Destination,
) -> Result<Addresses, String> {
    match &destination.host {
        Host::Addr(ip) => Ok(Addresses::from([*ip])),
        Host::Name(name) => match outlet.hosts.get(name) {
            Some(pinned) => Ok(Arc::clone(pinned)),
            None => commons
                .names
                .look_up(name)
                .await
                .map_err(|error| format!("{} cannot be looked up: {error}", name.as_str())),
        },
    }
}

/// Those the guard lets through; the reason for the first it does not, if that leaves none.
fn check(
    outlet: &Outlet,
    rule: &Arc<Rule>,
    found: &[IpAddr],
    port: u16,
) -> Result<Vec<CheckedAddr>, Denial> {
    let mut barred: Option<Barred> = None;
    let mut checked = Vec::with_capacity(found.len());
    for ip in found {
        match outlet.guard.check(rule, *ip, port) {
            Ok(address) => checked.push(address),
            Err(why) => _ = barred.get_or_insert(why),
        }
    }
    match barred {
        Some(barred) if checked.is_empty() => Err(Denial::barred(rule, barred)),
        _ => Ok(checked),
    }
}

fn failed(error: &DialError, tried: &[CheckedAddr], budget: Duration) -> Unreached {
    let shown: Vec<_> = tried.iter().map(|addr| addr.get().to_string()).collect();
    let shown = shown.join(", ");
    match error {
        DialError::NoAddress => {
            Unreached::Failed(Reason::UpstreamUnresolved, "there is no address".to_owned())
        }
        DialError::TimedOut { .. } => Unreached::Failed(
            Reason::UpstreamConnectTimeout,
            format!("{shown}: no connection within {budget:?}"),
        ),
        DialError::Shortage(_, cause) => {
            Unreached::Failed(dial_error(error), format!("{shown}: {cause}"))
        }
        DialError::Refused(cause) => {
            Unreached::Failed(Reason::UpstreamConnect, format!("{shown}: {cause}"))
        }
    }
}
