//! The real program between a client socket and an upstream that the test plays.
//!
//! The test does every step in the order of its own lines: it sends a request, accepts the
//! gateway's connection, inspects the forwarded message, and answers. No thread records anything in
//! the background.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use app_gateway::demo::certificates::{DevelopmentCertificates, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustls::client::WantsClientCert;
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, RootCertStore, ServerConfig, ServerConnection,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::address::{free_port, unique_address};
use crate::raw_conn::{IO_TIMEOUT, RawConn, text};

/// `O_NONBLOCK` as an `i32`.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

/// Parts of the configuration file that a test changes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setup {
    /// Keys of the profile.
    pub(crate) profile: &'static str,
    /// Keys of the profile's limits.
    pub(crate) limits: &'static str,
    /// Keys of the profile's timeouts.
    pub(crate) timeouts: &'static str,
    /// Keys of the listener, and further listeners.
    pub(crate) listener: &'static str,
    /// Keys of the upstream.
    pub(crate) upstream: &'static str,
    /// Keys of the route for `/`.
    pub(crate) route: &'static str,
    /// Further routes, as `[[profile.edge.route]]` tables; their upstream is `stage`.
    pub(crate) routes: &'static str,
    /// Whether the upstream uses TLS.
    pub(crate) tls: bool,
    /// Limit of file descriptors of the program.
    pub(crate) descriptors: Option<u32>,
    /// Whether standard error is a full pipe without a reader.
    pub(crate) full_stderr: bool,
    /// Whether the access log is a named pipe without a reader.
    pub(crate) piped_log: bool,
}

/// A running gateway and its upstream; see the module.
pub(crate) struct World {
    dir: TempDir,
    gateway: Child,
    listen: SocketAddr,
    admin: SocketAddr,
    stage: TcpListener,
    tls: bool,
    /// Reading ends of pipes, kept open and never read.
    pipes: Vec<File>,
}

fn certificates() -> &'static DevelopmentCertificates {
    static MADE: OnceLock<DevelopmentCertificates> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("raw-certificates");
        ensure(&directory).unwrap()
    })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A client that trusts the gateway's certificate.
pub(crate) fn trusting() -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificates().ca).unwrap()).unwrap();
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}

fn client_config(protocol: &[u8]) -> Arc<ClientConfig> {
    static BASE: LazyLock<ClientConfig> = LazyLock::new(|| trusting().with_no_client_auth());
    let mut config = BASE.clone();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

fn server_config() -> Arc<ServerConfig> {
    static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
        let pair = &certificates().components;
        let chain =
            CertificateDer::pem_file_iter(&pair.chain).unwrap().map(Result::unwrap).collect();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&pair.key).unwrap())
            .unwrap();
        // Lets a test answer during the handshake, before it has received a request.
        config.send_half_rtt_data = true;
        Arc::new(config)
    });
    Arc::clone(&CONFIG)
}

impl World {
    /// The default configuration.
    pub(crate) fn plain() -> Self {
        Self::with(Setup::default())
    }

    /// Starts the program and waits until it is ready.
    pub(crate) fn with(setup: Setup) -> Self {
        let address = unique_address();
        let stage = TcpListener::bind((address, 0)).unwrap();
        Self::with_upstream(setup, stage, address)
    }

