use std::sync::Arc;

use proptest::prelude::*;
use rustls::client::{EchConfig, EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs;
use rustls::crypto::hpke::Hpke;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};
use rustls_pki_types::EchConfigListBytes;

use super::*;

/// The first flight of a rustls client.
fn flight(config: ClientConfig, name: &str) -> Vec<u8> {
    let name = name.to_owned().try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn config(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

/// A `ClientHello` of TLS 1.3 with a post-quantum key share, the longest kind in use.
fn post_quantum() -> Vec<u8> {
    let bytes = flight(config(&[&version::TLS13, &version::TLS12]), "graph.facebook.com");
    assert!(bytes.len() > 1400, "one packet would hold it: {}", bytes.len());
    bytes
}

/// Splits a message into records of `length` bytes.
fn cut_into_records(hello: &[u8], length: usize) -> Vec<u8> {
    let message = &hello[5..];
    let records = message.chunks(length).map(|part| {
        let size = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1, size[0], size[1]], part].concat()
    });
    records.collect::<Vec<_>>().concat()
}

/// Result of a reader that gets all bytes at once.
fn read(bytes: &[u8]) -> HelloProgress {
    HelloReader::new().feed(bytes)
}

/// Result of a reader that gets the bytes one by one.
fn drip(bytes: &[u8]) -> HelloProgress {
    let mut reader = HelloReader::new();
    let mut said = HelloProgress::NeedMore;
    for byte in bytes {
        said = reader.feed(&[*byte]);
        if said != HelloProgress::NeedMore {
            break;
        }
    }
    said
}

fn named(name: &str) -> HelloProgress {
    HelloProgress::Hello(ClientHello { sni: Some(name.to_owned()), ech: false })
}

/// Builds a `ClientHello` by hand, with these extensions.
fn with_extensions(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, content)| {
            let size = u16::try_from(content.len()).unwrap().to_be_bytes();
            [&kind.to_be_bytes()[..], &size, content].concat()
        })
        .collect();
    let size = u16::try_from(list.len()).unwrap().to_be_bytes();
    let fixed = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0]].concat();
    message(&[&fixed[..], &size, &list].concat())
}

/// Puts the body of a `ClientHello` into one record.
fn message(body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap().to_be_bytes();
    let record = u16::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[22, 3, 1][..], &record, &[1], &size[1..], body].concat()
}

/// Builds the content of a server name extension.
fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = names
        .iter()
        .flat_map(|(kind, name)| {
            let size = u16::try_from(name.len()).unwrap().to_be_bytes();
            [&[*kind][..], &size, name].concat()
        })
        .collect();
    [&u16::try_from(list.len()).unwrap().to_be_bytes()[..], &list].concat()
}

#[test]
fn reads_the_name_of_real_hellos() {
    assert_eq!(read(&post_quantum()), named("graph.facebook.com"));
    let old = flight(config(&[&version::TLS12]), "API.Twilio.com");
    assert_eq!(read(&old), named("api.twilio.com"));
    let dotted = with_extensions(&[(0, &names(&[(0, b"Example.COM.")]))]);
    assert_eq!(read(&dotted), named("example.com"));
}

#[test]
fn a_hello_may_arrive_byte_by_byte_and_in_any_number_of_records() {
    let hello = post_quantum();
    assert_eq!(drip(&hello), named("graph.facebook.com"));
    for length in [1, 2, 3, 4, 5, 100, 1000, 16_384] {
        let records = cut_into_records(&hello, length);
        assert_eq!(read(&records), named("graph.facebook.com"), "{length}");
        assert_eq!(drip(&records), named("graph.facebook.com"), "{length}");
    }
    for end in 0..hello.len() {
        assert_eq!(read(&hello[..end]), HelloProgress::NeedMore, "{end}");
    }
}

#[test]
fn bytes_after_the_hello_are_not_consumed() {
    let mut reader = HelloReader::new();
    let hello = [post_quantum(), vec![0xff; 100_000]].concat();
    assert_eq!(reader.feed(&hello), named("graph.facebook.com"));
    assert_eq!(reader.feed(b"anything"), named("graph.facebook.com"));
}

#[test]
fn a_hello_without_a_name_has_none() {
    let by_address = flight(config(&[&version::TLS13]), "192.0.2.1");
    let none = HelloProgress::Hello(ClientHello { sni: None, ech: false });
    assert_eq!(read(&by_address), none);
    assert_eq!(read(&with_extensions(&[])), none);
    let before_extensions = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0]].concat();
    assert_eq!(read(&message(&before_extensions)), none);
}

/// An ECH configuration of `front.example.net` (RFC 9849 section 4).
fn ech_of_front() -> EchMode {
    let name = b"front.example.net";
    let key = {
        let (public, _) = suite().generate_key_pair().unwrap();
        public.0
    };
    let contents = [
        &[9, 0, 0x20][..],
        &u16::try_from(key.len()).unwrap().to_be_bytes(),
        &key,
        &[0, 4, 0, 1, 0, 1],
        &[0, u8::try_from(name.len()).unwrap()],
        name,
        &[0, 0],
    ]
    .concat();
    let size = u16::try_from(contents.len()).unwrap().to_be_bytes();
    let entry = [&[0xfe, 0x0d][..], &size, &contents].concat();
    let size = u16::try_from(entry.len()).unwrap().to_be_bytes();
    let list = EchConfigListBytes::from([&size[..], &entry].concat());
    EchConfig::new(list, &[suite()]).unwrap().into()
}

