//! A site: it says its name to the first bytes of a connection, and then everything again that it
//! hears. On a port of its own it says whether it is ready.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// The path that checks ask for.
pub(crate) const READY: &str = "/readyz";

/// See the module. Its threads end with the test.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) health: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    ready: AtomicBool,
    /// What the checks sent, and each connection's first bytes.
    asked: Mutex<Vec<String>>,
    first: Mutex<Vec<Vec<u8>>>,
}

impl Site {
    pub(crate) fn start(name: &'static str, address: Ipv4Addr) -> Self {
        Self::start_at(name, (address, 0).into(), (address, 0).into())
    }

    /// On the same two ports as another one, on an address of its own.
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
            asked: Mutex::default(),
            first: Mutex::default(),
        });
        let site = Self {
            name,
            address: serving.local_addr().unwrap(),
            health: health.local_addr().unwrap(),
            shared: Arc::clone(&shared),
        };
        accept(serving, Arc::clone(&shared), serve);
        accept(health, shared, say_whether_ready);
        site
    }

    /// What checks are told from now on.
    pub(crate) fn feel(&self, ready: bool) {
        self.shared.ready.store(ready, Ordering::SeqCst);
    }

    /// What checks have sent so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// What connections began with so far.
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
            // Nothing more is said, but more is heard.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
    // The client has said that nothing follows; we have more to say.
    let _ = stream.write_all(b"bye");
}

fn say_whether_ready(mut stream: TcpStream, shared: &Shared) {
    let mut bytes = [0; 1024];
    let Ok(count) = stream.read(&mut bytes) else { return };
    shared.asked.lock().unwrap().push(String::from_utf8_lossy(&bytes[..count]).into_owned());
    let status = if shared.ready.load(Ordering::SeqCst) { "200 OK" } else { "503 No" };
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
}
