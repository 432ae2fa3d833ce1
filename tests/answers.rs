//! Commands that print an answer, such as `explain`, in a configuration with unrelated faults, and
//! the messages of the gateway when it starts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::fs::{self, File};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

const GATEWAY: &str = env!("CARGO_BIN_EXE_app-gateway");

/// A directory whose configuration has many faults, none of them related to the commands under
/// test.
fn broken() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"
[certificate.site]
pairs = [{ chain = "missing.crt", key = "missing.key" }]
[upstream.chat]
endpoints = ["https://10.0.0.5:8444"]
ca-file = "missing-ca.crt"
[upstream.files]
endpoints = ["http://unix:/run/files.sock"]
[upstream.one]
endpoints = ["http://10.0.0.6:1"]
[upstream.two]
endpoints = ["http://10.0.0.7:1"]
[upstream.three]
endpoints = ["http://10.0.0.8:1"]
[profile.internet]
certificates = ["site"]
[[profile.internet.listener]]
listen = "0.0.0.0:8443"
[[profile.internet.route]]
path = "/chat/"
upstream = "chat"
[[profile.internet.route]]
path = "wrong"
upstream = "files"
[forward]
users-file = "missing-users"
[[forward.listener]]
listen = "127.0.0.1:3128"
[[forward.rule]]
name = "twilio"
clients = ["10.0.0.5"]
allow = ["192.0.2.7", "http://wrong/"]
[[forward.rule]]
name = "viber"
clients = ["10.0.0.5"]
allow = ["chatapi.viber.com"]
[tcp.sites]
[[tcp.sites.listener]]
listen = "0.0.0.0:7443"
[[tcp.sites.route]]
server-names = ["site.example.com"]
upstream = "chat"
"#;
    fs::write(dir.path().join("gateway.toml"), text).unwrap();
    fs::write(dir.path().join("other.toml"), "[doctor]\nfqdn = \n").unwrap();
    dir
}

/// Exit code, standard output and standard error of a command.
fn run(dir: &TempDir, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(GATEWAY).args(arguments).arg("-c").arg(dir.path()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn commands_answer_despite_unrelated_faults_in_the_configuration() {
    let dir = broken();
    let cases = [
        (
            vec!["explain", "GET", "https://a.test:8443/chat/x"],
            vec!["forwarded to chat", "https://10.0.0.5:8444"],
        ),
        (
            vec!["explain", "egress", "chatapi.viber.com:80", "--client", "10.0.0.5"],
            vec!["viber", "denied"],
        ),
        (vec!["explain", "tcp", "site.example.com:7443"], vec!["chat"]),
        (vec!["ports"], vec!["8443", "10.0.0.5", "7443"]),
    ];
    for (arguments, expected) in cases {
        let (_, out, err) = run(&dir, &arguments);
        for part in expected {
            assert!(out.contains(part), "{arguments:?}: no `{part}` in\n{out}\n{err}");
        }
        // Other problems are summarised, one line for each kind, without excerpts of the file.
        assert!(err.contains("would be rejected") && err.contains("app-gateway check"), "{err}");
        assert!(!err.contains("-->") && err.lines().count() <= 9, "{err}");
    }
    let (code, _, err) = run(&dir, &["explain", "GET", "https://a.test:9/"]);
    assert_eq!(code, 2, "{err}");
}

#[test]
fn check_reports_certificate_problems_beside_other_problems() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let old = params.self_signed(&key).unwrap().pem();
    for (name, text) in [
        ("site.crt", old.as_str()),
        ("site.key", "nonsense"),
        ("ca.crt", "nonsense"),
        ("client-ca.crt", "nonsense"),
        ("users", "nonsense"),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let text = r#"
[certificate.site]
pairs = [{ chain = "site.crt", key = "site.key" }]
[upstream.chat]
endpoints = ["https://10.0.0.5:8444"]
ca-file = "ca.crt"
[profile.internet]
certificates = ["site"]
hosts = ["b.test"]
[[profile.internet.listener]]
listen = "0.0.0.0:8443"
client-ca = "client-ca.crt"
[[profile.internet.route]]
path = "wrong"
upstream = "chat"
[forward]
users-file = "users"
[[forward.listener]]
listen = "127.0.0.1:3128"
"#;
    fs::write(dir.path().join("gateway.toml"), text).unwrap();
    let (code, out, _) = run(&dir, &["check", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let problems = report["problems"].as_array().unwrap();
    let codes: Vec<_> = problems.iter().map(|one| one["code"].as_str().unwrap()).collect();
    assert_eq!(code, 1);
    for wanted in [
        "route.path",
        "certificate.bad-key",
        "upstream.ca-file",
        "listener.client-ca",
        "forward.users-file",
    ] {
        assert!(codes.contains(&wanted), "{wanted} is not among {codes:?}");
    }
    // A syntax error in another file does not hide the problems of this file.
    fs::write(dir.path().join("other.toml"), "[doctor]\nfqdn = \n").unwrap();
    let (_, _, err) = run(&dir, &["check"]);
    assert!(err.contains("certificate.bad-key") && err.contains("toml.syntax"), "{err}");
}

struct RunningGateway(Child);

impl Drop for RunningGateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway that redirects on `port`, started by a shell that first runs `before`.
fn start(dir: &TempDir, port: u16, before: &str) -> RunningGateway {
    let text = format!(
        "[admin]\nsocket = \"off\"\n[profile.p]\n[[profile.p.listener]]\nlisten = \"127.0.0.1:{port}\"\n\
         redirect-to-https = 443\n[[profile.p.route]]\npath = \"/\"\ndeny = true\n"
    );
    fs::write(dir.path().join("gateway.toml"), text).unwrap();
    let log = File::create(dir.path().join("log")).unwrap();
    let child = Command::new("sh")
        .args(["-c", &format!("{before}exec \"$0\" run -c \"$1\""), GATEWAY])
        .arg(dir.path())
        .env("APP_GATEWAY_ALLOW_ROOT", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    RunningGateway(child)
}

/// The log, once it contains `part`.
fn log(dir: &TempDir, part: &str) -> String {
    let patience = Instant::now() + Duration::from_mins(1);
    loop {
        let text = fs::read_to_string(dir.path().join("log")).unwrap();
        if text.contains(part) {
            return text;
        }
        assert!(Instant::now() < patience, "no `{part}` in\n{text}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_address_that_cannot_be_bound_is_not_logged_as_listening() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let _running = start(&dir, port, "");
    let text = log(&dir, "does not start");
    assert!(!text.contains("listening on"), "{text}");
    drop(taken);
    let free = tempfile::tempdir().unwrap();
    let _running = start(&free, port, "");
    let text = log(&free, "serving");
    assert!(text.contains(&format!("listening on 127.0.0.1:{port}")), "{text}");
}

#[test]
fn a_low_limit_on_open_files_is_logged_as_a_warning() {
    let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let low = tempfile::tempdir().unwrap();
    let _running = start(&low, port(), "ulimit -n 300; ");
    let text = log(&low, "serving");
    assert!(text.contains("only 300 open files are allowed"), "{text}");
    assert!(text.contains("LimitNOFILE"), "{text}");
}
