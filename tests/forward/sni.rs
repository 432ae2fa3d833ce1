//! The name inside TLS has to be the one the tunnel was asked for.

use rustls::ClientConnection;

use crate::tls::client_config;
use crate::wire::{PATIENCE, Wire, text};
use crate::world::{Setup, World};

const STRICT: Setup = Setup {
    forward: "",
    hosts: "",
    limits: "",
    timeouts: "hello = \"1s\"",
    listener: "",
    rules: r#"
[[forward.rule]]
name = "facebook"
clients = ["127.0.0.0/8"]
allow = ["graph.facebook.com", "*.fbcdn.net"]
ports = [PORT]
addresses = ["127.0.0.0/8"]
sni = { mismatch = "refuse", missing = "refuse", not-tls = "refuse" }
"#,
};

/// The first message of a client that wants to speak to `name`, post-quantum key share included.
fn hello(name: &'static str) -> Vec<u8> {
    let mut tls = ClientConnection::new(client_config(None), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same message, in records of this many bytes each.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let pieces = hello[5..].chunks(size);
    pieces
        .flat_map(|piece| {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            [&hello[..3], &length[..], piece].concat()
        })
        .collect()
}

fn opened(world: &World) -> (Wire, Wire) {
    world.tunnel("graph.facebook.com")
}

#[test]
fn a_hello_with_the_right_name_passes_byte_for_byte_however_it_comes() {
    let world = World::with(STRICT);
    let whole = hello("graph.facebook.com");
    for sent in [whole.clone(), in_records(&whole, 7), in_records(&whole, 400)] {
        let (mut client, mut origin) = opened(&world);
        client.send(&sent);
        assert_eq!(origin.take(sent.len()), sent);
    }
    // A byte at a time, with what follows it in the last piece.
    let (mut client, mut origin) = opened(&world);
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
fn everything_else_is_closed_before_the_origin_has_a_byte_of_it() {
    let mut world = World::with(STRICT);
    let whole = hello("graph.facebook.com");
    let garbage: Vec<u8> = [&whole[..5], &[0xff; 600]].concat();
    let cases: [(Vec<u8>, &str, bool); 6] = [
        (hello("evil.example"), "egress_sni_mismatch", true),
        (hello("facebook.com"), "egress_sni_mismatch", true),
        // rustls sends no name for an address.
        (hello("192.0.2.1"), "egress_sni_missing", true),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "egress_not_tls", false),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "egress_not_tls", false),
        (garbage, "egress_bad_hello", false),
    ];
    for (sent, reason, alerted) in cases {
        let (mut client, mut origin) = opened(&world);
        client.send(&sent);
        client.end();
        let alert = [21, 3, 3, 0, 2, 2, 112];
        assert_eq!(client.input, if alerted { &alert[..] } else { &[] }, "{reason}");
        origin.end();
        assert!(origin.input.is_empty(), "{reason}: {}", text(&origin.input));
        let line = world.lines_of(client.local(), 1).remove(0);
        assert_eq!(line["reason"], reason);
        assert_eq!(line["end"], "refused");
        assert_eq!(line["status"], 200);
    }
}

#[test]
fn a_hello_that_drips_or_never_comes_is_waited_for_once() {
    let mut world = World::with(STRICT);
    let (mut silent, _origin) = opened(&world);
    let (mut dripping, mut origin) = opened(&world);
    let whole = hello("graph.facebook.com");
    dripping.send(&whole[..whole.len() / 2]);
    silent.end();
    dripping.end();
    origin.end();
    assert!(origin.input.is_empty());
    for local in [silent.local(), dripping.local()] {
        assert_eq!(world.lines_of(local, 1)[0]["reason"], "egress_hello_timeout");
    }
    // Half a hello and then the end is none.
    let (mut half, mut origin) = opened(&world);
    half.send(&whole[..9]);
    half.finish();
    origin.end();
    assert_eq!(world.lines_of(half.local(), 1)[0]["reason"], "egress_bad_hello");
    assert!(PATIENCE.as_secs() > 1);
}

#[test]
fn a_setting_may_let_it_pass_and_have_it_logged() {
    let rules: &'static str =
        STRICT.rules.replace("mismatch = \"refuse\"", "mismatch = \"log\"").leak();
    let mut world = World::with(Setup { rules, ..STRICT });
    let (mut client, mut origin) = opened(&world);
    let sent = hello("video.xx.fbcdn.net");
    client.send(&sent);
    assert_eq!(origin.take(sent.len()), sent);
    let local = client.local();
    drop((client, origin));
    let line = world.lines_of(local, 1).remove(0);
    assert_eq!(line["reason"], "egress_sni_mismatch");
    assert_eq!(line["sni"], "video.xx.fbcdn.net");
    assert_eq!(line["end"], "client_closed");
}
