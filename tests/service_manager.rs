//! The program under a service manager: its notifications to systemd, and socket activation.
//!
//! The test acts as the service manager: it owns the socket in `NOTIFY_SOCKET` and starts the
//! program with listening sockets from descriptor 3 on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// A gateway whose only listener redirects, so that it needs no certificate.
struct Service {
    dir: TempDir,
    notify: UnixDatagram,
    listen: SocketAddr,
    child: Option<Child>,
}

impl Service {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
        // An address of its own, so that a port that was free a moment ago stays free.
        let [.., a, b] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 0x60 | a & 0x1f, b, next_number());
        let listen = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap();
        let service = Self { dir, notify, listen, child: None };
        service.write("drain-timeout = \"2s\"");
        service
    }

    fn write(&self, gateway: &str) {
        let listen = self.listen;
        let text = format!(
            "[gateway]\nworkers = 2\naccess-log = \"off\"\n{gateway}\n\n[admin]\nsocket = \"off\"\n\n[profile.edge]\n\n\
             [[profile.edge.listener]]\nlisten = \"{listen}\"\nredirect-to-https = 443\n\n\
             [[profile.edge.route]]\npath = \"/\"\ndeny = true\n"
        );
        let config = self.dir.path().join("config");
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("gateway.toml"), text).unwrap();
    }

    /// The program, with `NOTIFY_SOCKET` set to the socket of the test.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APP_GATEWAY_ALLOW_ROOT", "1")
            .env("NOTIFY_SOCKET", self.dir.path().join("notify"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        command
    }

    fn run(&mut self, command: &mut Command) {
        self.child = Some(command.spawn().unwrap());
    }

    fn start(&mut self, environment: &[(&str, &str)]) {
        let mut command = self.command(env!("CARGO_BIN_EXE_app-gateway"));
        command.args(["run", "-c"]).arg(self.dir.path().join("config"));
        self.run(command.envs(environment.iter().copied()));
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Waits for a message that contains `what`, and skips those before it.
    fn notification(&self, what: &str) -> String {
        let deadline = Instant::now() + IO_TIMEOUT;
        let mut said = Vec::new();
        while Instant::now() < deadline {
            let mut bytes = [0; 4096];
            let Ok(length) = self.notify.recv(&mut bytes) else { break };
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if text.contains(what) {
                return text;
            }
            said.push(text);
        }
        panic!("no message with {what}, but {said:?}");
    }

    /// The status line of a redirect, through a new connection.
    fn redirect(&self) -> String {
        let mut client = TcpStream::connect(self.listen).unwrap();
        client.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
        write!(client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    fn wait_for_exit(&mut self) {
        let deadline = Instant::now() + IO_TIMEOUT;
        let child = self.child.as_mut().unwrap();
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A number for each service of this test process.
fn next_number() -> u8 {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn systemd_is_notified_of_start_reload_and_stop() {
    let mut service = Service::new();
    service.start(&[]);
    assert!(service.notification("READY=1").contains("generation 1"));
    assert!(service.redirect().starts_with("HTTP/1.1 308"), "{}", service.redirect());
    service.write("drain-timeout = \"3s\"");
    signal(service.pid(), Signal::HUP);
    // Units of `Type=notify-reload` need both fields in one message.
    assert!(service.notification("RELOADING=1").contains("MONOTONIC_USEC="));
    assert!(service.notification("READY=1").contains("generation 2"));
    signal(service.pid(), Signal::TERM);
    service.notification("STOPPING=1");
    // The drain timeout of 3 s and a margin of 10 s.
    service.notification("EXTEND_TIMEOUT_USEC=13000000");
    service.wait_for_exit();
}

#[test]
fn the_watchdog_is_notified_repeatedly() {
    let mut service = Service::new();
    service.start(&[("WATCHDOG_USEC", "400000")]);
    service.notification("READY=1");
    for _ in 0..3 {
        service.notification("WATCHDOG=1");
    }
    signal(service.pid(), Signal::TERM);
    service.wait_for_exit();
}

#[test]
fn a_watchdog_of_another_process_is_not_notified() {
    let mut service = Service::new();
    // The variables are for another process, as after an upgrade.
    service.start(&[("WATCHDOG_USEC", "100000"), ("WATCHDOG_PID", "1")]);
    service.notification("READY=1");
    signal(service.pid(), Signal::TERM);
    let last = service.notification("STOPPING=1");
    assert!(!last.contains("WATCHDOG"));
    service.wait_for_exit();
}

#[test]
fn an_upgrade_names_the_new_main_process() {
    let mut service = Service::new();
    service.start(&[]);
    service.notification("READY=1");
    signal(service.pid(), Signal::USR2);
    let said = service.notification("MAINPID=");
    let line = said.lines().find_map(|line| line.strip_prefix("MAINPID=")).unwrap();
    let successor: u32 = line.parse().unwrap();
    assert_ne!(successor, service.pid());
    service.notification("READY=1");
    // No connection is open, so the old process ends.
    service.wait_for_exit();
    assert!(service.redirect().starts_with("HTTP/1.1 308"));
    signal(successor, Signal::TERM);
    service.notification("STOPPING=1");
}

/// Starts the program with `sockets` as its descriptors from 3 on.
fn activate(service: &mut Service, sockets: &[TcpListener]) {
    // The script first copies the sockets to high numbers, because one socket may have the number
    // that another one needs.
    let mut steps = Vec::new();
    for (index, socket) in sockets.iter().enumerate() {
        fcntl_setfd(socket, FdFlags::empty()).unwrap();
        steps.push(format!("exec {}<&{}", 50 + index, socket.as_raw_fd()));
    }
    let all = 0..sockets.len();
    steps.extend(all.map(|index| format!("exec {0}<&{1} {1}<&-", 3 + index, 50 + index)));
    steps.push(format!("export LISTEN_PID=$$ LISTEN_FDS={}", sockets.len()));
    steps.push("exec \"$0\" \"$@\"".to_owned());
    let script = steps.join("; ");
    let mut command = service.command("bash");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_app-gateway"), "run", "-c"]);
    let command = command.arg(service.dir.path().join("config"));
    service.run(command);
}

#[test]
fn passed_sockets_are_accepted_on() {
    let mut service = Service::new();
    let socket = TcpListener::bind(service.listen).unwrap();
    // A client that was in the accept queue before the program started.
    let mut early = TcpStream::connect(service.listen).unwrap();
    activate(&mut service, &[socket]);
    service.notification("READY=1");
    write!(early, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    early.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 308"), "{answer}");
    for _ in 0..20 {
        assert!(service.redirect().starts_with("HTTP/1.1 308"));
    }
    signal(service.pid(), Signal::TERM);
    service.wait_for_exit();
}

#[test]
fn a_passed_socket_is_handed_to_the_new_process() {
    let mut service = Service::new();
    let socket = TcpListener::bind(service.listen).unwrap();
    activate(&mut service, &[socket]);
    service.notification("READY=1");
    signal(service.pid(), Signal::USR2);
    let said = service.notification("MAINPID=");
    let line = said.lines().find_map(|line| line.strip_prefix("MAINPID=")).unwrap();
    let successor: u32 = line.parse().unwrap();
    service.notification("READY=1");
    service.wait_for_exit();
    for _ in 0..20 {
        assert!(service.redirect().starts_with("HTTP/1.1 308"));
    }
    signal(successor, Signal::TERM);
    service.notification("STOPPING=1");
}

#[test]
fn the_shipped_units_are_valid_and_sandboxed() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: systemd-analyze is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd");
    let service = fs::read_to_string(shipped.join("app-gateway.service")).unwrap();
    // The program and the user of the unit are not installed on the machine of the tests.
    let service = service
        .replace("/usr/local/bin/app-gateway ", concat!(env!("CARGO_BIN_EXE_app-gateway"), " "))
        .replace("\nUser=app-gateway\nGroup=app-gateway\n", "\nUser=daemon\nGroup=daemon\n");
    let unit = dir.path().join("app-gateway.service");
    fs::write(&unit, service).unwrap();
    let socket = dir.path().join("app-gateway.socket");
    fs::copy(shipped.join("app-gateway.socket"), &socket).unwrap();
    let said = Command::new("systemd-analyze").arg("verify").args([&unit, &socket]).output();
    let said = said.unwrap();
    let complaints = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success() && complaints.is_empty(), "{complaints}");
    // The scale of `systemd-analyze security`: 0 is best, 10 is worst.
    let security = ["security", "--offline=yes", "--threshold=25"];
    let said = Command::new("systemd-analyze").args(security).arg(&unit).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
}
