use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::v2::{MAX_TLV_VALUE, announce, announce_own};
use super::*;

/// Result of a reader that gets all bytes at once, and the number of bytes it consumed.
fn read(bytes: &[u8]) -> Result<(usize, Option<Header>), HeaderError> {
    HeaderReader::new().feed(bytes)
}

/// Result of a reader that gets the bytes one by one.
fn drip(bytes: &[u8]) -> Result<(usize, Option<Header>), HeaderError> {
    let mut reader = HeaderReader::new();
    for (at, byte) in bytes.iter().enumerate() {
        if let (consumed, Some(header)) = reader.feed(&[*byte])? {
            assert_eq!(consumed, 1);
            return Ok((at + 1, Some(header)));
        }
    }
    Ok((bytes.len(), None))
}

/// The origin of a complete header, checked for whole and split input.
fn origin(bytes: &[u8]) -> HeaderSource {
    let (consumed, header) = read(bytes).unwrap();
    let header = header.expect("a whole header");
    assert_eq!(consumed, bytes.len());
    assert_eq!(drip(bytes), Ok((consumed, Some(header.clone()))));
    header.origin
}

/// The error of an invalid header, checked for whole and split input. Bytes after the fault make no
/// difference.
fn fault(bytes: &[u8]) -> HeaderError {
    let fault = read(bytes).unwrap_err();
    assert_eq!(drip(bytes).unwrap_err(), fault, "{bytes:?}");
    fault
}

fn proxied(source: &str, destination: &str) -> HeaderSource {
    HeaderSource::Proxied {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

/// Builds a version 2 header by hand.
fn header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [v2::SIGNATURE, &[command, family], &length, block].concat()
}

/// An address block: 192.0.2.7:4660 to 198.51.100.9:443.
const IPV4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 9, 0x12, 0x34, 0x01, 0xbb];

fn with_fields(fields: &[u8]) -> Vec<u8> {
    header(0x21, 0x11, &[IPV4, fields].concat())
}

#[test]
fn version_1_says_who_connected() {
    let table = [
        (
            "PROXY TCP4 192.0.2.7 198.51.100.9 4660 443\r\n",
            proxied("192.0.2.7:4660", "198.51.100.9:443"),
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            proxied("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", proxied("0.0.0.0:0", "0.0.0.0:0")),
        (
            "PROXY TCP6 2001:DB8::1 2001:db8::2 1 2\r\n",
            proxied("[2001:db8::1]:1", "[2001:db8::2]:2"),
        ),
        (
            "PROXY TCP6 2001:0db8:0000:0000:0000:0000:0000:0001 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            proxied("[2001:db8::1]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        ),
        // The form that nginx writes for an IPv4 client on a dual-stack socket.
        (
            "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.9 1 2\r\n",
            proxied("[::ffff:192.0.2.7]:1", "[::ffff:198.51.100.9]:2"),
        ),
        ("PROXY UNKNOWN\r\n", HeaderSource::Unknown),
        ("PROXY UNKNOWN what\tever, even  two spaces\r\n", HeaderSource::Unknown),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            HeaderSource::Unknown,
        ),
    ];
    for (line, expected) in table {
        assert_eq!(origin(line.as_bytes()), expected, "{line}");
    }
}

