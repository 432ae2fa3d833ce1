//! Addresses and ports for the programs and servers of a test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// A loopback address that no other test of this binary, no other binary and no other user uses.
pub(crate) fn unique_address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let [.., a, b] = std::process::id().to_be_bytes();
    let third = u8::try_from(count % 250).unwrap() + 2;
    Ipv4Addr::new(127, 128 | a & 0x7f, b, third)
}

/// A port of `address` that is free now and was not returned before. The system tends to return the
/// port again that was closed last.
pub(crate) fn free_port(address: Ipv4Addr) -> SocketAddr {
    static GIVEN: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap();
    loop {
        let free = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap();
        if !given.contains(&free) {
            given.push(free);
            return free;
        }
    }
}
