//! A site: a server that answers the first bytes of a connection with its name and echoes all
//! further bytes. On a second port it answers health checks.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// The path of health checks.
pub(crate) const READY: &str = "/readyz";

/// The server of one site; see the module. Its threads end with the test process.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) health: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    ready: AtomicBool,
    /// The requests of health checks, and the first bytes of each connection.
    check_requests: Mutex<Vec<String>>,
    first: Mutex<Vec<Vec<u8>>>,
}

impl Site {
    pub(crate) fn start(name: &'static str, address: Ipv4Addr) -> Self {
        Self::start_at(name, (address, 0).into(), (address, 0).into())
    }

    /// Starts a site on the ports of `other`, on another address.
    pub(crate) fn like(name: &'static str, other: &Self, address: Ipv4Addr) -> Self {
        let ports = (other.address.port(), other.health.port());
        Self::start_at(name, (address, ports.0).into(), (address, ports.1).into())
    }

    fn start_at(name: &'static str, serving: SocketAddr, health: SocketAddr) -> Self {
        let serving = TcpListener::bind(serving).unwrap();
        let health = TcpListener::bind(health).unwrap();
        let shared = Arc::new(Shared {
            name,
            ready: AtomicBool::new(true),
            check_requests: Mutex::default(),
            first: Mutex::default(),
        });
        let site = Self {
            name,
            address: serving.local_addr().unwrap(),
            health: health.local_addr().unwrap(),
            shared: Arc::clone(&shared),
        };
        accept(serving, Arc::clone(&shared), serve);
        accept(health, shared, answer_check);
        site
    }

    /// Sets the answer of health checks.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.shared.ready.store(ready, Ordering::SeqCst);
    }

    /// The requests of all health checks so far.
    pub(crate) fn check_requests(&self) -> Vec<String> {
        self.shared.check_requests.lock().unwrap().clone()
    }

    /// The first bytes of all connections so far.
    pub(crate) fn first(&self) -> Vec<Vec<u8>> {
        self.shared.first.lock().unwrap().clone()
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>, serve: fn(TcpStream, &Shared)) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = Arc::clone(&shared);
            thread::spawn(move || serve(stream, &shared));
        }
    });
}

fn serve(mut stream: TcpStream, shared: &Shared) {
    let mut bytes = vec![0; 64 * 1024];
    let Ok(count @ 1..) = stream.read(&mut bytes) else { return };
    shared.first.lock().unwrap().push(bytes[..count].to_vec());
    let _ = stream.write_all(shared.name.as_bytes());
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..count]).is_err() {
            return;
        }
        if bytes[..count].ends_with(b"quit") {
            // Half-closes and continues to read.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
    // The client has half-closed; the other direction is still open.
    let _ = stream.write_all(b"bye");
}

fn answer_check(mut stream: TcpStream, shared: &Shared) {
    let mut bytes = [0; 1024];
    let Ok(count) = stream.read(&mut bytes) else { return };
    shared
        .check_requests
        .lock()
        .unwrap()
        .push(String::from_utf8_lossy(&bytes[..count]).into_owned());
    let status = if shared.ready.load(Ordering::SeqCst) { "200 OK" } else { "503 No" };
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
}
