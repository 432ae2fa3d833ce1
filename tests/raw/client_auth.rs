//! A reload that changes the CAs of client certificates also applies to open connections.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use app_gateway::base64;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rustls::ClientConfig;
use rustls_pki_types::PrivateKeyDer;

use crate::http2_client::{END_HEADERS, END_STREAM, Http2Client};
use crate::raw_conn::{ConnEnd, RawConn, text};
use crate::world::{Setup, World, trusting};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
/// The table that follows the keys of the listener in the file; new keys are inserted before it.
const NEXT: &str = "[[profile.edge.route]]";

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A TLS client with a certificate of this CA.
    fn client(&self, protocol: &[u8]) -> Arc<ClientConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config =
            trusting().with_client_auth_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }
}

/// Writes a file with the certificates of these CAs and returns its name.
fn ca_file(name: &str, authorities: &[&Authority]) -> String {
    let name = format!("{name}-{}.pem", std::process::id());
    let ca_file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&ca_file, authorities.iter().map(|one| one.0.pem()).collect::<String>()).unwrap();
    ca_file.display().to_string()
}

fn require_client_ca(world: &World, ca_file: &str) {
    world.rewrite(NEXT, &format!("client-ca = \"{ca_file}\"\n{NEXT}"));
}

/// Asserts that one request is answered.
fn assert_served(world: &World, client: &mut RawConn) {
    client.send(GET);
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(format!("{}Connection: close\r\n\r\nok", &OK[..OK.len() - 4]));
    assert_eq!(client.answer().status(), 200);
}

#[test]
fn a_reload_that_requires_client_certificates_closes_connections_without_one() {
    let authority = Authority::new("clients");
    let mut world = World::plain();
    let (mut idle, mut halfway) = (world.client(), world.client());
    assert_served(&world, &mut idle);
    let mut idle_h2 = Http2Client::client(&world);
    let stream = idle_h2.get("/");
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send(OK);
    idle_h2.outcome(stream);
    let mut waiting = world.sent("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream.message(true);
    halfway.send("GET /later HTTP/1.1\r\nHost: a\r\n");
    world.rewrite("[profile.edge.limits]", "[profile.edge.limits]\nconnections = 9000");
    idle.is_silent();
    require_client_ca(&world, &ca_file("demanded", &[&authority]));

    assert_eq!(idle.end(), ConnEnd::Clean, "a kept connection");
    assert!(idle.input.is_empty());
    let goaway = 7;
    while idle_h2.next().0 != goaway {}
    // The request that was pending is answered, and the connection then closes.
    upstream.send(OK);
    let answer = waiting.answer();
    assert_eq!((answer.status(), answer.field("connection").as_deref()), (200, Some("close")));
    assert_eq!(waiting.end(), ConnEnd::Clean);
    // A request that arrives after the reload is rejected.
    halfway.send("\r\n");
    halfway.refused(421, "handshake_outdated");
    assert_eq!(halfway.end(), ConnEnd::Clean);
    let line = world.lines_of(halfway.local(), 1).remove(0);
    assert_eq!((&line["path"], &line["flags"]), (&"/later".into(), &"AC".into()));

    let mut without = World::over(world.tcp(), b"http/1.1");
    // In TLS 1.3 the client may complete its handshake before the server has checked the
    // certificate.
    let _ = without.handshake().and_then(|()| without.try_send(GET.as_bytes()));
    without.end();
    assert!(without.input.is_empty());
    let mut with = World::tls_client_with(world.tcp(), authority.client(b"http/1.1"));
    with.send(GET);
    upstream.message(true);
    upstream.send(OK);
    assert_eq!(with.answer().status(), 200);
}

#[test]
fn adding_a_ca_closes_no_connection_and_removing_one_does() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let (one, both) = (ca_file("one", &[&first]), ca_file("both", &[&second, &first]));
    let (other, off) = (ca_file("other", &[&second]), "\n");
    let world = World::plain();
    require_client_ca(&world, &one);
    let mut client = World::tls_client_with(world.tcp(), first.client(b"http/1.1"));
    assert_served(&world, &mut client);
    let key = |ca_file: &str| format!("client-ca = \"{ca_file}\"\n");
    world.rewrite(&key(&one), &key(&both));
    assert_served(&world, &mut client);
    // A client certificate that is no longer requested does no harm.
    world.rewrite(&key(&both), off);
    assert_served(&world, &mut client);
    world.rewrite(&format!("{off}{NEXT}"), &format!("{off}{}{NEXT}", key(&other)));
    assert_eq!(client.end(), ConnEnd::Clean);
    let mut client = World::tls_client_with(world.tcp(), second.client(b"http/1.1"));
    assert_served(&world, &mut client);
}

