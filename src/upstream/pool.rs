//! Idle connections to endpoints, of one worker.

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

use crate::telemetry::upstreams::Seat;

use super::connect::Stream;
use super::turns::{Claim, Lot, Turn, Turns};

/// How often closed and expired connections are let go.
const SWEEP: Duration = Duration::from_secs(1);

/// A worker's idle connections, by [`super::Endpoint::identity`].
#[derive(Default)]
pub struct Pool {
    /// Ordered and not hashed: there are few, and a comparison costs less than a keyed hash.
    idle: RefCell<BTreeMap<u64, Vec<Idle>>>,
    filled: Notify,
    turns: Turns,
}

/// A connection to an endpoint that carries one exchange after another.
pub struct Connection {
    /// The connection.
    pub stream: Stream,
    /// It has carried another exchange before.
    pub reused: bool,
    /// Counts it while it is open, where somebody counts.
    pub seat: Option<Seat>,
    /// The client connection it was announced for, if it was: it carries nothing else's requests
    /// (PROXY protocol, section 2). Boxed: few are.
    pub ends: Option<Box<Ends>>,
}

/// The two ends of a client connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ends {
    /// Where the client connected from.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

struct Idle {
    connection: Connection,
    expires: Instant,
}

impl Pool {
    /// The connection to this endpoint that was used last and is still good; one that was announced
    /// for just this client connection, or, without one, for none.
    #[must_use]
    pub fn take(&self, identity: u64, ends: Option<&Ends>) -> Option<Connection> {
        let mut pools = self.idle.borrow_mut();
        let idle = pools.get_mut(&identity)?;
        let now = Instant::now();
        let fits = |idle: &Idle| idle.connection.ends.as_deref() == ends;
        while let Some(index) = idle.iter().rposition(fits) {
            let Idle { mut connection, expires } = idle.remove(index);
            if expires > now && is_quiet(&mut connection.stream) {
                connection.reused = true;
                connection.seat.iter_mut().for_each(Seat::work);
                return Some(connection);
            }
        }
        None
    }

    /// The turn to make a connection to this endpoint, unless this worker makes `most` already.
    #[must_use]
    pub fn turn(&self, identity: u64, most: usize) -> Option<Turn> {
        self.turns.take(identity, most)
    }

    /// A place in the line before this endpoint, for as long as the result is held.
    pub fn wait(&self, identity: u64, claim: Claim) -> Receiver<Lot> {
        self.turns.wait(identity, claim)
    }

    /// Gives a connection to somebody who waits for one. Else keeps it for `keep`, unless `most` are
    /// kept already. One that only one client can use takes the place of the oldest.
    pub fn put(&self, identity: u64, connection: Connection, keep: Duration, most: usize) {
        if keep.is_zero() || most == 0 {
            return;
        }
        let Some(mut connection) = self.turns.give(identity, connection) else { return };
        let mut pools = self.idle.borrow_mut();
        let idle = pools.entry(identity).or_default();
        if connection.ends.is_some() && idle.len() >= most && !idle.is_empty() {
            idle.remove(0);
        }
        if idle.len() < most {
            connection.seat.iter_mut().for_each(Seat::rest);
            idle.push(Idle { connection, expires: Instant::now() + keep });
            self.filled.notify_one();
        }
    }

    /// Number of idle connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.idle.borrow().values().map(Vec::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes those to endpoints that nobody asks for any more; `known` is sorted.
    pub fn keep(&self, known: &[u64]) {
        self.idle.borrow_mut().retain(|identity, _| known.binary_search(identity).is_ok());
        self.turns.keep(known);
    }

    /// Closes all of them, say to get file descriptors back.
    pub fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Lets go of closed and expired connections, for ever; sleeps while there is none.
    pub async fn sweep(self: Rc<Self>) {
        loop {
            if self.is_empty() {
                self.filled.notified().await;
            }
            tokio::time::sleep(SWEEP).await;
            let now = Instant::now();
            let mut pools = self.idle.borrow_mut();
            for idle in pools.values_mut() {
                idle.retain_mut(|kept| kept.expires > now && is_quiet(&mut kept.connection.stream));
            }
            pools.retain(|_, idle| !idle.is_empty());
        }
    }
}

/// Whether nothing has come in: a close, or bytes nobody asked for, make a connection unusable.
pub fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0; 1];
    let mut buffer = ReadBuf::new(&mut byte);
    let mut cx = Context::from_waker(Waker::noop());
    matches!(Pin::new(stream).poll_read(&mut cx, &mut buffer), Poll::Pending)
}
