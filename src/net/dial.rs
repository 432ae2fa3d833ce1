//! Connecting, to checked addresses only.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// An address somebody has answered for.
///
/// Only the crate can make one, so what takes it cannot be handed an address that skipped the
/// check.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct CheckedAddr(SocketAddr);

impl CheckedAddr {
    /// Vouches for `addr`. Call sites are the resolver of configured endpoints and, for the
    /// forward proxy, its guard; no other.
    pub(crate) const fn vouched(addr: SocketAddr) -> Self {
        Self(addr)
    }

    /// The address.
    #[must_use]
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

/// Connects to the first address that answers; the stream has `TCP_NODELAY` set.
///
/// Addresses are tried in the order given. `budget` covers all of them together: wall time from
/// this call to an established connection, TLS excluded.
///
/// # Errors
///
/// - [`DialError::NoAddress`] if `addrs` is empty.
/// - [`DialError::Refused`] with the error of the last address tried.
/// - [`DialError::TimedOut`] if `budget` ran out first.
///
/// # Cancellation
///
/// Dropping the future closes the socket being tried.
pub async fn dial(addrs: &[CheckedAddr], budget: Duration) -> Result<TcpStream, DialError> {
    let deadline = Instant::now() + budget;
    let mut refused = None;
    for CheckedAddr(addr) in addrs {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that dials")]
        let attempt = TcpStream::connect(addr);
        match timeout_at(deadline, attempt).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(DialError::Refused)?;
                return Ok(stream);
            }
            Ok(Err(error)) => refused = Some(error),
            Err(_) => return Err(DialError::TimedOut { budget }),
        }
    }
    Err(refused.map_or(DialError::NoAddress, DialError::Refused))
}

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There was nothing to try.
    #[error("no address to connect to")]
    NoAddress,
    /// The last address tried said no.
    #[error("{0}")]
    Refused(#[source] io::Error),
    /// Time ran out.
    #[error("no connection within {budget:?}")]
    TimedOut {
        /// What the caller allowed.
        budget: Duration,
    },
}
