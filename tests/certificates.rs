//! Diagnostics of `app-gateway check` for unusable certificates.
//!
//! Each test makes a certificate that is wrong in one way and runs the program on it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use serde_json::Value;
use tempfile::TempDir;

/// A directory with a gateway of one listener and one certificate.
struct ConfigDir {
    dir: TempDir,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    params
}

fn authority(name: &str) -> Authority {
    let mut params = named(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn intermediate(name: &str, above: &Authority) -> Authority {
    let mut params = named(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), above).unwrap()
}

impl ConfigDir {
    fn new(listen: &str, hosts: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hosts = if hosts.is_empty() { String::new() } else { format!("hosts = [{hosts}]") };
        let text = format!(
            r#"
[[certificate.site.pairs]]
chain = "site.crt"
key = "site.key"
[upstream.chat]
endpoints = ["http://127.0.0.2:1"]
[profile.internet]
certificates = ["site"]
{hosts}
[[profile.internet.listener]]
listen = "{listen}"
[[profile.internet.route]]
path = "/"
upstream = "chat"
"#
        );
        fs::write(dir.path().join("gateway.toml"), text).unwrap();
        Self { dir }
    }

    fn usual() -> Self {
        Self::new("127.0.0.1:8443", r#""chat.example.com""#)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        // `check` warns about a key that others can read.
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }

    /// Signs a certificate with `above` and installs it with its key and the further certificates
    /// `links`.
    fn install(&self, params: &CertificateParams, above: &Authority, links: &[&Authority]) {
        let key = KeyPair::generate().unwrap();
        let mut chain = params.signed_by(&key, above).unwrap().pem();
        for link in links {
            chain.push_str(&link.pem());
        }
        self.write("site.crt", chain);
        self.write("site.key", key.serialize_pem());
    }

    /// Whether the check passed, and the codes of all problems except the one about plain HTTP to
    /// the upstream.
    fn check(&self) -> (bool, Vec<String>) {
        let output = Command::new(env!("CARGO_BIN_EXE_app-gateway"))
            .args(["check", "--json"])
            .arg(self.dir.path())
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let problems = report["problems"].as_array().unwrap();
        for problem in problems {
            assert!(problem["place"]["line"].as_u64().unwrap() > 0, "{problem}");
        }
        let codes = problems.iter().map(|problem| problem["code"].as_str().unwrap().to_owned());
        assert_eq!(report["ok"].as_bool().unwrap(), output.status.success());
        (output.status.success(), codes.filter(|code| code != "upstream.plain").collect())
    }
}

#[track_caller]
fn assert_rejected(config: &ConfigDir, code: &str) {
    let (ok, codes) = config.check();
    assert!(!ok && codes.iter().any(|found| found == code), "{code} is not among {codes:?}");
}

#[track_caller]
fn assert_warned(config: &ConfigDir, code: &str) {
    let (ok, codes) = config.check();
    assert!(ok && codes == [code], "{codes:?}");
}

fn valid_params() -> CertificateParams {
    named("chat", &["chat.example.com"])
}

#[test]
fn a_valid_chain_is_accepted() {
    let (root, config) = (authority("root"), ConfigDir::usual());
    let below = intermediate("intermediate", &root);
    config.install(&valid_params(), &below, &[&below, &root]);
    assert_eq!(config.check(), (true, vec![]));
}

#[test]
fn a_wildcard_covers_one_label() {
    let (root, config) = (authority("root"), ConfigDir::usual());
    config.install(&named("chat", &["*.example.com"]), &root, &[&root]);
    assert_eq!(config.check(), (true, vec![]));
    let config = ConfigDir::new("127.0.0.1:8443", r#""a.chat.example.com""#);
    config.install(&named("chat", &["*.example.com"]), &root, &[&root]);
    assert_rejected(&config, "certificate.host-not-covered");
}

#[test]
fn a_key_of_another_certificate_is_rejected() {
    let (root, config) = (authority("root"), ConfigDir::usual());
    config.install(&valid_params(), &root, &[&root]);
    config.write("site.key", KeyPair::generate().unwrap().serialize_pem());
    assert_rejected(&config, "certificate.key-mismatch");
}

#[test]
fn certificates_that_are_expired_or_not_yet_valid_are_rejected() {
    let (root, config) = (authority("root"), ConfigDir::usual());
    let mut params = valid_params();
    params.not_after = date_time_ymd(2021, 1, 1);
    config.install(&params, &root, &[&root]);
    assert_rejected(&config, "certificate.expired");
    let mut params = valid_params();
    params.not_before = date_time_ymd(2098, 1, 1);
    config.install(&params, &root, &[&root]);
    assert_rejected(&config, "certificate.not-yet-valid");
    let mut params = valid_params();
    // Ten days from now, by the clock of the machine that runs the test.
    params.not_after =
        (std::time::SystemTime::now() + std::time::Duration::from_secs(10 * 86_400)).into();
    config.install(&params, &root, &[&root]);
    assert_warned(&config, "certificate.expires-soon");
}

#[test]
fn a_chain_in_the_wrong_order_is_rejected() {
    let (root, other, config) = (authority("root"), authority("other"), ConfigDir::usual());
    let below = intermediate("intermediate", &root);
    config.install(&valid_params(), &below, &[&root, &below]);
    assert_rejected(&config, "certificate.chain-order");
    config.install(&valid_params(), &below, &[&other]);
    assert_rejected(&config, "certificate.chain-order");
    if !rustls_native_certs::load_native_certs().certs.is_empty() {
        config.install(&valid_params(), &below, &[]);
        assert_warned(&config, "certificate.chain-incomplete");
    }
}

#[test]
fn the_certificate_must_cover_the_hosts() {
    let (root, config) = (authority("root"), ConfigDir::usual());
    config.install(&named("chat", &["www.example.com"]), &root, &[&root]);
    assert_rejected(&config, "certificate.host-not-covered");
    let config = ConfigDir::new("127.0.0.1:8443", "");
    config.install(&named("chat", &[]), &root, &[&root]);
    assert_warned(&config, "certificate.no-names");
}

#[test]
fn unreadable_chains_and_unusable_keys_have_different_codes() {
    let (root, config) = (authority("root"), ConfigDir::usual());
    config.install(&valid_params(), &root, &[&root]);
    let key = fs::read(config.dir.path().join("site.key")).unwrap();
    let chain = fs::read(config.dir.path().join("site.crt")).unwrap();
    for (name, text) in [
        ("site.crt", &b""[..]),
        ("site.crt", b"not PEM"),
        ("site.crt", &key),
        ("site.crt", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"),
        ("site.crt", &chain[..chain.len() / 3]),
        ("site.crt", &[0xff; 64]),
    ] {
        config.write(name, text);
        assert_rejected(&config, "certificate.unreadable");
    }
    config.write("site.crt", &chain);
    for text in [&b""[..], b"not PEM", &chain, &key[..key.len() / 2], &[0xff; 64]] {
        config.write("site.key", text);
        assert_rejected(&config, "certificate.bad-key");
    }
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    config.write("site.key", encrypted);
    assert_rejected(&config, "certificate.bad-key");
}

#[test]
fn unreadable_files_of_client_and_upstream_cas_are_rejected() {
    let (root, config) = (authority("root"), ConfigDir::usual());
    config.install(&valid_params(), &root, &[&root]);
    let path = config.dir.path().join("gateway.toml");
    let text = fs::read_to_string(&path).unwrap();
    config.write("ca.crt", "not PEM");
    fs::write(
        &path,
        text.replace(
            "listen = \"127.0.0.1:8443\"",
            "listen = \"127.0.0.1:8443\"\nclient-ca = \"ca.crt\"",
        ),
    )
    .unwrap();
    assert_rejected(&config, "listener.client-ca");
    fs::write(
        &path,
        text.replace("http://127.0.0.2:1\"]", "https://127.0.0.2:1\"]\nca-file = \"ca.crt\""),
    )
    .unwrap();
    assert_rejected(&config, "upstream.ca-file");
    config.write("ca.crt", root.pem());
    assert_eq!(config.check(), (true, vec![]));
}

#[test]
#[cfg(feature = "demo")]
fn development_certificates_are_rejected_beyond_loopback() {
    let made = tempfile::tempdir().unwrap();
    let certificates = app_gateway::demo::ensure(made.path()).unwrap();
    for (listen, ok) in [
        ("127.0.0.1:8443", true),
        ("[::1]:8443", true),
        ("0.0.0.0:8443", false),
        ("192.0.2.1:8443", false),
    ] {
        let config = ConfigDir::new(listen, r#""localhost""#);
        let copy = |from: &std::path::Path, to: &str| config.write(to, fs::read(from).unwrap());
        copy(&certificates.gateway.chain, "site.crt");
        copy(&certificates.gateway.key, "site.key");
        if ok {
            assert_eq!(config.check(), (true, vec![]), "{listen}");
        } else {
            assert_rejected(&config, "certificate.development");
        }
    }
}
