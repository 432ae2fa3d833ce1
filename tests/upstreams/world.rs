//! A running gateway with addresses of its own, and its clients.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use app_gateway::demo::certificates::{DevelopmentCertificates, ensure};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tempfile::TempDir;

use crate::address::{free_port, unique_address};
use crate::origin::Origin;

/// Limit for every condition that a test waits for.
pub(crate) const IO_TIMEOUT: Duration = Duration::from_secs(20);

/// A running gateway; see the module.
pub(crate) struct World {
    dir: TempDir,
    pub(crate) gateway: Child,
    pub(crate) listen: SocketAddr,
    admin: SocketAddr,
}

/// An answer that a client received.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a field, by its case-insensitive name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Asserts that the answer came from this origin.
    #[track_caller]
    pub(crate) fn is_from(&self, origin: &Origin) {
        assert_eq!((self.status, &*self.body), (200, origin.name), "{}", self.head);
    }
}

pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

fn certificates() -> &'static DevelopmentCertificates {
    static MADE: OnceLock<DevelopmentCertificates> = OnceLock::new();
    MADE.get_or_init(|| {
        ensure(&PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("upstreams-certificates")).unwrap()
    })
}

fn client_config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&certificates().ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    };
    Arc::clone(CONFIG.get_or_init(make))
}

/// Origins with these names, on one address of their own.
pub(crate) fn origins<const N: usize>(names: [&'static str; N]) -> [Origin; N] {
    let address = unique_address();
    names.map(|name| Origin::start(name, address))
}

/// `"http://…", "http://…"`, for a list in the configuration.
pub(crate) fn listed(origins: &[&Origin]) -> String {
    let urls = origins.iter().map(|origin| format!("\"http://{}\"", origin.address));
    urls.collect::<Vec<_>>().join(", ")
}

impl World {
    /// Starts the program; `upstream` contains the keys of its only upstream.
    pub(crate) fn with(upstream: &str) -> Self {
        Self::ready_with(upstream, "", 200)
    }

    /// Starts the program with `more` keys of the profile, and waits until readiness has the status
    /// `ready`. The part of `more` before a `---` contains keys of the admin table.
    pub(crate) fn ready_with(upstream: &str, more: &str, ready: u16) -> Self {
        let address = unique_address();
        let (listen, admin) = (free_port(address), free_port(address));
        let dir = tempfile::tempdir().unwrap();
        let mut world = Self { gateway: idle(), dir, listen, admin };
        world.write(upstream, more);
        world.gateway = Command::new(env!("CARGO_BIN_EXE_app-gateway"))
            .env("APP_GATEWAY_ALLOW_ROOT", "1")
            .args(["run", "-c"])
            .arg(world.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(world.dir.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        world.wait("the program to be ready", |world| {
            assert_eq!(world.gateway.try_wait().unwrap(), None, "it has ended");
            world.try_admin("/readyz").is_some_and(|answer| answer.status == ready)
        });
        world
    }

    /// Writes another configuration file.
    pub(crate) fn write(&self, upstream: &str, more: &str) {
        let set = certificates();
        let (chain, key) = (set.gateway.chain.display(), set.gateway.key.display());
        let (listen, admin) = (self.listen, self.admin);
        let (keys, more) = more.split_once("---").unwrap_or(("", more));
        let socket = self.dir.path().join("admin.sock");
        let socket = socket.display();
        let text = format!(
            r#"
[gateway]
workers = 2
access-log = "./access.log"
drain-timeout = "200ms"
reload-on-change = false

[admin]
listen = "{admin}"
socket = "{socket}"
{keys}

[certificate.own]
pairs = [{{ chain = "{chain}", key = "{key}" }}]

[upstream.stage]
{upstream}

[profile.edge]
certificates = ["own"]
{more}

[[profile.edge.listener]]
listen = "{listen}"

[[profile.edge.route]]
path = "/"
upstream = "stage"
"#
        );
        fs::write(self.dir.path().join("gateway.toml"), text).unwrap();
    }

    /// Runs the program with a command of the operator.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_app-gateway"));
        command.args(["-c"]).arg(self.dir.path()).args(arguments).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn reload(&self) {
        let output = self.command(&["reload"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn try_admin(&self, path: &str) -> Option<Answer> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream.set_read_timeout(Some(IO_TIMEOUT)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).ok()?;
        Some(parsed(&bytes))
    }

    /// Sends a GET to the admin listener.
    pub(crate) fn admin(&self, path: &str) -> Answer {
        self.try_admin(path).unwrap()
    }

    /// The value of a metric, whose name includes its labels; 0 if it is missing.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.admin("/metrics").body;
        let name = format!("app_gateway_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// The state of an endpoint as `status` reports it.
    pub(crate) fn state(&self, origin: &Origin) -> String {
        let text = self.admin("/upstreams").body;
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        let endpoints = all[0]["endpoints"].as_array().unwrap();
        let label = origin.address.to_string();
        let found = endpoints.iter().find(|endpoint| endpoint["endpoint"] == label.as_str());
        found.unwrap()["state"].as_str().unwrap().to_owned()
    }

    /// Waits until the endpoint is in this state.
    #[track_caller]
    pub(crate) fn until(&mut self, origin: &Origin, state: &str) {
        self.wait(&format!("{} to be {state}", origin.name), |world| world.state(origin) == state);
    }

    /// Waits until `is_so` returns true.
    #[track_caller]
    pub(crate) fn wait(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + IO_TIMEOUT;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn client(&self) -> Tls {
        let tcp = TcpStream::connect(self.listen).unwrap();
        tcp.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
        let name = "localhost".try_into().unwrap();
        StreamOwned::new(ClientConnection::new(client_config(), name).unwrap(), tcp)
    }

    /// Sends a request on a new connection and reads the answer.
    pub(crate) fn ask(&self, request: &str) -> Answer {
        self.ask_with(request, "")
    }

    /// Sends a request with further fields, each with its CRLF.
    pub(crate) fn ask_with(&self, request: &str, fields: &str) -> Answer {
        let mut client = self.client();
        let line = format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
        client.write_all(line.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        // A peer that closes without `close_notify` may have sent a complete answer.
        let _ = client.read_to_end(&mut bytes);
        parsed(&bytes)
    }

    /// Sends a GET on a new connection.
    pub(crate) fn get(&self, target: &str) -> Answer {
        self.ask(&format!("GET {target}"))
    }

    /// The program's standard error so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    pub(crate) fn websocket(&self, target: &str) -> Tls {
        let mut client = self.client();
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        client.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        client
    }
}

/// A placeholder process until the program is started.
fn idle() -> Child {
    Command::new("true").spawn().unwrap()
}

fn parsed(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

impl Drop for World {
    fn drop(&mut self) {
        // The process is a child of this test and may have ended already.
        let _ = self.gateway.kill();
        let _ = self.gateway.wait();
        if thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
            eprintln!("--- standard error:\n{}\n--- access log:\n{log}", self.said());
        }
    }
}