#[test]
fn version_1_is_refused_unless_it_matches_exactly() {
    use HeaderError::{
        Address, Fields, LineEnd, LineTooLong, NotProxyProtocol, Port, Protocol, Tls,
    };
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(long.len(), v1::MAX_LINE + 1);
    let table = [
        ("GET / HTTP/1.1\r\n", NotProxyProtocol),
        ("PRI * HTTP/2.0\r\n", NotProxyProtocol),
        ("\x16\x03\x01", Tls),
        ("proxy TCP4 192.0.2.7 198.51.100.9 1 2\r\n", NotProxyProtocol),
        ("PROXY\tTCP4 192.0.2.7 198.51.100.9 1 2\r\n", NotProxyProtocol),
        ("PROXY\r\n", NotProxyProtocol),
        ("PROXY \r\n", Protocol),
        ("PROXY  TCP4 192.0.2.7 198.51.100.9 1 2\r\n", Protocol),
        ("PROXY TCP 192.0.2.7 198.51.100.9 1 2\r\n", Protocol),
        ("PROXY tcp4 192.0.2.7 198.51.100.9 1 2\r\n", Protocol),
        ("PROXY UDP4 192.0.2.7 198.51.100.9 1 2\r\n", Protocol),
        ("PROXY UNKNOWNS\r\n", Protocol),
        ("PROXY TCP4\r\n", Fields),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 1\r\n", Fields),
        ("PROXY TCP4  192.0.2.7 198.51.100.9 1 2\r\n", Fields),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 1 2 \r\n", Fields),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 1 2 3\r\n", Fields),
        ("PROXY TCP4 192.0.2.07 198.51.100.9 1 2\r\n", Address),
        ("PROXY TCP4 192.0.2.256 198.51.100.9 1 2\r\n", Address),
        ("PROXY TCP4 192.0.2 198.51.100.9 1 2\r\n", Address),
        ("PROXY TCP4 0xc0.0.2.7 198.51.100.9 1 2\r\n", Address),
        ("PROXY TCP4 3221225991 198.51.100.9 1 2\r\n", Address),
        ("PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", Address),
        ("PROXY TCP4 192.0.2.7 localhost 1 2\r\n", Address),
        ("PROXY TCP6 192.0.2.7 198.51.100.9 1 2\r\n", Address),
        ("PROXY TCP6 2001:db8::1%eth0 2001:db8::2 1 2\r\n", Address),
        ("PROXY TCP6 [2001:db8::1] 2001:db8::2 1 2\r\n", Address),
        ("PROXY TCP6 2001::db8::1 2001:db8::2 1 2\r\n", Address),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 01 2\r\n", Port),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 00 2\r\n", Port),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 +1 2\r\n", Port),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 -1 2\r\n", Port),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 1 65536\r\n", Port),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 1 99999999999999999999\r\n", Port),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 1 \u{0662}\r\n", Port),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 1 2\n", LineEnd),
        ("PROXY TCP4 192.0.2.7 198.51.100.9 1 2\r ", LineEnd),
        ("PROXY UNKNOWN\r\r\n", LineEnd),
        ("PROXY UNKNOWN\rPROXY UNKNOWN\r\n", LineEnd),
        (long.as_str(), LineTooLong),
    ];
    for (line, expected) in table {
        assert_eq!(fault(line.as_bytes()), expected, "{line:?}");
    }
}

#[test]
fn version_2_says_who_connected() {
    let ipv6 = [
        &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..],
        &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        &[0, 1, 0, 2],
    ]
    .concat();
    let table = [
        (header(0x21, 0x11, IPV4), proxied("192.0.2.7:4660", "198.51.100.9:443")),
        (header(0x21, 0x21, &ipv6), proxied("[2001:db8::1]:1", "[2001:db8::2]:2")),
        // A TCP connection cannot relay datagrams.
        (header(0x21, 0x12, IPV4), HeaderSource::Unknown),
        (header(0x21, 0x22, &ipv6), HeaderSource::Unknown),
        (header(0x21, 0x31, &[0; 216]), HeaderSource::Unknown),
        (header(0x21, 0x32, &[0; 216]), HeaderSource::Unknown),
        (header(0x21, 0x00, &[]), HeaderSource::Unknown),
        (header(0x21, 0x10, &[1, 2, 3]), HeaderSource::Unknown),
        (header(0x21, 0x01, IPV4), HeaderSource::Unknown),
        (header(0x20, 0x00, &[]), HeaderSource::Local),
        // Receivers discard everything after the command.
        (header(0x20, 0x11, IPV4), HeaderSource::Local),
        (header(0x20, 0xff, b"whatever"), HeaderSource::Local),
    ];
    for (bytes, expected) in table {
        assert_eq!(origin(&bytes), expected, "{bytes:?}");
    }
}

#[test]
fn version_2_is_refused_unless_it_matches_exactly() {
    use HeaderError::{
        Checksum, ChecksumForm, Command, Family, NoRoom, NotProxyProtocol, TlvCut, TooLong,
    };
    let mut damaged = Vec::new();
    let (source, destination) = ("192.0.2.7:1".parse().unwrap(), "192.0.2.8:2".parse().unwrap());
    announce(&mut damaged, &RelayedConn { source, destination, tlvs: &[] });
    damaged[16] ^= 1;
    let beyond = [v2::SIGNATURE, &[0x21, 0x11], &4081_u16.to_be_bytes()].concat();
    let table = [
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), NotProxyProtocol),
        (b"\r\nGET / HTTP/1.1\r\n".to_vec(), NotProxyProtocol),
        (header(0x11, 0x11, IPV4), Command(0x11)),
        (header(0x31, 0x11, IPV4), Command(0x31)),
        (header(0x22, 0x11, IPV4), Command(0x22)),
        (header(0x21, 0x41, IPV4), Family(0x41)),
        (header(0x21, 0x13, IPV4), Family(0x13)),
        (header(0x21, 0x11, &IPV4[..11]), NoRoom),
        (header(0x21, 0x21, IPV4), NoRoom),
        (header(0x21, 0x31, &[0; 215]), NoRoom),
        (beyond, TooLong(4081)),
        (with_fields(&[5]), TlvCut),
        (with_fields(&[5, 0]), TlvCut),
        (with_fields(&[5, 0, 2, 1]), TlvCut),
        (with_fields(&[4, 0, 0, 5, 0xff, 0xff]), TlvCut),
        (with_fields(&[3, 0, 3, 1, 2, 3]), ChecksumForm),
        (with_fields(&[3, 0, 0]), ChecksumForm),
        (with_fields(&[3, 0, 4, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 0]), ChecksumForm),
        (with_fields(&[3, 0, 4, 0, 0, 0, 0]), Checksum),
        (damaged, Checksum),
    ];
    for (bytes, expected) in table {
        assert_eq!(fault(&bytes), expected, "{bytes:?}");
    }
}

