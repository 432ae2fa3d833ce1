//! Files that may hold secrets: no byte of them appears in the output of `check`, the log, the
//! answers of commands or the admin listener, however malformed the files are.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

const GATEWAY: &str = env!("CARGO_BIN_EXE_app-gateway");

/// Longest run of bytes of a file that may be printed by chance.
const WINDOW: usize = 8;

/// PEM text that is not secret: it is in every such file and may be in messages.
const ARMOUR: &str = "-----BEGIN PRIVATE KEY----- -----END PRIVATE KEY----- \
    -----BEGIN CERTIFICATE----- -----END CERTIFICATE----- -----BEGIN ENCRYPTED PRIVATE KEY-----";

/// Every file that may hold a secret, with the key that names it.
const FILES: [&str; 9] = [
    "chain.pem",
    "key.pem",
    "upstream-ca.pem",
    "client-ca.pem",
    "users",
    "login",
    "parent-ca.pem",
    "origin-ca.pem",
    "shared",
];

/// A configuration that names all these files.
struct SecretFiles {
    dir: TempDir,
    admin: u16,
    /// Names and valid contents of the files that are replaced by malformed ones.
    good: Vec<(&'static str, String)>,
    /// A private key, from which malformed files are made.
    key: String,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl SecretFiles {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["a.test".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let hash = bcrypt::hash_with_result("geheim", 4).unwrap();
        let hash = hash.format_for_version(bcrypt::Version::TwoY);
        let good: Vec<_> = FILES
            .into_iter()
            .map(|name| {
                let text = match name {
                    "key.pem" => key.serialize_pem(),
                    "users" => format!("ccm:{hash}\n"),
                    "login" => "me:password-of-the-parent\n".to_owned(),
                    "shared" => "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n".to_owned(),
                    _ => certificate.clone(),
                };
                (name, text)
            })
            .collect();
        let (admin, tls, proxy) = (free_port(), free_port(), free_port());
        let text = format!(
            r#"
[gateway]
shared-secret-file = "shared"
[admin]
listen = "127.0.0.1:{admin}"
socket = "./admin.sock"
[[certificate.site.pairs]]
chain = "chain.pem"
key = "key.pem"
[upstream.chat]
endpoints = ["https://127.0.0.2:1"]
ca-file = "upstream-ca.pem"
[profile.p]
certificates = ["site"]
[[profile.p.listener]]
listen = "127.0.0.1:{tls}"
client-ca = "client-ca.pem"
[[profile.p.route]]
path = "/"
upstream = "chat"
[forward]
users-file = "users"
https-absolute-form = true
https-ca-file = "origin-ca.pem"
via = "enterprise"
[[forward.listener]]
listen = "127.0.0.1:{proxy}"
[[forward.rule]]
name = "r"
users = ["ccm"]
allow = ["*.example.com"]
[[forward.parent]]
name = "enterprise"
endpoints = ["https://127.0.0.3:1"]
ca-file = "parent-ca.pem"
credentials-file = "login"
"#
        );
        fs::write(dir.path().join("gateway.toml"), text).unwrap();
        let configured = Self { dir, admin, good, key: key.serialize_pem() };
        for name in FILES {
            configured.restore(name);
        }
        configured
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn restore(&self, name: &str) {
        let (_, text) = self.good.iter().find(|(known, _)| *known == name).unwrap();
        self.write(name, text.as_bytes());
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        use std::os::unix::fs::OpenOptionsExt as _;
        let new = self.path().join("new");
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&new).unwrap();
        file.write_all(bytes).unwrap();
        fs::rename(new, self.path().join(name)).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Vec<u8> {
        let output =
            Command::new(GATEWAY).args(arguments).arg("-c").arg(self.path()).output().unwrap();
        [output.stdout, output.stderr].concat()
    }

    fn get(&self, path: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).unwrap();
        let port = self.admin;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{path}");
        answer
    }
}

/// Common mistakes in a private key and in a password file.
fn malformed(key: &str) -> Vec<(&'static str, Vec<u8>)> {
    let body: String = key.lines().filter(|line| !line.starts_with("---")).collect();
    let lower = key.to_ascii_lowercase();
    let utf16 = key.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let text: Vec<(&str, String)> = vec![
        ("line ends as backslash and n", key.replace('\n', "\\n")),
        ("line ends as backslash, r and n", key.replace('\n', "\\r\\n")),
        ("joined by spaces", key.replace('\n', " ")),
        ("joined", key.replace('\n', "")),
        ("joined after BEGIN", key.replacen("-----\n", " ", 1)),
        ("quoted", format!("\"{}\"", key.replace('\n', "\\n"))),
        ("cut off", key.split_at(key.len() / 2).0.to_owned()),
        ("no end", key.replace("-----END PRIVATE KEY-----", "")),
        ("another end", key.replace("END PRIVATE KEY", &format!("END {body}"))),
        ("another begin", key.replace("BEGIN PRIVATE KEY", &format!("BEGIN {body}"))),
        ("no begin", key.replace("-----BEGIN PRIVATE KEY-----", "")),
        ("not base64", key.replace("MI", "M!")),
        ("a letter less", key.replacen("MI", "M", 1)),
        ("base64 of nothing", key.replacen("MI", "NJ", 1)),
        ("base64 alone", body.clone()),
        ("a certificate", key.replace("PRIVATE KEY", "CERTIFICATE")),
        ("encrypted", key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")),
        ("lower case", lower),
        ("quoted as in a mail", key.replace('\n', "\n> ")),
        ("a user", format!("{body}:{body}\n")),
        ("a user twice", format!("{body}:$6$salt${0}\n{body}:$6$salt${0}\n", "x".repeat(86))),
        ("a user with a bad hash", format!("{body}:$2y$10${body}\n")),
        ("a password", format!("{body}\n\n")),
        ("a control character", format!("{body}\u{7}:{body}\n")),
        ("a short secret", "c2hvcnQtc2VjcmV0\n".to_owned()),
        ("a long secret", format!("{}\n", body.repeat(200))),
    ];
    let mut all: Vec<_> = text.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    all.push(("UTF-16", utf16));
    all.push(("Latin-1", [body.as_bytes(), b"\xe9:", body.as_bytes()].concat()));
    all.push(("binary", [b"\x30\x82", body.as_bytes()].concat()));
    all
}

/// Asserts that `printed` contains no window of `secret`, neither verbatim nor as decimal or
/// hexadecimal bytes.
fn assert_hidden(secret: &[u8], printed: &[u8], case: &str) {
    let mut numbers = String::new();
    for window in secret.windows(WINDOW) {
        let armour = memchr::memmem::find(ARMOUR.as_bytes(), window).is_some()
            || memchr::memmem::find(ARMOUR.to_lowercase().as_bytes(), window).is_some();
        let blank = window.iter().filter(|byte| byte.is_ascii_alphanumeric()).count() < 4;
        if armour || blank {
            continue;
        }
        let found = |needle: &[u8]| memchr::memmem::find(printed, needle).is_some();
        numbers.clear();
        let mut hex = String::new();
        for byte in window {
            let _ = write!(numbers, "{byte}, ");
            let _ = write!(hex, "{byte:02x}");
        }
        let decimal = numbers.trim_end_matches(", ");
        assert!(
            !found(window) && !found(decimal.as_bytes()) && !found(hex.as_bytes()),
            "{case}: `{}` was printed in\n{}",
            window.escape_ascii(),
            String::from_utf8_lossy(printed)
        );
    }
}

#[test]
fn check_prints_nothing_of_a_malformed_file() {
    let configured = SecretFiles::new();
    let fine = configured.run(&["check"]);
    assert!(
        String::from_utf8_lossy(&fine).contains("successful"),
        "{}",
        String::from_utf8_lossy(&fine)
    );
    for name in FILES {
        // The same code reads all CA files, so fewer cases of them are enough.
        let step = if name.ends_with("-ca.pem") { 4 } else { 1 };
        for (index, (how, bytes)) in
            malformed(&configured.key).into_iter().step_by(step).enumerate()
        {
            configured.write(name, &bytes);
            let mut printed = configured.run(&["check"]);
            if index % 3 == 0 {
                printed.extend(configured.run(&["check", "--json"]));
            }
            assert_hidden(&bytes, &printed, &format!("{name}, {how}"));
        }
        configured.restore(name);
    }
}

struct RunningGateway(Child);

impl Drop for RunningGateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_running_gateway_prints_nothing_of_a_malformed_file() {
    let configured = SecretFiles::new();
    let log = configured.path().join("log");
    let out = File::create(&log).unwrap();
    let child = Command::new(GATEWAY)
        .args(["run", "-c"])
        .arg(configured.path())
        .env("APP_GATEWAY_ALLOW_ROOT", "1")
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .spawn()
        .unwrap();
    let running = RunningGateway(child);
    let patience = Instant::now() + Duration::from_mins(1);
    while TcpStream::connect(("127.0.0.1", configured.admin)).is_err() {
        assert!(Instant::now() < patience, "{}", fs::read_to_string(&log).unwrap());
        thread::sleep(Duration::from_millis(50));
    }
    for name in FILES {
        let (mut printed, mut secrets) = (Vec::new(), Vec::new());
        for (how, bytes) in malformed(&configured.key).into_iter().step_by(4) {
            configured.write(name, &bytes);
            printed.extend(configured.run(&["reload"]));
            secrets.push((how, bytes));
        }
        printed.extend(configured.run(&["plan"]));
        printed.extend(configured.run(&["status"]));
        printed.extend(configured.run(&["status", "--json"]));
        for path in ["/status", "/reloads", "/ui"] {
            printed.extend(configured.get(path));
        }
        printed.extend(fs::read(&log).unwrap());
        for (how, bytes) in secrets {
            assert_hidden(&bytes, &printed, &format!("{name}, {how}"));
        }
        configured.restore(name);
    }
    drop(running);
}
