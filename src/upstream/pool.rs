//! Idle connections to endpoints, of one worker.
//!
//! An upstream may close an idle connection at the moment a request is sent on it. A repeatable
//! request is then sent again. Other requests would be lost, so they only get a connection that is
//! younger than those the upstream was seen to close (`IdleLimit`), and whose socket was checked
//! immediately before (`Pool::take_sure`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::sync::Notify;
use tokio::sync::oneshot::Receiver;
use tokio::time::Instant;

use crate::telemetry::upstreams::ConnGauge;

use super::connect::Stream;
use super::connect_queue::{ConnectPermit, ConnectQueues, Granted, Waiter};

/// Interval between sweeps of closed and expired connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Minimum age difference to the oldest connection that was seen open.
const MARGIN: Duration = Duration::from_secs(1);

/// A worker's idle connections, by [`super::Endpoint::identity`].
#[derive(Default)]
pub struct Pool {
    /// Ordered and not hashed: there are few, and a comparison costs less than a keyed hash.
    idle: RefCell<BTreeMap<u64, KeptConn>>,
    filled: Notify,
    queues: ConnectQueues,
}

/// A connection to an endpoint that carries one exchange after another.
pub struct PooledConn {
    /// The connection.
    pub stream: Stream,
    /// It has carried another exchange before.
    pub reused: bool,
    /// Counts the connection while it is open, if it has a gauge.
    pub seat: Option<ConnGauge>,
    /// The client connection it was announced for, if it was: it carries nothing else's requests
    /// (PROXY protocol, section 2). Boxed: few are.
    pub ends: Option<Box<ConnAddrs>>,
}

/// The two ends of a client connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConnAddrs {
    /// Source address of the client.
    pub source: SocketAddr,
    /// Destination address of the client connection.
    pub destination: SocketAddr,
}

/// Idle connections to one endpoint, those that have become idle last at the end.
#[derive(Default)]
struct KeptConn {
    idle: Vec<IdleConn>,
    limit: IdleLimit,
}

struct IdleConn {
    connection: PooledConn,
    /// When it became idle.
    since: Instant,
    /// When it was last seen to be open.
    open_at: Instant,
    expires: Instant,
}

/// Estimate of the time after which an endpoint closes idle connections: none of its connections
/// was open for longer, and one was closed soon after.
///
/// A connection that is closed early for another reason, for example by a restart, lowers the
/// estimate; a connection that is then seen to be open for longer raises it again.
#[derive(Clone, Copy, Debug, Default)]
struct IdleLimit(Option<Duration>);

impl IdleLimit {
    /// Records a connection that was closed after it had been seen open at this age.
    fn closed(&mut self, age: Duration) {
        self.0 = Some(self.0.map_or(age, |limit| limit.min(age)));
    }

    /// Records a connection that is open at this age.
    fn open(&mut self, age: Duration) {
        self.0 = self.0.map(|limit| limit.max(age));
    }

    /// Whether a connection of this age will still be open when a request arrives.
    fn is_safe(self, age: Duration) -> bool {
        // The endpoint's clock started earlier than ours, and its timers have a granularity.
        self.0.is_none_or(|limit| age < limit.saturating_sub(MARGIN.min(limit / 4)))
    }
}

/// A kept connection, and how long it was idle.
pub struct Taken {
    /// The connection.
    pub connection: PooledConn,
    /// Idle time of the connection.
    pub idle: Duration,
}

impl Pool {
    /// The connection to this endpoint that was used last and is still good; one that was announced
    /// for just this client connection, or, without one, for none.
    #[must_use]
    pub fn take(&self, identity: u64, ends: Option<&ConnAddrs>) -> Option<Taken> {
        self.take_if(identity, ends, |_, _| true, is_quiet)
    }

    /// The same for a request that must not be lost: none that the endpoint may be about to close,
    /// and none that it has closed already, which takes a system call to know.
    #[must_use]
    pub fn take_sure(&self, identity: u64, ends: Option<&ConnAddrs>) -> Option<Taken> {
        self.take_if(identity, ends, IdleLimit::is_safe, |stream| {
            is_quiet(stream) && !stream.has_input()
        })
    }

