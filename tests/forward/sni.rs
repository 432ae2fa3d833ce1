//! Comparison of the server name in TLS with the host of the CONNECT request.

use std::sync::Arc;
use std::thread;

use rustls::client::{EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};

use crate::raw_conn::{IO_TIMEOUT, RawConn, text};
use crate::tls::{client_config, client_with, server_with};
use crate::world::{Setup, World};

const STRICT: Setup = Setup {
    forward: "",
    hosts: "",
    limits: "",
    timeouts: "client-hello = \"1s\"",
    listener: "",
    rules: r#"
[[forward.rule]]
name = "facebook"
clients = ["127.0.0.0/8"]
allow = ["graph.facebook.com", "*.fbcdn.net"]
ports = [PORT]
connect-ports = [PORT]
private-networks = ["127.0.0.0/8"]
sni = { mismatch = "refuse", missing = "refuse", not-tls = "refuse" }
"#,
};

/// The ClientHello for `name`, with a post-quantum key share.
fn hello(name: &'static str) -> Vec<u8> {
    let mut tls = ClientConnection::new(client_config(None), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same message in records of `size` bytes each.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let pieces = hello[5..].chunks(size);
    pieces
        .flat_map(|piece| {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            [&hello[..3], &length[..], piece].concat()
        })
        .collect()
}

fn open_tunnel(world: &World) -> (RawConn, RawConn) {
    world.tunnel("graph.facebook.com")
}

#[test]
fn a_client_hello_with_the_right_name_passes_unchanged() {
    let world = World::with(STRICT);
    let whole = hello("graph.facebook.com");
    for sent in [whole.clone(), in_records(&whole, 7), in_records(&whole, 400)] {
        let (mut client, mut origin) = open_tunnel(&world);
        client.send(&sent);
        assert_eq!(origin.take(sent.len()), sent);
    }
    // One byte at a time; the last write also contains bytes behind the ClientHello.
    let (mut client, mut origin) = open_tunnel(&world);
    let (last, first) = whole.split_last().unwrap();
    for byte in first {
        client.send([*byte]);
    }
    assert!(origin.input.is_empty());
    client.send([&[*last][..], b"and more"].concat());
    assert_eq!(origin.take(whole.len()), whole);
    origin.expect("and more");
    let mut world = world;
    let local = client.local();
    drop((client, origin));
    assert_eq!(world.lines_of(local, 1)[0]["sni"], "graph.facebook.com");
}

#[test]
fn other_first_bytes_close_the_tunnel_and_never_reach_the_origin() {
    let mut world = World::with(STRICT);
    let whole = hello("graph.facebook.com");
    let garbage: Vec<u8> = [&whole[..5], &[0xff; 600]].concat();
    let cases: [(Vec<u8>, &str, bool); 6] = [
        (hello("evil.example"), "egress_sni_mismatch", true),
        (hello("facebook.com"), "egress_sni_mismatch", true),
        // rustls sends no SNI for an IP address.
        (hello("192.0.2.1"), "egress_sni_missing", true),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "egress_not_tls", false),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "egress_not_tls", false),
        (garbage, "egress_bad_hello", false),
    ];
    for (sent, reason, alerted) in cases {
        let (mut client, mut origin) = open_tunnel(&world);
        client.send(&sent);
        client.end();
        let alert = [21, 3, 3, 0, 2, 2, 112];
        assert_eq!(client.input, if alerted { &alert[..] } else { &[] }, "{reason}");
        origin.end();
        assert!(origin.input.is_empty(), "{reason}: {}", text(&origin.input));
        let line = world.lines_of(client.local(), 1).remove(0);
        assert_eq!(line["reason"], reason);
        assert_eq!(line["close_reason"], "rejected");
        assert_eq!(line["status"], 200);
    }
}

#[test]
fn a_slow_or_missing_client_hello_times_out() {
    let mut world = World::with(STRICT);
    let (mut silent, _origin) = open_tunnel(&world);
    let (mut dripping, mut origin) = open_tunnel(&world);
    let whole = hello("graph.facebook.com");
    dripping.send(&whole[..whole.len() / 2]);
    silent.end();
    dripping.end();
    origin.end();
    assert!(origin.input.is_empty());
    for local in [silent.local(), dripping.local()] {
        assert_eq!(world.lines_of(local, 1)[0]["reason"], "egress_hello_timeout");
    }
    // A ClientHello that ends half way is malformed.
    let (mut half, mut origin) = open_tunnel(&world);
    half.send(&whole[..9]);
    half.finish();
    origin.end();
    assert_eq!(world.lines_of(half.local(), 1)[0]["reason"], "egress_bad_hello");
    assert!(IO_TIMEOUT.as_secs() > 1);
}

#[test]
fn a_mismatch_may_be_allowed_and_logged() {
    let rules: &'static str =
        STRICT.rules.replace("mismatch = \"refuse\"", "mismatch = \"log\"").leak();
    let mut world = World::with(Setup { rules, ..STRICT });
    let (mut client, mut origin) = open_tunnel(&world);
    let sent = hello("video.xx.fbcdn.net");
    client.send(&sent);
    assert_eq!(origin.take(sent.len()), sent);
    let local = client.local();
    drop((client, origin));
    let line = world.lines_of(local, 1).remove(0);
    assert_eq!(line["reason"], "egress_sni_mismatch");
    assert_eq!(line["sni"], "video.xx.fbcdn.net");
    assert_eq!(line["close_reason"], "client_closed");
}

