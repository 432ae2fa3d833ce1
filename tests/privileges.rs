//! A gateway that is started as root: it continues as another user, or does not start.
//!
//! These tests need root. Without it each test prints that it was skipped and passes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const IO_TIMEOUT: Duration = Duration::from_secs(30);
/// User and group IDs of the accounts `nobody` and `nogroup`.
const UNPRIVILEGED: &str = "65534:65534";

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not root: nothing is tried");
    }
    root
}

/// A configuration and a copy of the program that every user can read.
struct Installation {
    dir: TempDir,
    program: PathBuf,
    address: Ipv4Addr,
}

impl Installation {
    fn new(third: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let program = dir.path().join("app-gateway");
        fs::copy(env!("CARGO_BIN_EXE_app-gateway"), &program).unwrap();
        fs::create_dir(dir.path().join("config")).unwrap();
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        std::os::unix::fs::chown(&run, Some(65534), Some(65534)).unwrap();
        let [.., a, b] = std::process::id().to_be_bytes();
        Self { dir, program, address: Ipv4Addr::new(127, 0x40 | a & 0x1f, b, third) }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    fn write(&self, gateway: &str, ports: &[u16]) {
        let (socket, address) = (self.dir.path().join("run/admin.sock"), self.address);
        let mut listeners = String::new();
        for port in ports {
            let _ = write!(
                listeners,
                "[[profile.edge.listener]]\nlisten = \"{address}:{port}\"\nredirect-to-https = 443\n\n"
            );
        }
        let text = format!(
            "[gateway]\nworkers = 2\naccess-log = \"off\"\nreload-on-change = false\n{gateway}\n\n\
             [admin]\nsocket = \"{}\"\n\n[profile.edge]\n\n{listeners}\
             [[profile.edge.route]]\npath = \"/\"\ndeny = true\n",
            socket.display()
        );
        fs::write(self.config().join("gateway.toml"), text).unwrap();
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb).arg("-c").arg(self.config()).env_remove("APP_GATEWAY_ALLOW_ROOT");
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, verb: &str) -> Output {
        self.command(verb).output().unwrap()
    }
}

struct RunningGateway(Child);

