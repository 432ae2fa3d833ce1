//! Shortages of this host: the errors that say nothing about the peer of a connection.
//!
//! A connection that cannot be made because the gateway has no descriptor, port or memory left must
//! not be held against the peer. Every place that judges an I/O error of a socket asks
//! [`Shortage::of`].

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
    /// The shortage behind an error of a socket; `None` if the error is about the peer or the path
    /// to it.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        match Errno::from_raw_os_error(error.raw_os_error()?) {
            Errno::MFILE | Errno::NFILE => Some(Self::Descriptors),
            // AGAIN is what some kernels answer to connect(2) instead of ADDRNOTAVAIL.
            Errno::ADDRNOTAVAIL | Errno::AGAIN => Some(Self::Ports),
            Errno::NOBUFS | Errno::NOMEM => Some(Self::Memory),
            _ => None,
        }
    }

    /// The shortage behind an error of connecting to `peer`. As [`Shortage::of`], but a host without
    /// an address to connect from, for example to `::1` where IPv6 is turned off, has no shortage:
    /// `peer` is unreachable from it.
    #[must_use]
    pub fn of_connect(error: &io::Error, peer: SocketAddr) -> Option<Self> {
        let shortage = Self::of(error)?;
        (shortage != Self::Ports || has_source_address(peer)).then_some(shortage)
    }
}

/// Whether this host has an address to connect to `peer` from. Sends nothing.
fn has_source_address(peer: SocketAddr) -> bool {
    // Connecting a datagram socket chooses the source address and takes no TCP port.
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
        Shortage::of(&io::Error::from_raw_os_error(code.raw_os_error()))
    }

    #[test]
    fn every_local_shortage_is_told_from_an_error_of_the_peer() {
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
        assert_eq!(Shortage::of(&io::Error::other("TLS")), None);
    }

    #[test]
    fn ports_run_out_only_where_there_is_an_address_to_connect_from() {
        let error = io::Error::from_raw_os_error(Errno::ADDRNOTAVAIL.raw_os_error());
        let loopback = "127.0.0.1:9".parse().unwrap();
        assert_eq!(Shortage::of_connect(&error, loopback), Some(Shortage::Ports));
        let error = io::Error::from_raw_os_error(Errno::CONNREFUSED.raw_os_error());
        assert_eq!(Shortage::of_connect(&error, loopback), None);
    }
}
