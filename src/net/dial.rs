//! Outbound TCP connections, to checked addresses only.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::Shortage;

/// An address that was checked.
///
/// Only this crate can construct one, so a function that takes a `CheckedAddr` cannot be given an
/// address that skipped the check.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct CheckedAddr(SocketAddr);

impl CheckedAddr {
    /// Marks `addr` as checked. The only callers are the resolver of configured endpoints and the
    /// guard of the forward proxy.
    pub(crate) const fn vouched(addr: SocketAddr) -> Self {
        Self(addr)
    }

    /// The same IP address with another port, which the operator configured too.
    pub(crate) const fn at(self, port: u16) -> Self {
        let mut addr = self.0;
        addr.set_port(port);
        Self(addr)
    }

    /// The address.
    #[must_use]
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

/// Connects to the first address that accepts; the stream has `TCP_NODELAY` set.
///
/// Addresses are tried in the given order. `budget` is the limit for all of them together: wall
/// time from this call to an established connection, TLS excluded.
///
/// # Errors
///
/// - [`DialError::NoAddress`] if `addrs` is empty.
/// - [`DialError::Shortage`] if this host lacked a resource to try one of them.
/// - [`DialError::Refused`] with the error of the last address tried.
/// - [`DialError::TimedOut`] if `budget` was used up first.
///
/// # Cancellation
///
/// Dropping the future closes the socket of the current attempt.
pub async fn dial(addrs: &[CheckedAddr], budget: Duration) -> Result<TcpStream, DialError> {
    let deadline = Instant::now() + budget;
    let mut failure = DialError::NoAddress;
    for CheckedAddr(addr) in addrs {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that dials")]
        let attempt = TcpStream::connect(addr);
        match timeout_at(deadline, attempt).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(|error| DialError::from_connect(error, *addr))?;
                return Ok(stream);
            }
            Ok(Err(error)) => failure = failure.then(DialError::from_connect(error, *addr)),
            Err(_) => return Err(failure.then(DialError::TimedOut { budget })),
        }
    }
    Err(failure)
}

/// Time after which the next address is tried in parallel with a pending attempt (RFC 8305 section
/// 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the address that accepts first and returns that address too (RFC 8305 section 5).
/// The address families alternate. The next address is tried in parallel when all earlier attempts
/// have failed or the latest has been pending for `ATTEMPT_DELAY`. The other attempts are closed.
/// The stream has `TCP_NODELAY` set.
///
/// # Errors
///
/// As [`dial`]; `budget` is the limit for all attempts together.
///
/// # Cancellation
///
/// Dropping the future closes the sockets of all attempts.
pub async fn race(
    addrs: &[CheckedAddr],
    budget: Duration,
) -> Result<(TcpStream, SocketAddr), DialError> {
    let deadline = Instant::now() + budget;
    let waiting = in_turns(addrs);
    let mut waiting = waiting.iter().peekable();
    let mut attempts: Vec<DialAttempt> = Vec::new();
    let mut failure = DialError::NoAddress;
    loop {
        if attempts.is_empty() && waiting.peek().is_none() {
            return Err(failure);
        }
        if let Some(CheckedAddr(addr)) = waiting.next() {
            attempts.push(attempt(*addr));
        }
        let pause = match waiting.peek() {
            Some(_) => deadline.min(Instant::now() + ATTEMPT_DELAY),
            None => deadline,
        };
        match timeout_at(pause, first(&mut attempts)).await {
            Ok(Ok((stream, addr))) => {
                stream.set_nodelay(true).map_err(|error| DialError::from_connect(error, addr))?;
                return Ok((stream, addr));
            }
            Ok(Err(error)) => failure = failure.then(error),
            Err(_) if Instant::now() >= deadline => {
                return Err(failure.then(DialError::TimedOut { budget }));
            }
            Err(_) => {}
        }
    }
}

type DialAttempt = Pin<Box<dyn Future<Output = Result<(TcpStream, SocketAddr), DialError>> + Send>>;

fn attempt(addr: SocketAddr) -> DialAttempt {
    Box::pin(async move {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that dials")]
        let stream =
            TcpStream::connect(addr).await.map_err(|error| DialError::from_connect(error, addr))?;
        Ok((stream, addr))
    })
}