#[test]
fn tlvs_are_found_and_unknown_ones_are_skipped() {
    let fields = [
        &[4, 0, 2, 9, 9][..],         // NOOP
        &[0x20, 0, 5, 1, 0, 0, 0, 0], // SSL
        &[5, 0, 3, b'i', b'd', b'1'], // UNIQUE_ID
        &[0xea, 0, 1, 7],             // custom
        &[5, 0, 3, b'i', b'd', b'2'], // a second one
        &[2, 0, 4, b'h', b'o', b's', b't'],
    ]
    .concat();
    let (_, header) = read(&with_fields(&fields)).unwrap();
    let header = header.unwrap();
    assert_eq!(header.tlv(Tlv::UniqueId), Some(&b"id1"[..]));
    assert_eq!(header.tlv(Tlv::Authority), Some(&b"host"[..]));
    assert_eq!(header.tlv(Tlv::Alpn), None);
}

#[test]
fn a_header_always_fits_into_one_segment() {
    let (source, destination) =
        ("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap());
    let long = [b'a'; MAX_TLV_VALUE];
    let too_long = [b'a'; MAX_TLV_VALUE + 1];
    let tlvs = [(Tlv::Authority, &long[..]), (Tlv::UniqueId, &[7; 128]), (Tlv::Alpn, &too_long)];
    let mut out = b"before".to_vec();
    announce(&mut out, &RelayedConn { source, destination, tlvs: &tlvs });
    let bytes = &out[6..];
    assert!(bytes.len() <= 536, "{}", bytes.len());
    let (consumed, header) = read(bytes).unwrap();
    assert_eq!(consumed, bytes.len());
    let header = header.unwrap();
    assert_eq!(header.tlv(Tlv::Authority), Some(&long[..]));
    assert_eq!(header.tlv(Tlv::Alpn), None, "left out");
}

#[test]
fn headers_of_own_connections_are_local() {
    let mut out = Vec::new();
    announce_own(&mut out);
    assert_eq!(out.len(), v2::FIXED_LEN);
    assert_eq!(origin(&out), HeaderSource::Local);
}

#[test]
fn addresses_of_two_families_are_written_as_ipv6() {
    let mut out = Vec::new();
    let source = "192.0.2.7:1".parse().unwrap();
    let destination = "[2001:db8::2]:2".parse().unwrap();
    announce(&mut out, &RelayedConn { source, destination, tlvs: &[] });
    assert_eq!(origin(&out), proxied("[::ffff:192.0.2.7]:1", "[2001:db8::2]:2"));
    out.clear();
    let mapped = "[::ffff:192.0.2.8]:2".parse().unwrap();
    announce(&mut out, &RelayedConn { source, destination: mapped, tlvs: &[] });
    assert_eq!(origin(&out), proxied("192.0.2.7:1", "192.0.2.8:2"), "and need not, if mapped");
}

/// Arbitrary bytes, or a valid header with a modification.
fn near_headers() -> impl Strategy<Value = Vec<u8>> {
    let text = "PROXY (TCP4|TCP6|UNKNOWN)( [0-9a-f:.]{0,20}){0,5} ?\r?\n?.{0,20}";
    let binary = (any::<u8>(), any::<u8>(), any::<u16>(), any::<Vec<u8>>()).prop_map(
        |(command, family, length, block)| {
            let command = if command < 128 { 0x21 } else { command };
            let family = [0x11, 0x21, 0x31, family][usize::from(family % 4)];
            let length = [length, u16::try_from(block.len()).unwrap()][usize::from(length % 2)];
            [v2::SIGNATURE, &[command, family], &length.to_be_bytes(), &block].concat()
        },
    );
    prop_oneof![any::<Vec<u8>>(), text.prop_map(String::into_bytes), binary]
}

proptest! {
    /// Parsing never panics, never consumes too much, and does not depend on how the bytes are
    /// split.
    #[test]
    fn parsing_does_not_depend_on_how_bytes_are_split(bytes in near_headers(), cut in any::<prop::sample::Index>()) {
        let whole = read(&bytes);
        prop_assert_eq!(drip(&bytes), whole.clone());
        let mut reader = HeaderReader::new();
        let (first, rest) = bytes.split_at(cut.index(bytes.len() + 1));
        let pieces = match reader.feed(first) {
            Ok((consumed, None)) => {
                prop_assert_eq!(consumed, first.len());
                reader.feed(rest).map(|(more, header)| (consumed + more, header))
            }
            ended => ended,
        };
        prop_assert_eq!(pieces, whole);
        prop_assert!(reader.consumed() <= MAX_HEADER);
    }

    /// A written header is parsed again, to its last byte and no further.
    #[test]
    fn a_written_header_is_parsed_again(
        source in any::<SocketAddr>(),
        destination in any::<SocketAddr>(),
        id in prop::collection::vec(any::<u8>(), 0..=128),
        name in "[a-z.]{0,253}",
        follows in any::<Vec<u8>>(),
    ) {
        let tlvs = [(Tlv::UniqueId, &id[..]), (Tlv::Authority, name.as_bytes())];
        let mut bytes = Vec::new();
        announce(&mut bytes, &RelayedConn { source, destination, tlvs: &tlvs });
        let length = bytes.len();
        bytes.extend_from_slice(&follows);
        let (consumed, header) = read(&bytes).unwrap();
        prop_assert_eq!(consumed, length);
        let header = header.unwrap();
        prop_assert_eq!(header.tlv(Tlv::UniqueId), Some(&id[..]));
        prop_assert_eq!(header.tlv(Tlv::Authority), Some(name.as_bytes()));
        let HeaderSource::Proxied { source: s, destination: d } = header.origin else { panic!() };
        let same = |a: SocketAddr, b: SocketAddr| {
            (a.ip().to_canonical(), a.port()) == (b.ip().to_canonical(), b.port())
        };
        prop_assert!(same(s, source) && same(d, destination));
    }

    /// The checksum detects any damaged bit of the addresses or fields.
    #[test]
    fn a_damaged_header_is_rejected(at in 16_usize..28, bit in 0_u32..8) {
        let (source, destination) = ("192.0.2.7:1".parse().unwrap(), "192.0.2.8:2".parse().unwrap());
        let mut bytes = Vec::new();
        announce(&mut bytes, &RelayedConn { source, destination, tlvs: &[] });
        bytes[at] ^= 1 << bit;
        prop_assert_eq!(read(&bytes), Err(HeaderError::Checksum));
    }
}

/// Both ends of a TCP connection.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "the address is this test's own")]
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn bytes_after_the_header_stay_on_the_socket() {
    for header in [&b"PROXY TCP4 192.0.2.7 198.51.100.9 1 2\r\n"[..], &header(0x21, 0x11, IPV4)] {
        let (mut client, mut accepted) = connection().await;
        client.write_all(&[header, b"\x16\x03\x01 and so on"].concat()).await.unwrap();
        drop(client);
        assert!(matches!(
            receive(&mut accepted).await.unwrap().origin,
            HeaderSource::Proxied { .. }
        ));
        let mut rest = Vec::new();
        accepted.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"\x16\x03\x01 and so on");
    }
}