    fn take_if(
        &self,
        identity: u64,
        ends: Option<&ConnAddrs>,
        is_young: impl Fn(IdleLimit, Duration) -> bool,
        is_open: impl Fn(&mut Stream) -> bool,
    ) -> Option<Taken> {
        let mut pools = self.idle.borrow_mut();
        let KeptConn { idle, limit } = pools.get_mut(&identity)?;
        let now = Instant::now();
        let fits = |idle: &IdleConn| idle.connection.ends.as_deref() == ends;
        while let Some(index) = idle.iter().rposition(fits) {
            // The others have been idle for longer.
            let young = |idle: &IdleConn| is_young(*limit, now.duration_since(idle.since));
            if !idle.get(index).is_some_and(young) {
                return None;
            }
            let IdleConn { mut connection, since, open_at, expires } = idle.remove(index);
            let age = now.duration_since(since);
            if !is_open(&mut connection.stream) {
                limit.closed(open_at.duration_since(since));
            } else if expires > now {
                limit.open(age);
                connection.reused = true;
                connection.seat.iter_mut().for_each(ConnGauge::mark_active);
                return Some(Taken { connection, idle: age });
            }
        }
        None
    }

    /// Records that an endpoint had closed a connection that was idle for this long before it was
    /// taken.
    pub fn closed(&self, identity: u64, idle: Duration) {
        if let Some(kept) = self.idle.borrow_mut().get_mut(&identity) {
            kept.limit.closed(idle);
        }
    }

    /// A permit to connect to this endpoint, unless this worker already makes `most` attempts.
    #[must_use]
    pub fn permit(&self, identity: u64, most: usize) -> Option<ConnectPermit> {
        self.queues.take(identity, most)
    }

    /// A place in the connect queue of this endpoint, held as long as the result.
    pub fn wait(&self, identity: u64, waiter: Waiter) -> Receiver<Granted> {
        self.queues.wait(identity, waiter)
    }

    /// Gives the connection to a queued request. Otherwise keeps it for `keep`, unless `most` are
    /// kept already. A connection that only one client can use replaces the oldest one.
    pub fn put(&self, identity: u64, connection: PooledConn, keep: Duration, most: usize) {
        if keep.is_zero() || most == 0 {
            return;
        }
        let Some(mut connection) = self.queues.give(identity, connection) else { return };
        let mut pools = self.idle.borrow_mut();
        let KeptConn { idle, .. } = pools.entry(identity).or_default();
        if connection.ends.is_some() && idle.len() >= most && !idle.is_empty() {
            idle.remove(0);
        }
        if idle.len() < most {
            connection.seat.iter_mut().for_each(ConnGauge::mark_idle);
            let now = Instant::now();
            idle.push(IdleConn { connection, since: now, open_at: now, expires: now + keep });
            self.filled.notify_one();
        }
    }

    /// Number of idle connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.idle.borrow().values().map(|kept| kept.idle.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes the connections to endpoints that are no longer configured; `known` is sorted.
    pub fn keep(&self, known: &[u64]) {
        self.idle.borrow_mut().retain(|identity, _| known.binary_search(identity).is_ok());
        self.queues.keep(known);
    }

    /// Closes all of them, say to get file descriptors back.
    pub fn clear(&self) {
        self.idle.borrow_mut().values_mut().for_each(|kept| kept.idle.clear());
    }

    /// Lets go of closed and expired connections, for ever; sleeps while there is none.
    pub async fn sweep(self: Rc<Self>) {
        loop {
            if self.is_empty() {
                self.filled.notified().await;
            }
            tokio::time::sleep(SWEEP_INTERVAL).await;
            let now = Instant::now();
            let mut pools = self.idle.borrow_mut();
            for KeptConn { idle, limit } in pools.values_mut() {
                idle.retain_mut(|idle| {
                    if !is_quiet(&mut idle.connection.stream) {
                        limit.closed(idle.open_at.duration_since(idle.since));
                        return false;
                    }
                    idle.open_at = now;
                    limit.open(now.duration_since(idle.since));
                    idle.expires > now
                });
                if idle.is_empty() {
                    *idle = Vec::new();
                }
            }
        }
    }
}

/// Whether no bytes have arrived: a close or an unsolicited byte makes a connection unusable.
pub fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0; 1];
    let mut buffer = ReadBuf::new(&mut byte);
    let mut cx = Context::from_waker(Waker::noop());
    matches!(Pin::new(stream).poll_read(&mut cx, &mut buffer), Poll::Pending)
}

#[cfg(test)]
mod tests;
