//! Shortages of this host: I/O errors that are no fault of the peer.
//!
//! If the gateway has no descriptor, port or memory left for a connection, the failure must not
//! count against the peer. Code that classifies the I/O error of a socket calls
//! [`Shortage::from_error`].

use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

/// A resource of this process or host that has run out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shortage {
    /// File descriptors, of the process or the system.
    Descriptors,
    /// Local ports for connections to one address and port.
    Ports,
    /// Memory of the kernel for sockets.
    Memory,
}

impl Shortage {
    /// The shortage that caused an error of a socket. `None` if the error is about the peer or the
    /// path to it.
    #[must_use]
    pub fn from_error(error: &io::Error) -> Option<Self> {
        match Errno::from_raw_os_error(error.raw_os_error()?) {
            Errno::MFILE | Errno::NFILE => Some(Self::Descriptors),
            // Some kernels return AGAIN from connect(2) instead of ADDRNOTAVAIL.
            Errno::ADDRNOTAVAIL | Errno::AGAIN => Some(Self::Ports),
            Errno::NOBUFS | Errno::NOMEM => Some(Self::Memory),
            _ => None,
        }
    }

    /// The shortage that caused an error of connecting to `peer`. Like [`Shortage::from_error`],
    /// except that a host without a source address for `peer` has no shortage: `peer` is then
    /// unreachable. An example is `::1` where IPv6 is disabled.
    #[must_use]
    pub fn from_connect_error(error: &io::Error, peer: SocketAddr) -> Option<Self> {
        let shortage = Self::from_error(error)?;
        (shortage != Self::Ports || has_source_address(peer)).then_some(shortage)
    }
}

/// Whether this host has a source address for connections to `peer`. Sends nothing.
fn has_source_address(peer: SocketAddr) -> bool {
    // Connecting a datagram socket selects the source address and uses no TCP port.
    let connected = Socket::new(Domain::for_address(peer), Type::DGRAM, None)
        .and_then(|socket| socket.connect(&peer.into()));
    let code = connected.err().and_then(|error| error.raw_os_error());
    let absent = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT].map(Errno::raw_os_error);
    !code.is_some_and(|code| absent.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shortage(code: Errno) -> Option<Shortage> {
        Shortage::from_error(&io::Error::from_raw_os_error(code.raw_os_error()))
    }

    #[test]
    fn local_shortages_are_distinguished_from_errors_of_the_peer() {
        for (code, expected) in [
            (Errno::MFILE, Shortage::Descriptors),
            (Errno::NFILE, Shortage::Descriptors),
            (Errno::ADDRNOTAVAIL, Shortage::Ports),
            (Errno::AGAIN, Shortage::Ports),
            (Errno::NOBUFS, Shortage::Memory),
            (Errno::NOMEM, Shortage::Memory),
        ] {
            assert_eq!(shortage(code), Some(expected), "{code}");
        }
        for code in [
            Errno::CONNREFUSED,
            Errno::CONNRESET,
            Errno::TIMEDOUT,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::PIPE,
        ] {
            assert_eq!(shortage(code), None, "{code}");
        }
        assert_eq!(Shortage::from_error(&io::Error::other("TLS")), None);
    }

    #[test]
    fn ports_run_out_only_where_a_source_address_exists() {
        let error = io::Error::from_raw_os_error(Errno::ADDRNOTAVAIL.raw_os_error());
        let loopback = "127.0.0.1:9".parse().unwrap();
        assert_eq!(Shortage::from_connect_error(&error, loopback), Some(Shortage::Ports));
        let error = io::Error::from_raw_os_error(Errno::CONNREFUSED.raw_os_error());
        assert_eq!(Shortage::from_connect_error(&error, loopback), None);
    }
}
