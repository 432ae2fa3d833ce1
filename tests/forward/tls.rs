//! TLS between client and proxy, and helpers for TLS in other tests.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::raw_conn::{RawConn, text};
use crate::world::{Setup, World, certificates};

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The origin's end of a connection, as a TLS server with the demo's certificate.
pub(crate) fn as_origin(conn: &RawConn) -> RawConn {
    try_as_origin(conn).unwrap()
}

pub(crate) fn try_as_origin(conn: &RawConn) -> std::io::Result<RawConn> {
    let mut conn = RawConn::server(server_with(provider()), conn.tcp().try_clone().unwrap());
    conn.handshake()?;
    Ok(conn)
}

/// A TLS server with the demo's certificate.
pub(crate) fn server_with(provider: Arc<rustls::crypto::CryptoProvider>) -> ServerConnection {
    let pair = &certificates().components;
    let chain = CertificateDer::pem_file_iter(&pair.chain).unwrap().map(Result::unwrap).collect();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&pair.key).unwrap())
        .unwrap();
    ServerConnection::new(Arc::new(config)).unwrap()
}

/// A TLS client that accepts any certificate.
pub(crate) fn client_with(provider: Arc<rustls::crypto::CryptoProvider>) -> Arc<ClientConfig> {
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS client that trusts the gateway's CA and optionally has a client certificate.
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

fn over_tls(world: &World, config: Arc<ClientConfig>) -> std::io::Result<RawConn> {
    let tls = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let tcp = std::net::TcpStream::connect(world.listen).unwrap();
    let mut conn = RawConn::client(tls, tcp);
    conn.handshake()?;
    Ok(conn)
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
fn a_client_may_use_tls_to_the_proxy() {
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
    // A client without TLS is answered in plain HTTP.
    let mut plain = world.sent("CONNECT graph.facebook.com:PORT HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = plain.answer();
    assert_eq!(answer.field("gateway-reason").as_deref(), Some("plain_http_on_tls_port"));
    drop(plain);
    world.ends_with(&["tunnel CONNECT 200 upstream_closed", "rejected 400 plain_http_on_tls_port"]);
}

/// A CA of client certificates.
fn client_ca() -> CertifiedIssuer<'static, KeyPair> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap()
}

/// A TLS client with a certificate for this name.
fn named(name: &str, ca: &CertifiedIssuer<'static, KeyPair>) -> Arc<ClientConfig> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    let certificate = params.signed_by(&key, ca).unwrap();
    client_config(Some((certificate.der().clone(), &key)))
}

/// A rule for the component with a certificate for `file-engine`.
const FOR_FILES: &str = r#"
[[forward.rule]]
name = "files"
client-names = ["file-engine"]
allow = ["graph.facebook.com"]
ports = [PORT]
connect-ports = [PORT]
private-networks = ["127.0.0.0/8"]
"#;

#[test]
fn a_rule_may_name_a_client_certificate() {
    let ca = client_ca();
    let setup = Setup {
        listener: "certificates = [\"own\"]\nclient-ca = \"DIR/clients.pem\"",
        rules: FOR_FILES,
        ..Setup::default()
    };
    let world = World::prepared(setup, |dir| {
        std::fs::write(dir.join("clients.pem"), ca.pem()).unwrap();
    });
    for (name, status) in [("file-engine", "200"), ("somebody-else", "403")] {
        let mut client = over_tls(&world, named(name, &ca)).unwrap();
        let port = world.port();
        client.send(format!("CONNECT graph.facebook.com:{port} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(text(&client.head()).starts_with(&format!("HTTP/1.1 {status} ")), "{name}");
    }
    let mut nobody = over_tls(&world, client_config(None)).unwrap();
    nobody.end();
}

#[test]
fn removing_a_client_ca_closes_the_tunnels_of_its_clients() {
    let (first, second) = (client_ca(), client_ca());
    let setup = Setup {
        listener: "certificates = [\"own\"]\nclient-ca = \"DIR/first.pem\"",
        rules: FOR_FILES,
        ..Setup::default()
    };
    let mut world = World::prepared(setup, |dir| {
        std::fs::write(dir.join("first.pem"), first.pem()).unwrap();
        std::fs::write(dir.join("both.pem"), format!("{}{}", second.pem(), first.pem())).unwrap();
        std::fs::write(dir.join("second.pem"), second.pem()).unwrap();
    });
    let connect =
        format!("CONNECT graph.facebook.com:{} HTTP/1.1\r\nHost: a\r\n\r\n", world.port());
    let mut idle = over_tls(&world, named("file-engine", &first)).unwrap();
    let mut halfway = over_tls(&world, named("file-engine", &first)).unwrap();
    halfway.send(&connect[..20]);
    let mut client = over_tls(&world, named("file-engine", &first)).unwrap();
    client.send(&connect);
    assert!(text(&client.head()).starts_with("HTTP/1.1 200 "));
    let mut origin = world.accept();
    let listen = world.listen;
    let listener = "certificates = [\"own\"]\nclient-ca = \"DIR/both.pem\"";
    world.reload(Setup { listener, ..setup }, listen);
    client.send("up");
    origin.expect("up");
    idle.is_silent();
    let listener = "certificates = [\"own\"]\nclient-ca = \"DIR/second.pem\"";
    world.reload(Setup { listener, ..setup }, listen);
    client.end();
    origin.end();
    idle.end();
    assert_eq!(world.lines_of(client.local(), 1)[0]["close_reason"], "policy");
    halfway.send(&connect[20..]);
    let answer = halfway.answer();
    assert_eq!(answer.field("gateway-reason").as_deref(), Some("egress_handshake_outdated"));
    assert_eq!(answer.field("connection").as_deref(), Some("close"));
    let mut client = over_tls(&world, named("file-engine", &second)).unwrap();
    client.send(&connect);
    assert!(text(&client.head()).starts_with("HTTP/1.1 200 "));
}
