//! TLS between client and proxy, and what the tests need of TLS elsewhere.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::wire::{Wire, text};
use crate::world::{Setup, World, certificates};

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The origin's end of a connection, with the demo's certificate.
pub(crate) fn as_origin(wire: &Wire) -> Wire {
    try_as_origin(wire).unwrap()
}

pub(crate) fn try_as_origin(wire: &Wire) -> std::io::Result<Wire> {
    let pair = &certificates().components;
    let chain = CertificateDer::pem_file_iter(&pair.chain).unwrap().map(Result::unwrap).collect();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&pair.key).unwrap())
        .unwrap();
    let tls = ServerConnection::new(Arc::new(config)).unwrap();
    let mut wire = Wire::server(tls, wire.tcp().try_clone().unwrap());
    wire.handshake()?;
    Ok(wire)
}

/// What a client trusts, and shows.
pub(crate) fn client_config(
    shown: Option<(CertificateDer<'static>, &KeyPair)>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificates().ca).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match shown {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    })
}

fn over_tls(world: &World, config: Arc<ClientConfig>) -> std::io::Result<Wire> {
    let tls = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let tcp = std::net::TcpStream::connect(world.listen).unwrap();
    let mut wire = Wire::client(tls, tcp);
    wire.handshake()?;
    Ok(wire)
}

const SECURED: Setup = Setup {
    forward: "",
    hosts: "",
    limits: "",
    timeouts: "",
    listener: "certificates = [\"own\"]",
    rules: crate::world::FACEBOOK,
};

#[test]
fn a_client_may_speak_tls_to_the_proxy() {
    let world = World::with(SECURED);
    let mut client = over_tls(&world, client_config(None)).unwrap();
    client.send(format!("CONNECT graph.facebook.com:{} HTTP/1.1\r\nHost: a\r\n\r\n", world.port()));
    assert!(text(&client.head()).starts_with("HTTP/1.1 200 "));
    let mut origin = world.accept();
    let data = vec![b'x'; 3 << 20];
    let sent = data.clone();
    let reading = std::thread::spawn(move || {
        let got = origin.take(sent.len());
        origin.send("thanks");
        got == sent
    });
    client.send(&data);
    client.expect("thanks");
    assert!(reading.join().unwrap());
    client.end();
    drop(client);
    // Somebody who does not is told so.
    let mut plain = world.sent("CONNECT graph.facebook.com:PORT HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = plain.answer();
    assert_eq!(answer.field("gateway-reason").as_deref(), Some("plain_http_on_tls_port"));
    drop(plain);
    world.ends_with(&["tunnel CONNECT 200 upstream_closed", "refused 400 plain_http_on_tls_port"]);
}

#[test]
fn a_rule_may_be_for_the_name_in_a_client_certificate() {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        (params.signed_by(&key, &ca).unwrap(), key)
    };
    let setup = Setup {
        listener: "certificates = [\"own\"]\nclient-ca = \"DIR/clients.pem\"",
        rules: r#"
[[forward.rule]]
name = "files"
client-names = ["file-engine"]
allow = ["graph.facebook.com"]
ports = [PORT]
addresses = ["127.0.0.0/8"]
"#,
        ..Setup::default()
    };
    let world = World::prepared(setup, |dir| {
        std::fs::write(dir.join("clients.pem"), ca.pem()).unwrap();
    });
    for (name, status) in [("file-engine", "200"), ("somebody-else", "403")] {
        let (certificate, key) = issue(name);
        let config = client_config(Some((certificate.der().clone(), &key)));
        let mut client = over_tls(&world, config).unwrap();
        let port = world.port();
        client.send(format!("CONNECT graph.facebook.com:{port} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(text(&client.head()).starts_with(&format!("HTTP/1.1 {status} ")), "{name}");
    }
    let mut nobody = over_tls(&world, client_config(None)).unwrap();
    nobody.end();
}
