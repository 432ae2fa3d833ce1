use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<String, DestinationError> {
    Destination::parse(text.as_bytes(), None).map(|destination| destination.to_string())
}

#[test]
fn a_host_has_one_spelling() {
    for (text, shown) in [
        ("api.twilio.com:443", "api.twilio.com:443"),
        ("API.Twilio.COM.:443", "api.twilio.com:443"),
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::1]:443", "[::1]:443"),
        ("[2001:DB8:0:0::1]:443", "[2001:db8::1]:443"),
        ("_dmarc.example.com:1", "_dmarc.example.com:1"),
        ("localhost:65535", "localhost:65535"),
    ] {
        assert_eq!(read(text).as_deref(), Ok(shown), "{text}");
    }
}

#[test]
fn a_missing_port_may_have_a_default() {
    for text in ["example.com", "example.com:"] {
        let destination = Destination::parse(text.as_bytes(), Some(80)).unwrap();
        assert_eq!(destination.to_string(), "example.com:80");
        assert_eq!(read(text), Err(DestinationError::NoPort));
    }
    let written = Destination::parse(b"example.com:81", Some(80)).unwrap();
    assert_eq!(written.port, 81);
}

#[test]
fn the_longest_name_is_taken_and_no_longer_one() {
    let longest = format!("{}abc", "a234567890.".repeat(22)) + &"x".repeat(8);
    assert_eq!(longest.len(), MAX_NAME_LEN);
    assert!(HostName::parse(&longest).is_ok());
    assert!(read(&format!("{longest}.:65535")).is_ok());
    assert_eq!(HostName::parse(&format!("{longest}x")), Err(DestinationError::TooLong));
}

#[test]
fn knows_the_domains_above() {
    let name = HostName::parse("a.b.example.com").unwrap();
    assert_eq!(name.parents().collect::<Vec<_>>(), ["b.example.com", "example.com", "com"]);
    assert_eq!(HostName::parse("localhost").unwrap().parents().count(), 0);
}

/// Strings that `inet_aton`, and therefore `getaddrinfo`, parses as an IPv4 address without a
/// lookup.
fn is_ipv4_to_a_resolver(host: &str) -> bool {
    let part = |part: &str| match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some(hex) => hex.bytes().all(|b| b.is_ascii_hexdigit()),
        None => !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()),
    };
    host.split('.').count() <= 4 && host.split('.').all(part)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Destination::parse(&bytes, Some(443));
    }

    #[test]
    fn what_is_read_is_read_the_same_again(text in "[a-zA-Z0-9.:\\[\\]_x-]{1,40}(:[0-9]{1,5})?") {
        if let Ok(destination) = Destination::parse(text.as_bytes(), Some(443)) {
            let shown = destination.to_string();
            prop_assert_eq!(Destination::parse(shown.as_bytes(), None), Ok(destination));
            prop_assert_eq!(shown.to_ascii_lowercase(), shown);
        }
    }

    #[test]
    fn no_number_is_a_name(text in "(0[xX])?[0-9a-fA-F]{0,10}(\\.(0[xX])?[0-9a-f]{0,10}){0,4}\\.?") {
        if let Ok(name) = HostName::parse(&text) {
            prop_assert!(!is_ipv4_to_a_resolver(name.as_str()), "{}", name);
        }
    }

    #[test]
    fn an_address_is_read_as_that_address(ip: IpAddr, port in 1_u16..) {
        let destination = Destination { host: Host::Addr(ip), port };
        let shown = destination.to_string();
        prop_assert_eq!(Destination::parse(shown.as_bytes(), None), Ok(destination));
    }
}
