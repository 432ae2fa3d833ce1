//! Limits concurrent connection attempts per endpoint and queues the rest.
//!
//! A program that accepts connections more slowly than they arrive leaves them in its backlog.
//! Without a limit, each connection would stay there until its request times out, and the program
//! would then accept a connection without a request. That work delays the connections behind it, so
//! that they time out too, and none is ever used. A request queued here costs the endpoint nothing,
//! and can take a connection that another request has released as well as a new one.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use tokio::sync::oneshot::{Receiver, Sender, channel};

use super::pool::{ConnAddrs, PooledConn, is_quiet};

/// Lines of one worker, by [`super::Endpoint::identity`]; made when there is a first connection.
#[derive(Default)]
pub(super) struct ConnectQueues {
    lines: RefCell<BTreeMap<u64, Rc<EndpointQueue>>>,
}

/// The line before one endpoint.
#[derive(Default)]
struct EndpointQueue {
    /// Connection attempts in progress.
    making: Cell<usize>,
    /// Requests with a session, and behind them all other requests.
    waiting: [RefCell<VecDeque<QueuedRequest>>; 2],
}

/// Requirements of a queued request.
#[derive(Clone, Copy)]
pub struct Waiter {
    /// Client addresses that the PROXY header of the connection must carry, if any.
    pub ends: Option<ConnAddrs>,
    /// Accepts only a new connection, not an idle one.
    pub fresh: bool,
    /// The request belongs to a session. Its client gives the session up after a few silent
    /// seconds, so the request goes before those without a session.
    pub has_session: bool,
}

struct QueuedRequest {
    waiter: Waiter,
    granted: Sender<Granted>,
}

/// Result of waiting in the queue.
pub enum Granted {
    /// A permit to connect.
    Turn(ConnectPermit),
    /// A connection that another request is done with.
    Kept(PooledConn),
}

/// Permit for one connection attempt; passed to the next queued request on drop.
pub struct ConnectPermit {
    line: Rc<EndpointQueue>,
}

impl ConnectQueues {
    /// A permit to connect, unless `most` attempts are in progress.
    pub(super) fn take(&self, identity: u64, most: usize) -> Option<ConnectPermit> {
        let line = self.line(identity);
        (line.making.get() < most).then(|| ConnectPermit::of(&line))
    }

    /// A place in the queue, held as long as the receiver.
    pub(super) fn wait(&self, identity: u64, waiter: Waiter) -> Receiver<Granted> {
        let (granted, place) = channel();
        let [sessions, others] = &self.line(identity).waiting;
        let waiting = if waiter.has_session { sessions } else { others };
        let mut waiting = waiting.borrow_mut();
        // Drops requests that have left the queue, so that only live ones count.
        while waiting.pop_front_if(|first| first.granted.is_closed()).is_some() {}
        waiting.push_back(QueuedRequest { waiter, granted });
        place
    }

    fn line(&self, identity: u64) -> Rc<EndpointQueue> {
        Rc::clone(self.lines.borrow_mut().entry(identity).or_default())
    }

    /// Gives a connection to the first queued request that can use it, or returns it.
    pub(super) fn give(&self, identity: u64, mut connection: PooledConn) -> Option<PooledConn> {
        let lines = self.lines.borrow();
        let Some(line) = lines.get(&identity) else { return Some(connection) };
        let ends = connection.ends.as_deref();
        let fits = |QueuedRequest { waiter, granted }: &QueuedRequest| {
            !waiter.fresh && waiter.ends.as_ref() == ends && !granted.is_closed()
        };
        let next = line.waiting.iter().find_map(|waiting| {
            let index = waiting.borrow().iter().position(fits)?;
            Some((waiting, index))
        });
        let Some((waiting, index)) = next else { return Some(connection) };
        if !is_quiet(&mut connection.stream) {
            return Some(connection);
        }
        connection.reused = true;
        if let Some(next) = waiting.borrow_mut().remove(index) {
            // It has just been looked at: it waits.
            let _ = next.granted.send(Granted::Kept(connection));
        }
        None
    }

    /// Removes the queues of endpoints that are no longer configured; `known` is sorted. A queued
    /// request keeps its queue until the queue is empty.
    pub(super) fn keep(&self, known: &[u64]) {
        self.lines.borrow_mut().retain(|identity, _| known.binary_search(identity).is_ok());
    }
}