#[tokio::test]
async fn a_header_may_arrive_byte_by_byte_or_never() {
    let (mut client, mut accepted) = connection().await;
    client.set_nodelay(true).unwrap();
    let sending = async {
        for byte in b"PROXY TCP4 192.0.2.7 198.51.100.9 1 2\r\nrest" {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let (header, ()) = tokio::join!(receive(&mut accepted), sending);
    assert_eq!(header.unwrap().origin, proxied("192.0.2.7:1", "198.51.100.9:2"));

    let (client, mut accepted) = connection().await;
    drop(client);
    assert!(matches!(receive(&mut accepted).await, Err(ReceiveError::Nothing)));

    let (mut client, mut accepted) = connection().await;
    client.write_all(b"PROXY TCP4 ").await.unwrap();
    drop(client);
    assert!(matches!(receive(&mut accepted).await, Err(ReceiveError::Cut(11))));
}

/// The examples of RFC 3720 appendix B.4.
#[test]
fn checksums_match_the_published_examples() {
    let ascending: Vec<u8> = (0..32).collect();
    assert_eq!(v2::checksum(&[&[0; 32]]), 0x8a91_36aa);
    assert_eq!(v2::checksum(&[&[0xff; 32]]), 0x62a8_ab43);
    assert_eq!(v2::checksum(&[&ascending]), 0x46dd_794e);
    assert_eq!(v2::checksum(&[b"1234", b"", b"56789"]), 0xe306_9283);
}
