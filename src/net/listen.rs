//! Listening sockets: binding, SYN filters and the limit on open files.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

/// Length of the accept queue. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds one of several sockets that share `address` with `SO_REUSEPORT`, one per worker. The
/// kernel distributes connections among them.
///
/// # Errors
///
/// Error of the system: address in use, permission denied, no such address.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` means IPv6 only and `0.0.0.0` IPv4. An operator configures both for both.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Checks whether `address` is free: binds it without `SO_REUSEPORT` and closes the socket.
///
/// Without this check, a second gateway started by mistake would share the port with the first and
/// receive half of its connections.
///
/// # Errors
///
/// Error of the system.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// Makes a listening socket drop new SYNs, while handshakes in progress continue. The kernel resets
/// connections that are in the accept queue when a socket is closed, and with `SO_REUSEPORT` it
/// keeps adding connections until then; so new ones are stopped first, and the queue is emptied
/// before the socket is closed. A client whose SYN is dropped retransmits it a second later.
///
/// # Errors
///
/// Error of the system.
pub fn drop_new_syns<'a>(listener: impl Into<SockRef<'a>>) -> io::Result<()> {
    // Classic BPF on a packet that begins with its TCP header. The opcodes are those of bpf(4) in
    // the BSDs.
    const DROP_SYN_FILTER: [SockFilter; 5] = [
        // Load the TCP flags and keep SYN and ACK.
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x54, 0, 0, 0x12),
        // Drop SYN without ACK. Accept everything else.
        SockFilter::new(0x15, 0, 1, 0x02),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];
    listener.into().attach_filter(&DROP_SYN_FILTER)
}

/// Undoes [`drop_new_syns`], for a socket inherited from a previous process or from a service
/// manager that keeps it.
pub fn accept_new_syns<'a>(listener: impl Into<SockRef<'a>>) {
    // Detaching fails if there is no filter, which is fine.
    let _ = listener.into().detach_filter();
}

/// Raises the soft limit on open files to the hard limit and returns it.
///
/// # Errors
///
/// Error of the system; the limit is then unchanged.
pub fn raise_open_files() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Whether `ip` is an address of this host, that is, whether a socket can be bound to it. Costs two
/// system calls, sends nothing and does not wait.
#[must_use]
pub fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}