impl ConnectPermit {
    fn of(line: &Rc<EndpointQueue>) -> Self {
        line.making.set(line.making.get() + 1);
        Self { line: Rc::clone(line) }
    }
}

impl Drop for ConnectPermit {
    fn drop(&mut self) {
        self.line.making.set(self.line.making.get() - 1);
        // Requests that have left the queue are skipped.
        let next = self.line.waiting.iter().find_map(|waiting| {
            let mut waiting = waiting.borrow_mut();
            std::iter::from_fn(|| waiting.pop_front()).find(|next| !next.granted.is_closed())
        });
        if let Some(next) = next {
            let _ = next.granted.send(Granted::Turn(Self::of(&self.line)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Stream;

    const HERE: u64 = 7;
    const NEW: Waiter = Waiter { ends: None, fresh: false, has_session: false };

    fn taken(queues: &ConnectQueues, most: usize) -> ConnectPermit {
        queues.take(HERE, most).unwrap()
    }

    fn waits(queues: &ConnectQueues) -> Receiver<Granted> {
        queues.wait(HERE, NEW)
    }

    fn connection() -> (PooledConn, tokio::io::DuplexStream) {
        let (stream, other) = tokio::io::duplex(16);
        let stream = Stream::Within(stream);
        (PooledConn { stream, reused: false, seat: None, ends: None }, other)
    }

    fn permit(place: &mut Receiver<Granted>) -> Option<ConnectPermit> {
        match place.try_recv() {
            Ok(Granted::Turn(permit)) => Some(permit),
            _ => None,
        }
    }

    #[test]
    fn so_many_are_made_at_once_and_who_came_first_is_next() {
        let queues = ConnectQueues::default();
        let (first, second) = (taken(&queues, 2), taken(&queues, 2));
        assert!(queues.take(HERE, 2).is_none());
        let (mut third, mut fourth) = (waits(&queues), waits(&queues));
        assert!(queues.take(HERE + 1, 1).is_some(), "another endpoint's line");
        assert!(permit(&mut third).is_none());
        drop(first);
        let third = permit(&mut third).unwrap();
        assert!(permit(&mut fourth).is_none());
        drop(second);
        drop((permit(&mut fourth).unwrap(), third));
        drop((taken(&queues, 2), taken(&queues, 2)));
    }

    #[test]
    fn who_has_left_is_passed_over_even_if_it_was_its_turn() {
        let queues = ConnectQueues::default();
        let first = taken(&queues, 1);
        let (left, late, mut third) = (waits(&queues), waits(&queues), waits(&queues));
        drop(left);
        drop(first);
        assert!(permit(&mut third).is_none(), "it is the turn of one who has not looked yet");
        drop(late);
        drop(permit(&mut third).unwrap());
        drop(taken(&queues, 1));
    }

    #[test]
    fn a_connection_goes_to_the_first_who_can_use_it() {
        let queues = ConnectQueues::default();
        let (one, _other) = connection();
        let one = queues.give(HERE, one).expect("nobody waits");
        let _first = taken(&queues, 1);
        let mut fresh = queues.wait(HERE, Waiter { fresh: true, ..NEW });
        let ends = "192.0.2.1:1".parse().unwrap();
        let ends = ConnAddrs { source: ends, destination: ends };
        let mut announced = queues.wait(HERE, Waiter { ends: Some(ends), ..NEW });
        let one = queues.give(HERE, one).expect("nobody who waits can use it");
        let (mut second, mut third) = (waits(&queues), waits(&queues));
        assert!(queues.give(HERE, one).is_none());
        assert!(matches!(second.try_recv(), Ok(Granted::Kept(PooledConn { reused: true, .. }))));
        let (closed, _) = connection();
        assert!(queues.give(HERE, closed).is_some(), "it is of no use any more");
        for place in [&mut fresh, &mut announced, &mut third] {
            assert!(place.try_recv().is_err());
        }
    }

    #[test]
    fn who_has_a_session_goes_first() {
        let queues = ConnectQueues::default();
        let first = taken(&queues, 1);
        let mut newcomer = waits(&queues);
        let [mut one, mut other] =
            [(); 2].map(|()| queues.wait(HERE, Waiter { has_session: true, ..NEW }));
        drop(first);
        let second = permit(&mut one).unwrap();
        let (connection, _other) = connection();
        assert!(queues.give(HERE, connection).is_none());
        assert!(matches!(other.try_recv(), Ok(Granted::Kept(_))));
        drop(second);
        assert!(permit(&mut newcomer).is_some());
    }
}
