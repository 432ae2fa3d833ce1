//! Listening sockets.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

/// Connections the kernel may hold for us before they are accepted. The kernel caps it at
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds one of several sockets that share `address` (`SO_REUSEPORT`), one per worker; the kernel
/// spreads connections over them.
///
/// # Errors
///
/// The system's: in use by another program, not permitted, no such address.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` means IPv6; `0.0.0.0` means IPv4. An operator who wants both writes both.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Tells whether `address` is free: binds it alone, without `SO_REUSEPORT`, and lets go.
///
/// A second gateway started by mistake would otherwise share the port with the first and take
/// half of its connections.
///
/// # Errors
///
/// The system's.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// Lets a listening socket answer no new client, while handshakes that have begun go on: with
/// `SO_REUSEPORT` nothing else keeps a connection out of the queue between the last look into it and
/// its end, and the kernel resets what it finds there then. A client who comes now tries again a
/// second later.
///
/// # Errors
///
/// The system's.
pub fn drop_new_syns<'a>(listener: impl Into<SockRef<'a>>) -> io::Result<()> {
    // Classic BPF, on a packet that begins with its TCP header (bpf(4) of any BSD has the codes).
    const DROP_SYN_FILTER: [SockFilter; 5] = [
        // The flags, those of them that are SYN and ACK,
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x54, 0, 0, 0x12),
        // SYN without ACK: dropped. Anything else: taken.
        SockFilter::new(0x15, 0, 1, 0x02),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];
    listener.into().attach_filter(&DROP_SYN_FILTER)
}

/// Undoes [`drop_new_syns`], for a socket that came from somebody else: a process before this one, or a
/// service manager that keeps it.
pub fn accept_new_syns<'a>(listener: impl Into<SockRef<'a>>) {
    // It fails if there is nothing to undo.
    let _ = listener.into().detach_filter();
}

/// Raises the soft limit on open files to the hard one and returns it.
///
/// # Errors
///
/// The system's; the limit is then what it was.
pub fn raise_open_files() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Whether `ip` is an address of this host: whether a socket can be bound to it. One socket, never
/// sent through; costs two system calls and waits for nothing.
#[must_use]
pub fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}
