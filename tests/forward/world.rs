//! The real program with one client and one origin, both played by the test.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use app_gateway::demo::certificates::{DevelopmentCertificates, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::address::{free_port, unique_address};
use crate::raw_conn::{IO_TIMEOUT, RawConn, text};

/// Parts of the configuration that a test changes. `ADDRESS` stands for the loopback address of the
/// gateway and the origin, `PORT` for the origin's port, `DIR` for the directory.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    /// Keys of `[forward]`.
    pub(crate) forward: &'static str,
    /// Keys of `[forward.hosts]`, besides those of the platforms.
    pub(crate) hosts: &'static str,
    /// Keys of `[forward.limits]`.
    pub(crate) limits: &'static str,
    /// Keys of `[forward.timeouts]`.
    pub(crate) timeouts: &'static str,
    /// Further keys of the listener.
    pub(crate) listener: &'static str,
    /// All rules and parents.
    pub(crate) rules: &'static str,
}

/// A rule that allows every client Facebook on the origin's port at this host's addresses.
pub(crate) const FACEBOOK: &str = r#"
[[forward.rule]]
name = "facebook"
clients = ["127.0.0.0/8"]
allow = ["graph.facebook.com", "*.fbcdn.net"]
ports = [PORT]
connect-ports = [PORT]
private-networks = ["127.0.0.0/8"]
"#;

impl Default for Setup {
    fn default() -> Self {
        Self { forward: "", hosts: "", limits: "", timeouts: "", listener: "", rules: FACEBOOK }
    }
}

/// A running gateway and its origin; see the module.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    gateway: Child,
    pub(crate) address: Ipv4Addr,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    origin: TcpListener,
    generation: u32,
}

/// The demo's certificates, made once per test process.
pub(crate) fn certificates() -> &'static DevelopmentCertificates {
    static MADE: OnceLock<DevelopmentCertificates> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("forward-certificates");
        ensure(&directory).unwrap()
    })
}

impl World {
    /// The default configuration, with one rule.
    pub(crate) fn plain() -> Self {
        Self::with(Setup::default())
    }

    /// Starts the program and waits until it is ready.
    pub(crate) fn with(setup: Setup) -> Self {
        Self::prepared(setup, |_| {})
    }

