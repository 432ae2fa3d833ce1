//! A running gateway with addresses of its own.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::address::{free_port, unique_address};
use crate::client::Client;
use crate::site::{READY, Site};

/// Limit for every condition that a test waits for.
pub(crate) const IO_TIMEOUT: Duration = Duration::from_secs(20);

/// A running gateway; see the module.
pub(crate) struct World {
    dir: TempDir,
    gateway: Child,
    pub(crate) listen: SocketAddr,
    admin: SocketAddr,
}

/// Sites with these names, each on an address of its own.
pub(crate) fn sites<const N: usize>(names: [&'static str; N]) -> [Site; N] {
    let address = unique_address();
    names.map(|name| Site::start(name, address))
}

/// `endpoints = ["http://…"]` with the address of `site`.
pub(crate) fn endpoints(site: &Site) -> String {
    format!("endpoints = [\"http://{}\"]", site.address)
}

/// Keys of an upstream with two sites, of which the second is the backup, and health checks on one
/// port.
pub(crate) fn two_sites(first: &Site, second: &Site) -> String {
    format!(
        "{}\nbackup = [\"http://{}\"]\n\
         check = {{ path = \"{READY}\", interval = \"100ms\", rise = 1, fall = 2, port = {} }}\n\
         failover = {{ failback-after = \"100ms\" }}",
        endpoints(first),
        second.address,
        first.health.port(),
    )
}

impl World {
    /// Starts the program. `LISTEN` in `text` stands for its listening address.
    pub(crate) fn with(text: &str) -> Self {
        let address = unique_address();
        Self::at(free_port(address), free_port(address), text)
    }

    /// Starts the program on this address.
    pub(crate) fn at(listen: SocketAddr, admin: SocketAddr, text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let idle = Command::new("true").spawn().unwrap();
        let mut world = Self { gateway: idle, dir, listen, admin };
        world.write(text);
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
            world.try_admin("/readyz").is_some_and(|answer| answer.contains(" 200 "))
        });
        world
    }

    /// Writes another configuration file.
    pub(crate) fn write(&self, text: &str) {
        let socket = self.dir.path().join("admin.sock");
        let text = format!(
            "[gateway]\nworkers = 2\naccess-log = \"./access.log\"\ndrain-timeout = \"1s\"\n\
             reload-on-change = false\n\n[admin]\nlisten = \"{}\"\nsocket = \"{}\"\n\n{}",
            self.admin,
            socket.display(),
            text.replace("LISTEN", &self.listen.to_string()),
        );
        fs::write(self.dir.path().join("gateway.toml"), text).unwrap();
    }

    /// Runs the program with a command of the operator.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_app-gateway"));
        command.args(["-c"]).arg(self.dir.path()).args(arguments).output().unwrap()
    }

    /// The output of a command, whose exit code must be `code`.
    #[track_caller]
    pub(crate) fn output_of(&self, arguments: &[&str], code: i32) -> String {
        let output = self.command(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}{wrong}");
        said
    }

    /// Writes another configuration and reloads.
    #[track_caller]
    pub(crate) fn reload(&self, text: &str) {
        self.write(text);
        self.output_of(&["reload"], 0);
    }

    fn try_admin(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream.set_read_timeout(Some(IO_TIMEOUT)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// The value of a metric, whose name includes its labels; 0 if it is missing.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.try_admin("/metrics").unwrap();
        let name = format!("app_gateway_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// The lines of the access log in which `field` has this value.
    pub(crate) fn lines(&self, field: &str, value: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        // The last line may be incomplete.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole).lines();
        let lines = whole.map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line[field] == value).collect()
    }

    /// Waits for a line of the access log in which `field` has this value.
    #[track_caller]
    pub(crate) fn line(&mut self, field: &str, value: &str) -> Value {
        self.wait(&format!("a line with {field} {value}"), |world| {
            !world.lines(field, value).is_empty()
        });
        self.lines(field, value).remove(0)
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

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.listen)
    }

    /// A connection that has sent `first`, and the name of the site that answered; empty if the
    /// connection was closed instead.
    pub(crate) fn begin(&self, first: &[u8]) -> (Client, String) {
        let mut client = self.client();
        client.send(first);
        let mut name = [0];
        let said = match client.0.read(&mut name) {
            Ok(1) => String::from_utf8_lossy(&name).into_owned(),
            _ => String::new(),
        };
        (client, said)
    }

    /// A connection that has sent `first`, which must reach this site.
    #[track_caller]
    pub(crate) fn begin_at(&self, site: &Site, first: &[u8]) -> Client {
        let (client, name) = self.begin(first);
        assert_eq!(name, site.name);
        client
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.gateway.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Whether the program has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.gateway.try_wait().unwrap().is_some()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The process is a child of this test and may have ended already.
        let _ = self.gateway.kill();
        let _ = self.gateway.wait();
        if thread::panicking() {
            let read = |name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
            eprintln!(
                "--- standard error:\n{}\n--- access log:\n{}",
                read("stderr"),
                read("access.log")
            );
        }
    }
}