#[test]
fn websockets_without_a_certificate_get_a_close_frame() {
    const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let authority = Authority::new("clients");
    let ca_file = ca_file("websockets", &[&authority]);
    let listener = format!("client-certificate = \"optional\"\nclient-ca = \"{ca_file}\"");
    let mut world = World::with(Setup { listener: listener.leak(), ..Setup::default() });
    let mut open = Vec::new();
    for conn in [
        World::over(world.tcp(), b"http/1.1"),
        World::tls_client_with(world.tcp(), authority.client(b"http/1.1")),
    ] {
        let mut client = conn;
        client.send(UPGRADE);
        let mut upstream = world.accept();
        upstream.message(true);
        upstream.send(SWITCH);
        client.answered(101);
        open.push((client, upstream));
    }
    world.rewrite("client-certificate = \"optional\"\n", "");
    let (mut client, mut upstream) = open.swap_remove(0);
    let said = b"\x88\x14\x03\xe9handshake_outdated";
    assert_eq!(client.take(said.len()), said, "it has shown no certificate");
    upstream.take(2 + 4 + 20);
    client.send(b"\x88\x82\0\0\0\0\x03\xe9");
    upstream.send(b"\x88\x02\x03\xe9");
    assert_eq!((client.end(), upstream.end()), (ConnEnd::Clean, ConnEnd::Clean));
    let line = world.lines_of(client.local(), 1).remove(0);
    assert_eq!((&line["close_reason"], &line["close_code"]), (&"policy".into(), &1001.into()));
    let (mut client, mut upstream) = open.remove(0);
    client.send(b"\x82\x82\0\0\0\0up");
    assert!(text(&upstream.take(8)).ends_with("up"), "it has shown one");
}

#[test]
fn websockets_over_http2_without_a_certificate_are_closed_with_their_connection() {
    const CONNECT: &[(&str, &str)] = &[
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "a"),
        (":path", "/ws"),
        ("sec-websocket-version", "13"),
    ];
    let authority = Authority::new("clients");
    let mut world = World::plain();
    let mut client = Http2Client::client(&world);
    let stream = client.open(CONNECT, END_HEADERS);
    let mut upstream = world.accept();
    let key = upstream.message(true).field("sec-websocket-key").unwrap();
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = base64::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref());
    upstream.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n\x01\x02hi"
    ));
    let (data, goaway) = (0, 7);
    let said = |client: &mut Http2Client, goes: &mut bool| loop {
        let (kind, _, on, payload) = client.next();
        *goes |= kind == goaway;
        if kind == data && on == stream && !payload.is_empty() {
            return payload;
        }
    };
    let mut goes = false;
    assert_eq!(said(&mut client, &mut goes), b"\x01\x02hi");
    assert!(!goes);
    require_client_ca(&world, &ca_file("over-http2", &[&authority]));
    assert_eq!(said(&mut client, &mut goes), b"\x88\x14\x03\xe9handshake_outdated");
    assert!(goes, "no stream may be opened any more");
    upstream.take(2 + 4 + 20);
    client.data(stream, b"\x88\x82\0\0\0\0\x03\xe9", END_STREAM);
    upstream.send(b"\x88\x02\x03\xe9");
    assert_eq!(upstream.end(), ConnEnd::Clean);
    let log = world.log();
    world.wait("the line", |world| world.log().contains("\"close_reason\":\"policy\""));
    assert!(!log.contains("421"));
}
