use std::process::Command;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, ServerName};

use super::*;
use crate::tls::client::{UpstreamTrust, config, pin_of};
use crate::tls::provider;

/// A certificate with its key.
struct Made {
    der: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

fn params(hosts: &[&str], is_ca: IsCa) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "common.test");
    params.is_ca = is_ca;
    params
}

fn ca() -> IsCa {
    IsCa::Ca(BasicConstraints::Unconstrained)
}

fn made(params: &CertificateParams) -> Made {
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().clone();
    Made { der, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
}

/// A certificate of version 1, as made by `openssl x509 -req -signkey`.
fn first_version() -> Made {
    let dir = tempfile::tempdir().unwrap();
    let script = "openssl req -newkey rsa:2048 -nodes -keyout key -out csr -subj /CN=common.test && \
                  printf '' > none && \
                  openssl x509 -req -in csr -signkey key -days 9 -extfile none -out crt";
    let done = Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let der = CertificateDer::from_pem_file(dir.path().join("crt")).unwrap();
    assert_eq!(parse(&der).unwrap().version(), X509Version::V1);
    Made { der, key: PrivateKeyDer::from_pem_file(dir.path().join("key")).unwrap() }
}

/// Runs a handshake and returns the client's error if it rejects the server.
fn handshake(
    trust: UpstreamTrust,
    server: &Made,
    chain: &[CertificateDer<'static>],
    name: &'static str,
    version: &'static rustls::SupportedProtocolVersion,
) -> Result<(), Error> {
    let chain = [std::slice::from_ref(&server.der), chain].concat();
    let key = provider().key_provider.load_private_key(server.key.clone_key()).unwrap();
    let key = Arc::new(rustls::sign::CertifiedKey::new(chain, key));
    let config_of_server = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
    let name = ServerName::try_from(name).unwrap();
    let mut client = rustls::ClientConnection::new(config(trust, &provider()).unwrap(), name)?;
    let mut server = rustls::ServerConnection::new(Arc::new(config_of_server)).unwrap();
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking());
    Ok(())
}

fn both(trust: impl Fn() -> UpstreamTrust, server: &Made, name: &'static str) -> Result<(), Error> {
    handshake(trust(), server, &[], name, &rustls::version::TLS12)?;
    handshake(trust(), server, &[], name, &rustls::version::TLS13)
}

#[test]
fn a_listed_certificate_is_trusted_for_its_names() {
    for is_ca in [ca(), IsCa::NoCa, IsCa::ExplicitNoCa] {
        let server = made(&params(&["a.test", "*.wild.test", "127.0.0.1"], is_ca));
        let trust = || UpstreamTrust::Authorities(vec![server.der.clone()]);
        for name in ["a.test", "b.wild.test", "127.0.0.1"] {
            both(trust, &server, name).unwrap();
        }
        for name in ["b.test", "common.test", "127.0.0.2"] {
            let error = both(trust, &server, name).unwrap_err();
            assert!(error.to_string().contains("not valid for name"), "{name}: {error}");
        }
    }
}

#[test]
fn without_alternative_names_the_common_name_counts() {
    for server in [made(&params(&[], ca())), first_version()] {
        let trust = || UpstreamTrust::Authorities(vec![server.der.clone()]);
        both(trust, &server, "common.test").unwrap();
        both(trust, &server, "Common.Test").unwrap();
        both(trust, &server, "a.test").unwrap_err();
    }
}

#[test]
fn version_1_is_accepted_with_a_pin_or_unverified() {
    let server = first_version();
    let pin = pin_of(&server.der).unwrap();
    both(|| UpstreamTrust::Pins(vec![pin]), &server, "a.test").unwrap();
    both(|| UpstreamTrust::Nothing, &server, "a.test").unwrap();
    let error = both(|| UpstreamTrust::Pins(vec![[0; 32]]), &server, "a.test").unwrap_err();
    assert!(matches!(error, Error::InvalidCertificate(_)));
}

#[test]
fn a_listed_certificate_needs_its_private_key() {
    for real in [first_version(), made(&params(&["a.test"], ca()))] {
        let thief = Made { der: real.der.clone(), key: first_version().key };
        let pin = pin_of(&real.der).unwrap();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            for trust in
                [UpstreamTrust::Pins(vec![pin]), UpstreamTrust::Authorities(vec![real.der.clone()])]
            {
                handshake(trust, &thief, &[], "common.test", version).unwrap_err();
            }
        }
    }
}

#[test]
fn a_listed_certificate_must_be_within_its_validity() {
    let mut old = params(&["a.test"], ca());
    old.not_after = date_time_ymd(2020, 1, 1);
    let old = made(&old);
    let error =
        both(|| UpstreamTrust::Authorities(vec![old.der.clone()]), &old, "a.test").unwrap_err();
    assert_eq!(error, CertificateError::Expired.into());
    let mut new = params(&["a.test"], ca());
    new.not_before = date_time_ymd(2099, 1, 1);
    let new = made(&new);
    let error =
        both(|| UpstreamTrust::Authorities(vec![new.der.clone()]), &new, "a.test").unwrap_err();
    assert_eq!(error, CertificateError::NotValidYet.into());
}

#[test]
fn only_an_authority_may_issue() {
    for (is_ca, allowed) in [(ca(), true), (IsCa::NoCa, false), (IsCa::ExplicitNoCa, false)] {
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params(&["ca.test"], is_ca), key).unwrap();
        let key = KeyPair::generate().unwrap();
        let der = params(&["a.test"], IsCa::NoCa).signed_by(&key, &issuer).unwrap().der().clone();
        let server = Made { der, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() };
        let listed: &CertificateDer<'static> = issuer.der();
        let result = both(|| UpstreamTrust::Authorities(vec![listed.clone()]), &server, "a.test");
        assert_eq!(result.is_ok(), allowed, "{result:?}");
        // Listing the certificate itself is always enough.
        both(|| UpstreamTrust::Authorities(vec![server.der.clone()]), &server, "a.test").unwrap();
    }
}

#[test]
fn another_certificate_of_the_same_key_and_names_is_not_the_listed_one() {
    let key = KeyPair::generate().unwrap();
    let mut params = params(&["a.test"], ca());
    let listed = params.self_signed(&key).unwrap().der().clone();
    params.serial_number = Some(rcgen::SerialNumber::from(7_u64));
    let shown = params.self_signed(&key).unwrap().der().clone();
    let server = Made { der: shown, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() };
    let error =
        both(|| UpstreamTrust::Authorities(vec![listed.clone()]), &server, "a.test").unwrap_err();
    assert_eq!(error, CertificateError::UnknownIssuer.into());
}

#[test]
fn lists_a_damaged_certificate() {
    let good = made(&params(&[], ca())).der;
    let bad = CertificateDer::from(vec![1, 2, 3]);
    let error = Listed::new(vec![good, bad]).err().unwrap();
    assert_eq!(error, "certificate 2 of the file is damaged");
}

#[test]
fn validity_is_checked_at_the_given_time() {
    let server = made(&params(&["a.test"], ca()));
    let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    verify_validity(&server.der, at(1_800_000_000)).unwrap();
    verify_validity(&server.der, at(1)).unwrap_err();
}