    /// Starts the program after `prepare` has written further files into the directory.
    pub(crate) fn prepared(setup: Setup, prepare: impl FnOnce(&Path)) -> Self {
        let address = unique_address();
        let origin = TcpListener::bind((address, 0)).unwrap();
        origin.set_nonblocking(true).unwrap();
        let (listen, admin) = (free_port(address), free_port(address));
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let places = Addresses { dir: dir.path(), address, listen, admin, origin: &origin };
        fs::write(dir.path().join("gateway.toml"), places.written(&setup)).unwrap();
        let gateway = Command::new(env!("CARGO_BIN_EXE_app-gateway"))
            .env("APP_GATEWAY_ALLOW_ROOT", "1")
            .args(["run", "-c"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut world = Self { dir, gateway, address, listen, admin, origin, generation: 1 };
        world.wait("the program to be ready", |world| {
            assert_eq!(world.gateway.try_wait().unwrap(), None, "it has ended");
            world.ask_admin("/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        world
    }

    /// Reloads with another configuration and this listening address.
    pub(crate) fn reload(&mut self, setup: Setup, listen: SocketAddr) {
        self.listen = listen;
        let places = Addresses {
            dir: self.dir.path(),
            address: self.address,
            listen,
            admin: self.admin,
            origin: &self.origin,
        };
        self.write_and_reload(&places.written(&setup));
    }

    /// Reloads with a configuration without a forward proxy.
    pub(crate) fn reload_without(&mut self) {
        let (admin, other) = (self.admin, free_port(self.address));
        let text = format!(
            r#"
[gateway]
workers = 1
access-log = "./access.log"
drain-timeout = "200ms"
[admin]
listen = "{admin}"
[profile.edge]
[[profile.edge.listener]]
listen = "{other}"
redirect-to-https = 443
[[profile.edge.route]]
path = "/"
deny = true
"#
        );
        self.write_and_reload(&text);
    }

    fn write_and_reload(&mut self, text: &str) {
        self.generation += 1;
        let file = self.dir.path().join("gateway.toml");
        // In one step, because half a file would be rejected and read again later.
        fs::write(self.dir.path().join("next"), text).unwrap();
        fs::rename(self.dir.path().join("next"), file).unwrap();
        kill_process(Pid::from_child(&self.gateway), Signal::HUP).unwrap();
        let now = format!("app_gateway_config_generation {}\n", self.generation);
        self.wait("the reload", |world| world.metrics().contains(&now));
    }

    /// The output of a command of the program for this gateway.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_app-gateway"))
            .args(arguments)
            .arg("-c")
            .arg(self.dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The text of `/metrics`.
    pub(crate) fn metrics(&self) -> String {
        self.ask_admin("/metrics").unwrap_or_default()
    }

    /// Sends a GET to the admin listener.
    pub(crate) fn ask_admin(&self, path: &str) -> Option<String> {
        let mut admin = TcpStream::connect(self.admin).ok()?;
        admin.set_read_timeout(Some(IO_TIMEOUT)).ok()?;
        write!(admin, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        admin.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Waits until `is_so` returns true.
    pub(crate) fn wait(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + IO_TIMEOUT;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.origin.local_addr().unwrap().port()
    }

    pub(crate) fn client(&self) -> RawConn {
        RawConn::plain(TcpStream::connect(self.listen).unwrap())
    }

    /// A client that has sent `request`, with the origin's port for `PORT`.
    pub(crate) fn sent(&self, request: &str) -> RawConn {
        let mut conn = self.client();
        conn.send(request.replace("PORT", &self.port().to_string()));
        conn
    }

    /// A client with an open tunnel to this host, and the origin's end of the tunnel.
    pub(crate) fn tunnel(&self, host: &str) -> (RawConn, RawConn) {
        let mut client =
            self.sent(&format!("CONNECT {host}:PORT HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let head = text(&client.head());
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        (client, self.accept())
    }

    /// The next connection of the gateway to the origin.
    pub(crate) fn accept(&self) -> RawConn {
        accept(&self.origin)
    }

    /// Whether the gateway has made a connection to the origin that was not accepted yet.
    pub(crate) fn was_dialled(&self) -> bool {
        self.origin.accept().is_ok()
    }

    /// The lines of the access log about one client connection, once there are `count` of them.
    pub(crate) fn lines_of(&mut self, client: SocketAddr, count: usize) -> Vec<serde_json::Value> {
        let client = client.to_string();
        let mut found = Vec::new();
        self.wait(&format!("{count} lines about {client}"), |world| {
            found = world.lines();
            found.retain(|line| line["client"] == client.as_str());
            found.len() >= count
        });
        assert_eq!(found.len(), count, "{found:#?}");
        found
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let log = self.log();
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        whole.lines().map(parse).collect()
    }

    /// The current contents of the access log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default()
    }

    /// Stops the program and asserts that the access log contains exactly these lines, in any
    /// order. A line is written `EVENT METHOD STATUS WORD`; the word is the reason or the end of a
    /// tunnel.
    pub(crate) fn ends_with(mut self, expected: &[&str]) {
        self.stop();
        let mut lines: Vec<String> = self.lines().iter().map(summary).collect();
        let mut expected = expected.to_vec();
        lines.sort_unstable();
        expected.sort_unstable();
        assert_eq!(lines, expected, "\n{}", self.log());
    }

    /// Sends SIGTERM to the program.
    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.gateway), Signal::TERM).unwrap();
    }

    /// Stops the program and asserts a clean exit.
    pub(crate) fn stop(&mut self) {
        self.terminate();
        self.stop_after();
    }

    /// Waits for a clean exit of the program.
    pub(crate) fn stop_after(&mut self) {
        let mut code = None;
        self.wait("the program to end", |world| {
            code = world.gateway.try_wait().unwrap();
            code.is_some()
        });
        assert_eq!(code.and_then(|code| code.code()), Some(0));
    }
}

/// Accepts the next connection of a non-blocking listener.
pub(crate) fn accept(listener: &TcpListener) -> RawConn {
    let deadline = Instant::now() + IO_TIMEOUT;
    loop {
        if let Ok((tcp, _)) = listener.accept() {
            tcp.set_nonblocking(false).unwrap();
            return RawConn::plain(tcp);
        }
        assert!(Instant::now() < deadline, "the gateway does not connect");
        thread::sleep(Duration::from_millis(1));
    }
}

fn summary(line: &serde_json::Value) -> String {
    for key in ["time", "id", "profile", "listener", "client", "status", "duration_ms", "tls"] {
        assert!(!line[key].is_null(), "{key} is missing: {line}");
    }
    let word = |key: &str| line[key].as_str().map(|word| format!(" {word}")).unwrap_or_default();
    let end = if line["reason"].is_null() { word("close_reason") } else { word("reason") };
    format!("{}{} {}{end}", line["event"].as_str().unwrap(), word("method"), line["status"])
}

impl Drop for World {
    fn drop(&mut self) {
        // The process is a child of this test and may have ended already.
        let _ = self.gateway.kill();
        let _ = self.gateway.wait();
        if thread::panicking() {
            let stderr = fs::read(self.dir.path().join("stderr")).unwrap_or_default();
            eprintln!("--- standard error:\n{}\n--- access log:\n{}", text(&stderr), self.log());
        }
    }
}

struct Addresses<'a> {
    dir: &'a Path,
    address: Ipv4Addr,
    listen: SocketAddr,
    admin: SocketAddr,
    origin: &'a TcpListener,
}

impl Addresses<'_> {
    fn written(&self, setup: &Setup) -> String {
        let set = certificates();
        let (chain, key) = (set.gateway.chain.display(), set.gateway.key.display());
        let Setup { forward, hosts, limits, timeouts, listener, rules } = setup;
        let (listen, admin) = (self.listen, self.admin);
        let text = format!(
            r#"
[gateway]
workers = 1
access-log = "./access.log"
drain-timeout = "200ms"
[admin]
listen = "{admin}"
[certificate.own]
pairs = [{{ chain = "{chain}", key = "{key}" }}]
[forward]
{forward}
[forward.hosts]
"graph.facebook.com" = ["ADDRESS"]
"video.xx.fbcdn.net" = ["ADDRESS"]
"chatapi.viber.com" = ["ADDRESS"]
"api.twilio.com" = ["ADDRESS"]
{hosts}
[forward.limits]
{limits}
[forward.timeouts]
{timeouts}
[[forward.listener]]
listen = "{listen}"
{listener}
{rules}
"#
        );
        text.replace("ADDRESS", &self.address.to_string())
            .replace("PORT", &self.origin.local_addr().unwrap().port().to_string())
            .replace("DIR", &self.dir.display().to_string())
    }
}
