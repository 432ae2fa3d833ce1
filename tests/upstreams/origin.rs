//! An endpoint: an HTTP server in threads that can be stopped, restarted and made unhealthy.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The path of health checks.
pub(crate) const HEALTH: &str = "/health";

/// An endpoint's server; see the module.
pub(crate) struct Origin {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    name: &'static str,
    stopping: AtomicBool,
    healthy: AtomicBool,
    /// Status of all answers except those to checks; 0 closes the connection without an answer.
    status: AtomicU16,
    /// All requests except checks, as `METHOD target`.
    requests: Mutex<Vec<String>>,
    checks: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
    sessions: Mutex<HashSet<String>>,
    delay: Mutex<Duration>,
}

impl Origin {
    pub(crate) fn start(name: &'static str, address: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let shared = Arc::new(Shared {
            name,
            stopping: AtomicBool::new(false),
            healthy: AtomicBool::new(true),
            status: AtomicU16::new(200),
            requests: Mutex::default(),
            checks: AtomicUsize::new(0),
            open: Mutex::default(),
            sessions: Mutex::default(),
            delay: Mutex::default(),
        });
        let address = listener.local_addr().unwrap();
        let acceptor = Some(accept(listener, Arc::clone(&shared)));
        Self { name, address, shared, acceptor }
    }

    /// All requests so far except checks, as `METHOD target`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Number of checks so far.
    pub(crate) fn checks(&self) -> usize {
        self.shared.checks.load(Ordering::SeqCst)
    }

    /// Sets the answer of health checks.
    pub(crate) fn set_healthy(&self, healthy: bool) {
        self.shared.healthy.store(healthy, Ordering::SeqCst);
    }

    /// Sets the status of all other answers; 0 closes the connection without an answer.
    pub(crate) fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::SeqCst);
    }

    /// Sets the time before each answer.
    pub(crate) fn take(&self, time: Duration) {
        *self.shared.delay.lock().unwrap() = time;
    }

    /// Closes the port and all connections, and forgets the sessions.
    pub(crate) fn kill(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.sessions.lock().unwrap().clear();
    }

    /// Listens again on the same address.
    pub(crate) fn revive(&mut self) {
        self.shared.stopping.store(false, Ordering::SeqCst);
        let listener = TcpListener::bind(self.address).unwrap();
        self.acceptor = Some(accept(listener, Arc::clone(&self.shared)));
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if self.acceptor.is_some() {
            self.kill();
        }
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    thread::spawn(move || {
        for stream in listener.incoming() {
            if shared.stopping.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            shared.open.lock().unwrap().push(stream.try_clone().unwrap());
            let shared = Arc::clone(&shared);
            thread::spawn(move || serve(stream, &shared));
        }
    })
}

fn serve(mut stream: TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let Some((line, fields)) = head(&mut reader) else { return };
        let length = fields.iter().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
        });
        let mut body = vec![0; length.unwrap_or(0)];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let (method, rest) = line.split_once(' ').unwrap();
        let target = rest.split(' ').next().unwrap();
        if target == HEALTH {
            shared.checks.fetch_add(1, Ordering::SeqCst);
            let status = if shared.healthy.load(Ordering::SeqCst) { 200 } else { 503 };
            answer(&mut stream, status, "health");
            continue;
        }
        shared.requests.lock().unwrap().push(format!("{method} {target}"));
        thread::sleep(*shared.delay.lock().unwrap());
        let status = shared.status.load(Ordering::SeqCst);
        if status == 0 {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
        if fields.iter().any(|line| line.eq_ignore_ascii_case("upgrade: websocket")) {
            let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            let _ = stream.write_all(switch.as_bytes());
            let _ = std::io::copy(&mut reader, &mut stream);
            return;
        }
        if target.contains("EIO=") {
            answer_poll(&mut stream, target, shared);
        } else {
            answer(&mut stream, status, shared.name);
        }
    }
}

/// Answers polls like Engine.IO: an open packet, packet `6` for a known session, and 400 for
/// others.
fn answer_poll(stream: &mut TcpStream, target: &str, shared: &Shared) {
    let parameter = |name: &str| {
        let query = target.split_once('?').unwrap().1;
        query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let mut sessions = shared.sessions.lock().unwrap();
    match parameter("sid") {
        Some(sid) if sessions.contains(&sid) => answer(stream, 200, &format!("6 {}", shared.name)),
        Some(_) => answer(stream, 400, r#"{"code":1,"message":"Session ID unknown"}"#),
        None => {
            let sid = format!("{}-{}-{}", shared.name, sessions.len(), "x".repeat(12));
            let packet =
                format!(r#"0{{"sid":"{sid}","upgrades":["websocket"],"pingInterval":25000}}"#);
            sessions.insert(sid);
            let packet = match parameter("EIO").as_deref() {
                Some("3") if parameter("j").is_some() => {
                    format!("___eio[0](\"{}:{}\");", packet.len(), packet.replace('"', "\\\""))
                }
                Some("3") => format!("{}:{packet}2:40", packet.len()),
                _ => packet,
            };
            answer(stream, 200, &packet);
        }
    }
}

fn answer(stream: &mut TcpStream, status: u16, body: &str) {
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\n\r\n{body}");
}

/// The request line and the fields of the next head; `None` if the connection closes.
fn head(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<String>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            return Some((lines.remove(0), lines));
        }
        lines.push(line);
    }
}
