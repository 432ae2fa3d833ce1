//! From a destination that is allowed to a connection with it: names looked up, every address
//! judged, only judged ones dialled.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::addr::{Destination, Host};
use crate::egress::{Blocked, Denial, EgressRule, Grant};
use crate::generation::ForwardProxy;
use crate::message::{Reason, RequestForm};
use crate::net::{CheckedAddr, DialError, dial};
use crate::upstream::Stream;
use crate::upstream::connect::dial_error;

use super::dns_cache::{Addresses, ResolveError};
use super::{ForwardShared, parent};

/// A connection that leads to a destination.
pub(super) struct EgressStream {
    /// The connection.
    pub(super) stream: Stream,
    /// Bytes that a parent sent after its answer: the first bytes of the destination.
    pub(super) early: Bytes,
    /// The address connected to.
    pub(super) upstream_addr: Option<SocketAddr>,
    /// The parent it goes through.
    pub(super) parent: Option<Box<str>>,
}

/// Why there is none.
pub(super) enum EgressConnectError {
    /// The guard bars its addresses.
    Denied(Denial),
    /// It cannot be reached.
    Failed(Reason, String),
}

/// Parameters of one connection to a destination.
pub(super) struct Errand<'a> {
    pub(super) forward_shared: &'a ForwardShared,
    pub(super) forward_proxy: &'a ForwardProxy,
    /// The client's network, in whose share names are looked up.
    pub(super) network: IpAddr,
    /// Form of the request: CONNECT or absolute-form.
    pub(super) form: RequestForm,
}

impl Errand<'_> {
    /// Connects to a destination, or to the parent that leads there, within the connect timeout.
    ///
    /// # Errors
    ///
    /// [`EgressConnectError`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the sockets of all attempts.
    pub(super) async fn reach(
        &self,
        grant: &Grant,
        destination: &Destination,
    ) -> Result<EgressStream, EgressConnectError> {
        let (forward_proxy, rule) = (self.forward_proxy, &grant.rule);
        let deadline = Instant::now() + forward_proxy.timeouts.connect;
        let parent = forward_proxy.parent(rule, destination);
        let found = match timeout_at(deadline, self.addresses(destination)).await {
            Ok(Ok(found)) => found,
            // The parent looks names up; one that is unknown here may be known there.
            _ if parent.is_some() => Addresses::from([]),
            Ok(Err(error)) => return Err(unresolved(destination, &error)),
            Err(_) => {
                let said = format!("name resolution of {} timed out", destination.host);
                return Err(EgressConnectError::Failed(Reason::UpstreamConnectTimeout, said));
            }
        };
        let checked =
            self.check(rule, &found, destination.port).map_err(EgressConnectError::Denied)?;
        if let Some(parent) = parent {
            return parent::open(parent, destination).await;
        }
        let budget = deadline.saturating_duration_since(Instant::now());
        match dial::race(&checked, budget).await {
            Ok((stream, upstream_addr)) => Ok(EgressStream {
                stream: Stream::Plain(stream),
                early: Bytes::new(),
                upstream_addr: Some(upstream_addr),
                parent: None,
            }),
            Err(error) => Err(failed(&error, &checked, forward_proxy.timeouts.connect)),
        }
    }

    /// The addresses of a destination, as claimed.
    async fn addresses(&self, destination: &Destination) -> Result<Addresses, ResolveError> {
        match &destination.host {
            Host::Addr(ip) => Ok(Addresses::from([*ip])),
            Host::Name(name) => match self.forward_proxy.hosts.get(name) {
                Some(pinned) => Ok(Arc::clone(pinned)),
                None => self.forward_shared.names.look_up(name, self.network).await,
            },
        }
    }

    /// Those the guard lets through; the reason for the first it does not, if that leaves none.
    fn check(
        &self,
        rule: &Arc<EgressRule>,
        found: &[IpAddr],
        port: u16,
    ) -> Result<Vec<CheckedAddr>, Denial> {
        let mut barred: Option<Blocked> = None;
        let mut checked = Vec::with_capacity(found.len());
        for ip in found {
            match self.forward_proxy.guard.check(rule, *ip, port) {
                Ok(address) => checked.push(address),
                Err(why) => _ = barred.get_or_insert(why),
            }
        }
        match barred {
            Some(barred) if checked.is_empty() => Err(Denial::barred(rule, barred, self.form)),
            _ => Ok(checked),
        }
    }
}

fn unresolved(destination: &Destination, error: &ResolveError) -> EgressConnectError {
    let reason = match error {
        ResolveError::Resolver(_) => Reason::UpstreamUnresolved,
        ResolveError::Busy => Reason::TooManyLookUps,
    };
    EgressConnectError::Failed(reason, format!("cannot resolve {}: {error}", destination.host))
}

fn failed(error: &DialError, tried: &[CheckedAddr], budget: Duration) -> EgressConnectError {
    let shown: Vec<_> = tried.iter().map(|addr| addr.get().to_string()).collect();
    let shown = shown.join(", ");
    match error {
        DialError::NoAddress => {
            EgressConnectError::Failed(Reason::UpstreamUnresolved, "there is no address".to_owned())
        }
        DialError::TimedOut { .. } => EgressConnectError::Failed(
            Reason::UpstreamConnectTimeout,
            format!("{shown}: no connection within {budget:?}"),
        ),
        DialError::Shortage(_, cause) => {
            EgressConnectError::Failed(dial_error(error), format!("{shown}: {cause}"))
        }
        DialError::Refused(cause) => {
            EgressConnectError::Failed(Reason::UpstreamConnect, format!("{shown}: {cause}"))
        }
    }
}
