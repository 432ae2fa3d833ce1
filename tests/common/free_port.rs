//! Ports for what a test starts.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;

/// A port of `address` that is free now and was not given to this test before: the system likes to
/// give the one again that was just closed.
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