impl RunningGateway {
    fn start(installation: &Installation) -> Self {
        let log = fs::File::create(installation.dir.path().join("log")).unwrap();
        Self(installation.command("run").stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }
}

impl Drop for RunningGateway {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

fn redirects(address: SocketAddr) -> bool {
    let deadline = Instant::now() + IO_TIMEOUT;
    while Instant::now() < deadline {
        let Ok(mut client) = TcpStream::connect(address) else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        client.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
        write!(client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        return answer.starts_with("HTTP/1.1 308");
    }
    false
}

/// `/proc/PID/task/TID/status` of every thread of a process.
fn threads(pid: u32) -> Vec<String> {
    let all = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    all.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok()).collect()
}

fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim_start_matches(':').split_whitespace().collect()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn root_is_rejected_without_user_or_allow_root() {
    if !is_root() {
        return;
    }
    let installation = Installation::new(1);
    installation.write("", &[8080]);
    let refused = installation.run("run");
    assert_eq!(refused.status.code(), Some(78));
    assert!(
        text(&refused).contains("app-gateway does not run as root: set `user`"),
        "{}",
        text(&refused)
    );
    installation.write("allow-root = true", &[8080]);
    let running = RunningGateway::start(&installation);
    assert!(redirects((installation.address, 8080).into()));
    assert!(threads(running.0.id()).iter().all(|thread| field(thread, "Uid") == ["0"; 4]));
    installation.write("user = \"no-such-user\"", &[8080]);
    let refused = installation.run("run");
    assert_eq!(refused.status.code(), Some(78));
    assert!(text(&refused).contains("there is no user `no-such-user`"), "{}", text(&refused));
}

#[test]
fn the_configured_user_still_binds_low_ports_on_reload_and_upgrade() {
    if !is_root() {
        return;
    }
    let installation = Installation::new(2);
    let user = format!("user = \"{UNPRIVILEGED}\"");
    installation.write(&user, &[81]);
    let running = RunningGateway::start(&installation);
    assert!(redirects((installation.address, 81).into()));
    for thread in threads(running.0.id()) {
        assert_eq!(field(&thread, "Uid"), ["65534"; 4], "{thread}");
        assert_eq!(field(&thread, "Gid"), ["65534"; 4], "{thread}");
        assert_eq!(field(&thread, "Groups"), ["65534"], "{thread}");
        // CAP_NET_BIND_SERVICE only.
        assert_eq!(field(&thread, "CapPrm"), ["0000000000000400"], "{thread}");
        assert_eq!(field(&thread, "NoNewPrivs"), ["1"], "{thread}");
        assert_eq!(field(&thread, "Name").len(), 1, "{thread}");
    }
    let first = threads(running.0.id()).remove(0);
    assert_eq!(field(&first, "Name"), ["app-gateway"]);
    // A reload binds a further low port.
    installation.write(&user, &[81, 82]);
    let reloaded = installation.run("reload");
    assert!(reloaded.status.success(), "{}", text(&reloaded));
    assert!(redirects((installation.address, 82).into()));
    // The new process after an upgrade binds a further low port.
    installation.write(&user, &[81, 82, 83]);
    let upgraded = installation.run("upgrade");
    assert!(upgraded.status.success(), "{}", text(&upgraded));
    let said = text(&upgraded);
    let pid = said.split("process ").nth(1).unwrap().split(' ').next().unwrap();
    let pid: u32 = pid.parse().unwrap();
    assert!(redirects((installation.address, 83).into()));
    assert!(threads(pid).iter().all(|thread| field(thread, "Uid") == ["65534"; 4]));
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
}

#[test]
fn files_that_the_user_cannot_read_fail_the_check_and_the_start() {
    if !is_root() {
        return;
    }
    let installation = Installation::new(3);
    installation.write(&format!("user = \"{UNPRIVILEGED}\""), &[8080]);
    let token = installation.dir.path().join("secret");
    fs::write(&token, "x".repeat(40)).unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::metadata(&token).unwrap().uid(), 0);
    let file = installation.config().join("gateway.toml");
    let more = fs::read_to_string(&file).unwrap();
    let with = format!("[gateway]\nshared-secret-file = \"{}\"", token.display());
    fs::write(&file, more.replacen("[gateway]", &with, 1)).unwrap();
    for (verb, code) in [("check", 1), ("run", 78)] {
        let refused = installation.run(verb);
        assert_eq!(refused.status.code(), Some(code), "{verb}: {}", text(&refused));
        let said = text(&refused);
        assert!(said.contains("permission denied"), "{verb}: {said}");
        assert!(said.contains("the user the gateway runs as needs to read it"), "{verb}: {said}");
    }
}

#[test]
fn a_key_writable_by_others_is_rejected_and_a_readable_one_gives_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let key = dir.path().join("key.pem");
    fs::write(&key, "x").unwrap();
    let chain = dir.path().join("chain.pem");
    fs::write(&chain, "x").unwrap();
    let config = dir.path().join("config");
    fs::create_dir(&config).unwrap();
    let text = format!(
        "[certificate.a]\npairs = [{{ chain = \"{}\", key = \"{}\" }}]\n",
        chain.display(),
        key.display()
    );
    fs::write(config.join("a.toml"), text).unwrap();
    let said = |path: &Path, mode: u32| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        match app_gateway::config::load(&config, &|_| None) {
            Ok(loaded) => {
                app_gateway::config::draw(&loaded.config.sources, &loaded.warnings, false)
            }
            Err(refused) => app_gateway::config::draw(&refused.sources, &refused.problems, false),
        }
    };
    assert!(said(&key, 0o646).contains("error[file.writable-by-others]"));
    assert!(said(&key, 0o644).contains("warning[file.readable-by-others]"));
    assert!(!said(&key, 0o640).contains("by-others"));
    // A directory that others may not enter protects the key.
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    assert!(!said(dir.path(), 0o750).contains("by-others"));
}
