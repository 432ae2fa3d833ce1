use proptest::prelude::*;

use super::*;
use crate::tls::hello::ClientHello;

/// Builds a record of this type.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let size = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3], &size[..], content].concat()
}

/// Builds a handshake message of this type.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind][..], &size[1..], body].concat()
}

/// Builds a `ClientHello` for this name.
fn hello(name: &str) -> Vec<u8> {
    let size = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let entry = [&[0][..], &size(name.len()), name.as_bytes()].concat();
    let extension = [&[0, 0][..], &size(entry.len() + 2), &size(entry.len()), &entry].concat();
    let fixed = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0]].concat();
    message(1, &[&fixed[..], &size(extension.len()), &extension].concat())
}

/// Builds the server's first message, with this random.
fn server_hello(random: [u8; 32]) -> Vec<u8> {
    message(2, &[&[3, 3][..], &random, &[0; 40]].concat())
}

fn second(name: &str) -> Watch {
    Watch::Second(HelloProgress::Hello(ClientHello { sni: Some(name.to_owned()), ech: false }))
}

#[test]
fn the_second_hello_is_held_until_it_is_inspected() {
    let (mut watch, mut out) = (RetryWatch::new(), Vec::new());
    assert_eq!(watch.server(&record(22, &server_hello(RETRY_RANDOM)), &mut out), Watch::Going);
    let before = [record(20, &[1]), record(23, b"early")].concat();
    assert_eq!(watch.client(&before, &mut out), Watch::Going);
    assert_eq!(out, before, "what is no handshake passes");
    out.clear();
    let sent = record(22, &hello("b.example.com"));
    for byte in &sent[..sent.len() - 1] {
        assert_eq!(watch.client(&[*byte], &mut out), Watch::Going);
    }
    assert_eq!(watch.client(&sent[sent.len() - 1..], &mut out), second("b.example.com"));
    assert!(out.is_empty());
    watch.release(&mut out);
    assert_eq!(out, sent);
}

#[test]
fn a_hello_that_was_not_requested_is_held() {
    let sent = record(22, &hello("b.example.com"));
    // The server requests it after all; the client anticipated that.
    let (mut watch, mut out) = (RetryWatch::new(), Vec::new());
    assert_eq!(watch.client(&sent, &mut out), Watch::Going);
    assert!(watch.holds_client() && out.is_empty());
    let retry = record(22, &server_hello(RETRY_RANDOM));
    assert_eq!(watch.server(&retry, &mut out), second("b.example.com"));
    assert!(!watch.holds_client() && out.is_empty());
    // The server does not request it.
    let (mut watch, mut out) = (RetryWatch::new(), Vec::new());
    watch.client(&sent, &mut out);
    assert_eq!(watch.server(&record(22, &server_hello([9; 32])), &mut out), Watch::Over);
    assert_eq!(out, sent);
}

#[test]
fn server_messages_may_be_split_anywhere() {
    for (random, over) in [(RETRY_RANDOM, Watch::Going), ([9; 32], Watch::Over)] {
        let said = server_hello(random);
        for size in [1, 3, 37, 38, 1000] {
            let records: Vec<u8> = said.chunks(size).flat_map(|piece| record(22, piece)).collect();
            let (mut watch, mut out) = (RetryWatch::new(), Vec::new());
            let mut last = Watch::Going;
            for byte in &records {
                last = watch.server(&[*byte], &mut out);
                if last != Watch::Going {
                    break;
                }
            }
            assert_eq!((&last, watch.is_requested), (&over, random == RETRY_RANDOM), "{size}");
        }
    }
    for other in [
        record(21, &[2, 40]),
        record(22, &message(1, &[0; 60])),
        record(22, &[]),
        b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
    ] {
        assert_eq!(RetryWatch::new().server(&other, &mut Vec::new()), Watch::Over, "{other:?}");
    }
}

#[test]
fn early_data_is_limited() {
    let (mut watch, mut out) = (RetryWatch::new(), Vec::new());
    let early = record(23, &[0; 16_000]);
    let mut sent = 0;
    while !watch.holds_client() {
        assert_eq!(watch.client(&early, &mut out), Watch::Going);
        sent += early.len();
    }
    assert!(sent > EARLY_DATA_LIMIT && sent < EARLY_DATA_LIMIT + 2 * early.len());
    watch.server(&record(22, &server_hello(RETRY_RANDOM)), &mut out);
    assert!(!watch.holds_client());
    let mut last = Watch::Going;
    while last == Watch::Going {
        last = watch.client(&early, &mut out);
    }
    assert_eq!(last, Watch::Second(HelloProgress::TooLarge));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_bytes_never_panic_and_pass_in_order(
        steps in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..80)), 0..20,
        ),
    ) {
        let (mut watch, mut out, mut sent) = (RetryWatch::new(), Vec::new(), Vec::new());
        for (client, bytes) in &steps {
            let said = if *client {
                sent.extend_from_slice(bytes);
                watch.client(bytes, &mut out)
            } else {
                watch.server(bytes, &mut out)
            };
            if said != Watch::Going {
                break;
            }
        }
        watch.release(&mut out);
        prop_assert_eq!(out, sent);
    }
}