    /// Starts the program with the upstream `stage`, which the test has opened.
    pub(crate) fn with_upstream(setup: Setup, stage: TcpListener, address: Ipv4Addr) -> Self {
        stage.set_nonblocking(true).unwrap();
        let (listen, admin) = (free_port(address), free_port(address));
        let dir = tempfile::tempdir().unwrap();
        let upstream = stage.local_addr().unwrap();
        fs::write(dir.path().join("gateway.toml"), written(&setup, upstream, listen, admin))
            .unwrap();
        let program = env!("CARGO_BIN_EXE_app-gateway");
        let mut command = match setup.descriptors {
            None => Command::new(program),
            Some(most) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\""), program]);
                shell
            }
        };
        let mut pipes = Vec::new();
        if setup.piped_log {
            pipes.push(named_pipe(&dir.path().join("access.log")));
        }
        let stderr = if setup.full_stderr {
            let path = dir.path().join("stderr");
            pipes.push(named_pipe(&path));
            fill(&path);
            File::options().write(true).open(path).unwrap()
        } else {
            File::create(dir.path().join("stderr")).unwrap()
        };
        let gateway = command
            .env("APP_GATEWAY_ALLOW_ROOT", "1")
            .args(["run", "-c"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut world = Self { dir, gateway, listen, admin, stage, tls: setup.tls, pipes };
        world.wait("the program to be ready", |world| {
            assert_eq!(world.gateway.try_wait().unwrap(), None, "it has ended");
            world.admin("/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        world
    }

    /// Sends a GET to the admin listener.
    pub(crate) fn admin(&self, path: &str) -> Option<String> {
        let mut admin = TcpStream::connect(self.admin).ok()?;
        admin.set_read_timeout(Some(IO_TIMEOUT)).ok()?;
        write!(admin, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        admin.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Denies the requests of the route for `/`, by a reload.
    pub(crate) fn deny(&self) {
        self.rewrite("path = \"/\"\nupstream = \"stage\"", "path = \"/\"\ndeny = true");
    }

    /// Replaces a part of the configuration file and reloads.
    pub(crate) fn rewrite(&self, piece: &str, new: &str) {
        let file = self.dir.path().join("gateway.toml");
        let before = fs::read_to_string(&file).unwrap();
        assert!(before.contains(piece), "{before}");
        fs::write(file, before.replacen(piece, new, 1)).unwrap();
        let mut admin = UnixStream::connect(self.dir.path().join("admin.sock")).unwrap();
        admin.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
        let fields = "Host: localhost\r\nConnection: close\r\nContent-Length: 0";
        write!(admin, "POST /reload HTTP/1.1\r\n{fields}\r\n\r\n").unwrap();
        let mut answer = String::new();
        admin.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Waits until `is_so` returns true.
    pub(crate) fn wait(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + IO_TIMEOUT;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The address of the gateway's first listener.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// A TCP connection to the gateway.
    pub(crate) fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.listen).unwrap()
    }

    /// A TCP connection from this address, optionally with a small receive window.
    pub(crate) fn tcp_from(&self, from: Ipv4Addr, window: Option<usize>) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if let Some(window) = window {
            socket.set_recv_buffer_size(window).unwrap();
        }
        socket.bind(&SocketAddrV4::new(from, 0).into()).unwrap();
        socket.connect(&self.listen.into()).unwrap();
        socket.into()
    }

    /// A TLS client on a connection that offers one protocol.
    pub(crate) fn over(tcp: TcpStream, protocol: &[u8]) -> RawConn {
        Self::tls_client_with(tcp, client_config(protocol))
    }

    /// A TLS client on a connection, with this configuration.
    pub(crate) fn tls_client_with(tcp: TcpStream, config: Arc<ClientConfig>) -> RawConn {
        let tls = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        RawConn::client(tls, tcp)
    }

    /// A TLS client that sends `first` and its ClientHello in one segment.
    pub(crate) fn tls_client_after(mut tcp: TcpStream, first: &[u8]) -> RawConn {
        let name = "localhost".try_into().unwrap();
        let mut tls = ClientConnection::new(client_config(b"http/1.1"), name).unwrap();
        let mut bytes = first.to_vec();
        tls.write_tls(&mut bytes).unwrap();
        tcp.write_all(&bytes).unwrap();
        RawConn::client(tls, tcp)
    }

    /// An HTTP/1 client.
    pub(crate) fn client(&self) -> RawConn {
        let mut conn = Self::over(self.tcp(), b"http/1.1");
        conn.handshake().unwrap();
        conn
    }

    /// An HTTP/1 client that has sent `bytes`.
    pub(crate) fn sent(&self, bytes: impl AsRef<[u8]>) -> RawConn {
        let mut conn = self.client();
        conn.send(bytes);
        conn
    }

    /// The next connection of the gateway to the upstream, after its handshake.
    pub(crate) fn accept(&self) -> RawConn {
        let deadline = Instant::now() + IO_TIMEOUT;
        loop {
            if let Some(conn) = self.accepted(b"") {
                return conn;
            }
            assert!(Instant::now() < deadline, "the gateway does not connect to the upstream");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// As [`World::accept`], but sends `early` before any byte can have been received.
    pub(crate) fn accept_and_send(&self, early: &[u8]) -> RawConn {
        let deadline = Instant::now() + IO_TIMEOUT;
        loop {
            if let Some(conn) = self.accepted(early) {
                return conn;
            }
            assert!(Instant::now() < deadline, "the gateway does not connect to the upstream");
        }
    }

    /// A connection that the gateway has already made, if any.
    pub(crate) fn try_accept(&self) -> Option<RawConn> {
        self.accepted(b"")
    }

    fn accepted(&self, early: &[u8]) -> Option<RawConn> {
        let (mut tcp, _) = self.stage.accept().ok()?;
        tcp.set_nonblocking(false).unwrap();
        if !self.tls {
            tcp.write_all(early).unwrap();
            return Some(RawConn::plain(tcp));
        }
        let mut tls = ServerConnection::new(server_config()).unwrap();
        tls.writer().write_all(early).unwrap();
        let mut conn = RawConn::server(tls, tcp);
        conn.handshake().unwrap();
        Some(conn)
    }

    /// Closes the upstream's port, so that further connections to it are refused.
    pub(crate) fn close_upstream_port(&mut self) {
        let address = self.stage.local_addr().unwrap().ip();
        self.stage = TcpListener::bind((address, 0)).unwrap();
    }

    /// Whether the gateway has made an upstream connection that was not accepted yet.
    pub(crate) fn was_dialled(&self) -> bool {
        self.dialled().is_some()
    }

    /// A connection of the gateway to the upstream, without a TLS handshake.
    pub(crate) fn dialled(&self) -> Option<TcpStream> {
        Some(self.stage.accept().ok()?.0)
    }

    /// The lines of the access log about one client connection, once there are `count` of them.
    pub(crate) fn lines_of(&mut self, client: SocketAddr, count: usize) -> Vec<serde_json::Value> {
        self.lines_as(&client.to_string(), count)
    }

    /// The line of the access log about `client`, in the spelling of the log.
    pub(crate) fn line_of(&mut self, client: &str) -> serde_json::Value {
        self.lines_as(client, 1).remove(0)
    }

    fn lines_as(&mut self, client: &str, count: usize) -> Vec<serde_json::Value> {
        let mut found = Vec::new();
        self.wait(&format!("{count} lines about {client}"), |world| {
            found = world.lines();
            found.retain(|line| line["client"] == client);
            found.len() >= count
        });
        assert_eq!(found.len(), count, "{found:#?}");
        found
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let log = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
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

    /// Sends the program a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.gateway), signal).unwrap();
    }

    /// Stops the program and asserts a clean exit.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let mut code = None;
        self.wait("the program to end", |world| {
            code = world.gateway.try_wait().unwrap();
            code.is_some()
        });
        assert_eq!(code.and_then(|code| code.code()), Some(0));
    }
}

/// A named pipe, open for reading so that a writer can open it; it is never read.
fn named_pipe(path: &Path) -> File {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    File::options().read(true).custom_flags(NONBLOCK).open(path).unwrap()
}

/// Writes to a named pipe until it is full.
fn fill(path: &Path) {
    let mut pipe = File::options().write(true).custom_flags(NONBLOCK).open(path).unwrap();
    for piece in [4096, 1] {
        while pipe.write(&vec![b'x'; piece]).is_ok() {}
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
        if thread::panicking() && self.pipes.is_empty() {
            let stderr = fs::read(self.dir.path().join("stderr")).unwrap_or_default();
            eprintln!("--- standard error:\n{}\n--- access log:\n{}", text(&stderr), self.log());
        }
    }
}

fn written(setup: &Setup, upstream: SocketAddr, listen: SocketAddr, admin: SocketAddr) -> String {
    let set = certificates();
    let (chain, key) = (set.gateway.chain.display(), set.gateway.key.display());
    let ca = set.ca.display();
    let endpoint = if setup.tls {
        format!(
            "endpoints = [\"https://{upstream}\"]\nca-file = \"{ca}\"\nserver-name = \"localhost\""
        )
    } else {
        format!("endpoints = [\"http://{upstream}\"]")
    };
    let Setup { profile, limits, timeouts, listener, upstream, route, routes, .. } = setup;
    format!(
        r#"
[gateway]
workers = 1
access-log = "./access.log"
drain-timeout = "200ms"

[admin]
listen = "{admin}"
socket = "./admin.sock"

[certificate.own]
pairs = [{{ chain = "{chain}", key = "{key}" }}]

[upstream.stage]
{endpoint}
{upstream}

[profile.edge]
certificates = ["own"]
{profile}
[profile.edge.limits]
{limits}
[profile.edge.timeouts]
{timeouts}
[[profile.edge.listener]]
listen = "{listen}"
{listener}
[[profile.edge.route]]
path = "/"
upstream = "stage"
{route}
{routes}
"#
    )
}