/// The result of the attempt that ends first, which is removed. Waits for ever if there is none.
async fn first(attempts: &mut Vec<DialAttempt>) -> Result<(TcpStream, SocketAddr), DialError> {
    poll_fn(|cx| {
        for index in 0..attempts.len() {
            let polled = attempts.get_mut(index).map(|attempt| attempt.as_mut().poll(cx));
            if let Some(Poll::Ready(result)) = polled {
                drop(attempts.swap_remove(index));
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    })
    .await
}

/// The addresses with alternating families, beginning with the family of the first one.
#[must_use]
pub fn in_turns(addrs: &[CheckedAddr]) -> Vec<CheckedAddr> {
    let Some(leader) = addrs.first() else { return Vec::new() };
    let leads = |addr: &&CheckedAddr| addr.0.is_ipv6() == leader.0.is_ipv6();
    let mut leading = addrs.iter().filter(leads);
    let mut others = addrs.iter().filter(|addr| !leads(addr));
    let mut order = Vec::with_capacity(addrs.len());
    while order.len() < addrs.len() {
        order.extend(leading.next());
        order.extend(others.next());
    }
    order
}

/// The reason why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The list of addresses was empty.
    #[error("no address to connect to")]
    NoAddress,
    /// The last address tried failed.
    #[error("{0}")]
    Refused(#[source] io::Error),
    /// This host lacked a resource for a connection, so an address could not be tried.
    #[error("{1}")]
    Shortage(Shortage, #[source] io::Error),
    /// No connection was established within the budget.
    #[error("no connection within {budget:?}")]
    TimedOut {
        /// The time allowed by the caller.
        budget: Duration,
    },
}

impl DialError {
    fn from_connect(error: io::Error, peer: SocketAddr) -> Self {
        match Shortage::from_connect_error(&error, peer) {
            Some(shortage) => Self::Shortage(shortage, error),
            None => Self::Refused(error),
        }
    }

    /// Combines the errors of several attempts, of which `next` ended last. A shortage takes
    /// precedence, because the address that could not be tried may be a good one.
    fn then(self, next: Self) -> Self {
        if matches!(self, Self::Shortage(..)) { self } else { next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn checked(text: &str) -> CheckedAddr {
        CheckedAddr(text.parse().unwrap())
    }

    #[test]
    fn families_take_turns() {
        let addrs = ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "192.0.2.1:1"];
        let order = in_turns(&addrs.map(checked));
        let order: Vec<_> = order.iter().map(|addr| addr.get().ip().to_string()).collect();
        assert_eq!(order, ["2001:db8::1", "192.0.2.1", "2001:db8::2", "2001:db8::3"]);
    }

    #[test]
    fn a_shortage_takes_precedence_over_other_errors() {
        let addr = "127.0.0.1:9".parse().unwrap();
        let error = |code: rustix::io::Errno| {
            DialError::from_connect(io::Error::from_raw_os_error(code.raw_os_error()), addr)
        };
        let (refused, short) =
            (|| error(rustix::io::Errno::CONNREFUSED), || error(rustix::io::Errno::NOBUFS));
        assert!(matches!(refused(), DialError::Refused(_)));
        let budget = Duration::from_secs(1);
        for last in [refused(), DialError::TimedOut { budget }] {
            assert!(matches!(short().then(last), DialError::Shortage(Shortage::Memory, _)));
        }
        assert!(matches!(refused().then(short()), DialError::Shortage(..)));
        assert!(matches!(DialError::NoAddress.then(refused()), DialError::Refused(_)));
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_skipped_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let gone = TcpListener::bind("127.0.0.2:0").await.unwrap().local_addr().unwrap();
        let addrs = [CheckedAddr(gone), CheckedAddr(good)];
        let (stream, addr) = race(&addrs, Duration::from_secs(30)).await.unwrap();
        assert_eq!((addr, stream.peer_addr().unwrap()), (good, good));
        let none = race(&[CheckedAddr(gone)], Duration::from_secs(30)).await;
        assert!(matches!(none, Err(DialError::Refused(_))));
        let nothing = race(&[], Duration::from_secs(30)).await;
        assert!(matches!(nothing, Err(DialError::NoAddress)));
    }

    #[tokio::test]
    async fn a_silent_address_does_not_delay_the_next() {
        // A listener whose accept queue is full does not answer a SYN.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&"127.0.0.3:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let silent = socket.local_addr().unwrap().as_socket().unwrap();
        let mut full = Vec::new();
        while full.len() < 64 {
            match race(&[CheckedAddr(silent)], Duration::from_millis(100)).await {
                Ok(stream) => full.push(stream),
                Err(_) => break,
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let addrs = [CheckedAddr(silent), CheckedAddr(good)];
        let (_, addr) = race(&addrs, Duration::from_secs(30)).await.unwrap();
        assert_eq!(addr, good);
    }
}