fn suite() -> &'static dyn Hpke {
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128
}

fn with_ech(mode: EchMode) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_ech(mode)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

#[test]
fn an_encrypted_hello_has_the_name_of_its_outer_hello() {
    let hello = flight(with_ech(ech_of_front()), "hidden.example.com");
    let said = read(&hello);
    assert_eq!(
        said,
        HelloProgress::Hello(ClientHello { sni: Some("front.example.net".to_owned()), ech: true })
    );
}

#[test]
fn a_grease_encrypted_hello_keeps_its_name() {
    let (public, _) = suite().generate_key_pair().unwrap();
    let grease = EchMode::Grease(EchGreaseConfig::new(suite(), public));
    let said = read(&flight(with_ech(grease), "api.twilio.com"));
    assert_eq!(
        said,
        HelloProgress::Hello(ClientHello { sni: Some("api.twilio.com".to_owned()), ech: true })
    );
}

#[test]
fn other_protocols_are_detected_by_their_first_bytes() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x80\x2e\x01\x03\x01",
        b"\x00",
        b"\x15",
        b"\x16\x02",
        b"\x16GET /",
        b"\x17\x03\x03\x00\x10",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
    ] {
        assert_eq!(read(bytes), HelloProgress::NotTls, "{bytes:?}");
        assert_eq!(drip(bytes), HelloProgress::NotTls, "{bytes:?}");
    }
    assert_eq!(read(b""), HelloProgress::NeedMore);
}

#[test]
fn ambiguous_hellos_are_malformed() {
    let name = names(&[(0, b"a.example.com")]);
    let two = names(&[(0, b"a.example.com"), (0, b"b.example.com")]);
    let mut after = name.clone();
    after.push(0);
    let cases: &[(&str, Vec<u8>)] = &[
        ("the extension twice", with_extensions(&[(0, &name), (0, &name)])),
        ("two names", with_extensions(&[(0, &two)])),
        ("another kind of name", with_extensions(&[(0, &names(&[(1, b"a.example.com")]))])),
        ("no name", with_extensions(&[(0, &names(&[]))])),
        ("an empty name", with_extensions(&[(0, &names(&[(0, b"")]))])),
        ("a dot alone", with_extensions(&[(0, &names(&[(0, b".")]))])),
        ("a NUL", with_extensions(&[(0, &names(&[(0, b"a.example.com\0.evil.org")]))])),
        ("no ASCII", with_extensions(&[(0, &names(&[(0, "é.example.com".as_bytes())]))])),
        ("a long name", with_extensions(&[(0, &names(&[(0, &[b'a'; 254])]))])),
        ("something after it", with_extensions(&[(0, &after)])),
        ("a cut extension", with_extensions(&[(0, &name[..name.len() - 1])])),
        ("another message", [&[22, 3, 1, 0, 4, 2, 0, 0, 0][..]].concat()),
        ("an empty body", message(&[])),
        ("bytes after the extensions", {
            let mut body = with_extensions(&[(0, &name)])[9..].to_vec();
            body.push(0);
            message(&body)
        }),
        ("an alert in between", {
            let records = cut_into_records(&with_extensions(&[(0, &name)]), 20);
            [&records[..25], &[21, 3, 3, 0, 2, 1, 0], &records[25..]].concat()
        }),
        ("an empty record in between", {
            let records = cut_into_records(&with_extensions(&[(0, &name)]), 20);
            [&records[..25], &[22, 3, 3, 0, 0], &records[25..]].concat()
        }),
    ];
    for (what, bytes) in cases {
        assert_eq!(read(bytes), HelloProgress::Malformed, "{what}");
        assert_eq!(drip(bytes), HelloProgress::Malformed, "{what}");
    }
}

#[test]
fn the_length_of_a_hello_is_limited() {
    let announced = [22, 3, 1, 0x10, 0, 1, 0x01, 0, 0];
    assert_eq!(read(&announced), HelloProgress::TooLarge);
    // Within the limit by itself, but not if every byte has its own record header.
    let padding = vec![0; 4000];
    let hello = with_extensions(&[(21, &padding), (0, &names(&[(0, b"a.example.com")]))]);
    assert_eq!(read(&hello), named("a.example.com"));
    let records = cut_into_records(&hello, 1);
    assert!(records.len() > MAX_HELLO);
    assert_eq!(read(&records), HelloProgress::TooLarge);
    let mut reader = HelloReader::new();
    for part in records.chunks(100) {
        reader.feed(part);
        assert!(reader.message.capacity() <= 2 * MAX_HELLO);
    }
    assert!(reader.message.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_bytes_never_panic_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        read(&bytes);
        read(&[&[22, 3, 1][..], &bytes].concat());
        read(&message(&bytes));
    }

    #[test]
    fn a_modified_hello_never_panics_however_it_is_split(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cuts in proptest::collection::vec(1_usize..700, 1..8),
    ) {
        let mut bytes = with_extensions(&[
            (10, &[0, 2, 0, 29]), (0, &names(&[(0, b"graph.facebook.com")])), (0xfe0d, &[1; 40]),
        ]);
        for (at, byte) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        let whole = read(&bytes);
        let mut reader = HelloReader::new();
        let mut rest = bytes.as_slice();
        let mut said = HelloProgress::NeedMore;
        for cut in cuts.iter().cycle() {
            let (part, after) = rest.split_at((*cut).min(rest.len()));
            said = reader.feed(part);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(said, whole);
    }
}
