//! What `app-gateway check` says about certificates that will not do.
//!
//! Every certificate here is made for the test, wrong in one way, and judged by the program itself.

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
struct Site {
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

impl Site {
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
        // A key that others can read is warned about.
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }

    /// Signs a certificate with `above` and installs it with its key and these further links.
    fn install(&self, params: &CertificateParams, above: &Authority, links: &[&Authority]) {
        let key = KeyPair::generate().unwrap();
        let mut chain = params.signed_by(&key, above).unwrap().pem();
        for link in links {
            chain.push_str(&link.pem());
        }
        self.write("site.crt", chain);
        self.write("site.key", key.serialize_pem());
    }

    /// The verdict, and the codes of all problems but the one about plain HTTP to the upstream.
    fn check(&self) -> (bool, Vec<String>) {
        let output = Command::new(env!("CARGO_BIN_EXE_app-gateway"))
            .args(["check", "--format", "json"])
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
fn refused(site: &Site, code: &str) {
    let (ok, codes) = site.check();
    assert!(!ok && codes.iter().any(|found| found == code), "{code} is not among {codes:?}");
}

#[track_caller]
fn warned(site: &Site, code: &str) {
    let (ok, codes) = site.check();
    assert!(ok && codes == [code], "{codes:?}");
}

fn good() -> CertificateParams {
    named("chat", &["chat.example.com"])
}

#[test]
fn a_good_one_is_accepted() {
    let (root, site) = (authority("root"), Site::usual());
    let below = intermediate("intermediate", &root);
    site.install(&good(), &below, &[&below, &root]);
    assert_eq!(site.check(), (true, vec![]));
}

#[test]
fn a_wildcard_covers_one_label() {
    let (root, site) = (authority("root"), Site::usual());
    site.install(&named("chat", &["*.example.com"]), &root, &[&root]);
    assert_eq!(site.check(), (true, vec![]));
    let site = Site::new("127.0.0.1:8443", r#""a.chat.example.com""#);
    site.install(&named("chat", &["*.example.com"]), &root, &[&root]);
    refused(&site, "certificate.host-not-covered");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let (root, site) = (authority("root"), Site::usual());
    site.install(&good(), &root, &[&root]);
    site.write("site.key", KeyPair::generate().unwrap().serialize_pem());
    refused(&site, "certificate.key-mismatch");
}

#[test]
fn dates_are_looked_at() {
    let (root, site) = (authority("root"), Site::usual());
    let mut params = good();
    params.not_after = date_time_ymd(2021, 1, 1);
    site.install(&params, &root, &[&root]);
    refused(&site, "certificate.expired");
    let mut params = good();
    params.not_before = date_time_ymd(2098, 1, 1);
    site.install(&params, &root, &[&root]);
    refused(&site, "certificate.not-yet-valid");
    let mut params = good();
    // Ten days from now, by the clock of whoever runs this.
    params.not_after =
        (std::time::SystemTime::now() + std::time::Duration::from_secs(10 * 86_400)).into();
    site.install(&params, &root, &[&root]);
    warned(&site, "certificate.expires-soon");
}

#[test]
fn the_chain_is_looked_at() {
    let (root, other, site) = (authority("root"), authority("other"), Site::usual());
    let below = intermediate("intermediate", &root);
    site.install(&good(), &below, &[&root, &below]);
    refused(&site, "certificate.chain-order");
    site.install(&good(), &below, &[&other]);
    refused(&site, "certificate.chain-order");
    if !rustls_native_certs::load_native_certs().certs.is_empty() {
        site.install(&good(), &below, &[]);
        warned(&site, "certificate.chain-incomplete");
    }
}

#[test]
fn hosts_must_be_covered() {
    let (root, site) = (authority("root"), Site::usual());
    site.install(&named("chat", &["www.example.com"]), &root, &[&root]);
    refused(&site, "certificate.host-not-covered");
    let site = Site::new("127.0.0.1:8443", "");
    site.install(&named("chat", &[]), &root, &[&root]);
    warned(&site, "certificate.no-names");
}

#[test]
fn files_that_are_not_what_they_should_be_are_told_apart() {
    let (root, site) = (authority("root"), Site::usual());
    site.install(&good(), &root, &[&root]);
    let key = fs::read(site.dir.path().join("site.key")).unwrap();
    let chain = fs::read(site.dir.path().join("site.crt")).unwrap();
    for (name, text) in [
        ("site.crt", &b""[..]),
        ("site.crt", b"not PEM"),
        ("site.crt", &key),
        ("site.crt", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"),
        ("site.crt", &chain[..chain.len() / 3]),
        ("site.crt", &[0xff; 64]),
    ] {
        site.write(name, text);
        refused(&site, "certificate.unreadable");
    }
    site.write("site.crt", &chain);
    for text in [&b""[..], b"not PEM", &chain, &key[..key.len() / 2], &[0xff; 64]] {
        site.write("site.key", text);
        refused(&site, "certificate.bad-key");
    }
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    site.write("site.key", encrypted);
    refused(&site, "certificate.bad-key");
}

#[test]
fn client_and_upstream_authorities_are_read() {
    let (root, site) = (authority("root"), Site::usual());
    site.install(&good(), &root, &[&root]);
    let path = site.dir.path().join("gateway.toml");
    let text = fs::read_to_string(&path).unwrap();
    site.write("ca.crt", "not PEM");
    fs::write(
        &path,
        text.replace(
            "listen = \"127.0.0.1:8443\"",
            "listen = \"127.0.0.1:8443\"\nclient-ca = \"ca.crt\"",
        ),
    )
    .unwrap();
    refused(&site, "listener.client-ca");
    fs::write(
        &path,
        text.replace("http://127.0.0.2:1\"]", "https://127.0.0.2:1\"]\nca-file = \"ca.crt\""),
    )
    .unwrap();
    refused(&site, "upstream.ca-file");
    site.write("ca.crt", root.pem());
    assert_eq!(site.check(), (true, vec![]));
}

#[test]
#[cfg(feature = "demo")]
fn development_certificates_stay_on_this_host() {
    let made = tempfile::tempdir().unwrap();
    let certificates = app_gateway::demo::ensure(made.path()).unwrap();
    for (listen, ok) in [
        ("127.0.0.1:8443", true),
        ("[::1]:8443", true),
        ("0.0.0.0:8443", false),
        ("192.0.2.1:8443", false),
    ] {
        let site = Site::new(listen, r#""localhost""#);
        let copy = |from: &std::path::Path, to: &str| site.write(to, fs::read(from).unwrap());
        copy(&certificates.gateway.chain, "site.crt");
        copy(&certificates.gateway.key, "site.key");
        if ok {
            assert_eq!(site.check(), (true, vec![]), "{listen}");
        } else {
            refused(&site, "certificate.development");
        }
    }
}