/// A `HelloRetryRequest` for X25519 (RFC 8446 section 4.1.4).
fn retry_request() -> Vec<u8> {
    let random = [
        0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8,
        0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8,
        0x33, 0x9c,
    ];
    let end = [0, 0x13, 0x01, 0, 0, 12, 0, 43, 0, 2, 3, 4, 0, 51, 0, 2, 0, 29];
    let body = [&[3, 3][..], &random, &end].concat();
    let length = u8::try_from(body.len()).unwrap();
    [&[22, 3, 3, 0, length + 4, 2, 0, 0, length][..], &body].concat()
}

#[test]
fn the_second_client_hello_is_checked_too() {
    let mut world = World::with(STRICT);
    let (good, evil) = (hello("graph.facebook.com"), hello("evil.example"));
    let retry = retry_request();
    let alert = [21, 3, 3, 0, 2, 2, 112];
    for (early, cut) in [(false, 0), (false, 3), (true, 0)] {
        let (mut client, mut origin) = open_tunnel(&world);
        client.send(&good);
        if early {
            // A client that expects a HelloRetryRequest.
            client.send(&evil);
        }
        assert_eq!(origin.take(good.len()), good);
        origin.send(&retry[..retry.len() - cut]);
        origin.send(&retry[retry.len() - cut..]);
        assert_eq!(client.take(retry.len()), retry);
        if !early {
            client.send([20, 3, 3, 0, 1, 1]);
            client.send(&evil);
            assert_eq!(origin.take(6), [20, 3, 3, 0, 1, 1]);
        }
        assert_eq!(client.take(alert.len()), alert);
        client.end();
        origin.end();
        assert!(origin.input.is_empty(), "{:x?}", origin.input);
        let line = world.lines_of(client.local(), 1).remove(0);
        assert_eq!(line["reason"], "egress_sni_mismatch");
        assert_eq!((&line["close_reason"], &line["status"]), (&"rejected".into(), &200.into()));
        assert!(line["error"].as_str().unwrap().ends_with("names evil.example"), "{line}");
    }
    // A second ClientHello with the same name passes, and so do the bytes behind it.
    let (mut client, mut origin) = open_tunnel(&world);
    client.send(&good);
    assert_eq!(origin.take(good.len()), good);
    origin.send(&retry);
    client.send([&good[..], b"and more"].concat());
    assert_eq!(origin.take(good.len()), good);
    origin.expect("and more");
    assert_eq!(client.take(retry.len()), retry);
    origin.send("back");
    client.expect("back");
    let local = client.local();
    drop((client, origin));
    let line = world.lines_of(local, 1).remove(0);
    assert_eq!(line["request_bytes"], 2 * good.len() + 8);
    assert_eq!(line["response_bytes"], retry.len() + 4);
}

#[test]
fn a_message_behind_the_client_hello_in_one_record_is_rejected() {
    let mut world = World::with(STRICT);
    let (good, evil) = (hello("graph.facebook.com"), hello("evil.example"));
    let both = [&good[5..], &evil[5..]].concat();
    let length = u16::try_from(both.len()).unwrap().to_be_bytes();
    let (mut client, mut origin) = open_tunnel(&world);
    client.send([&[22, 3, 1][..], &length, &both].concat());
    client.end();
    origin.end();
    assert!(origin.input.is_empty());
    assert_eq!(world.lines_of(client.local(), 1)[0]["reason"], "egress_bad_hello");
}

fn offering(groups: &[&'static dyn SupportedKxGroup]) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: groups.to_vec(), ..default_provider() })
}

#[test]
fn a_handshake_with_a_hello_retry_request_succeeds() {
    let world = World::with(STRICT);
    let (client, origin) = open_tunnel(&world);
    let serving = thread::spawn(move || {
        let mut origin = RawConn::server(
            server_with(offering(&[kx_group::X25519])),
            origin.tcp().try_clone().unwrap(),
        );
        origin.handshake().unwrap();
        origin.expect("ping");
        origin.send("pong");
        origin
    });
    // The client sends a key share of its first group; the server accepts only the second.
    let config = client_with(offering(&[kx_group::SECP256R1, kx_group::X25519]));
    let mut tls = ClientConnection::new(config, "graph.facebook.com".try_into().unwrap()).unwrap();
    let mut tcp = client.tcp().try_clone().unwrap();
    tcp.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).unwrap();
    }
    assert_eq!(tls.handshake_kind(), Some(HandshakeKind::FullWithHelloRetryRequest));
    let mut client = RawConn::client(tls, tcp);
    client.send("ping");
    client.expect("pong");
    drop(serving.join().unwrap());
}

#[test]
fn an_encrypted_client_hello_may_be_rejected_or_logged() {
    let sent = {
        let (public, _) = hpke().generate_key_pair().unwrap();
        let grease = EchMode::Grease(EchGreaseConfig::new(hpke(), public));
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_ech(grease)
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = "graph.facebook.com".try_into().unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        tls.write_tls(&mut bytes).unwrap();
        bytes
    };
    for (act, end) in [("refuse", "rejected"), ("log", "client_closed"), ("allow", "client_closed")]
    {
        let rules = STRICT.rules.replace("not-tls =", &format!("ech = \"{act}\", not-tls ="));
        let mut world = World::with(Setup { rules: rules.leak(), ..STRICT });
        let (mut client, mut origin) = open_tunnel(&world);
        client.send(&sent);
        if act == "refuse" {
            client.end();
            origin.end();
            assert!(origin.input.is_empty());
        } else {
            assert_eq!(origin.take(sent.len()), sent);
        }
        let local = client.local();
        drop((client, origin));
        let line = world.lines_of(local, 1).remove(0);
        assert_eq!(line["close_reason"], end);
        let reason = if act == "allow" { serde_json::Value::Null } else { "egress_ech".into() };
        assert_eq!(line["reason"], reason, "{act}");
    }
}

fn hpke() -> &'static dyn rustls::crypto::hpke::Hpke {
    rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128
}
