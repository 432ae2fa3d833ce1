use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::message::RequestHead;

const PROXY: &str = "10.0.0.1:4660";

/// Client of a request with these fields from 10.0.0.1, where 10.0.0.0/8 and `2001:db8:1::/48` are
/// trusted.
fn client_of(by: ClientAddressField, fields: &str) -> String {
    let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let head = RequestHead::parse(&Bytes::from(text), 100).unwrap();
    let trusts = |hop: ClientAddr| match hop.ip() {
        IpAddr::V4(ip) => ip.octets()[0] == 10,
        IpAddr::V6(ip) => ip.segments()[..3] == [0x2001, 0xdb8, 1],
    };
    named(&head.fields, by, ClientAddr(PROXY.parse().unwrap()), trusts).0.to_string()
}

fn all_are(by: ClientAddressField, field: &str, table: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (lines, expected) in table {
        let lines_of_field: Vec<_> =
            lines.split('|').map(|line| format!("{field}: {line}\r\n")).collect();
        let fields = lines_of_field.concat();
        let found = client_of(by, &fields);
        if found != *expected {
            wrong.push(format!("{lines}: {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn x_forwarded_for() {
    // `|` separates lines of the field.
    all_are(
        ClientAddressField::XForwardedFor,
        "X-Forwarded-For",
        &[
            ("192.0.2.1", "192.0.2.1:0"),
            ("192.0.2.1:99", "192.0.2.1:99"),
            ("2001:db8::1", "[2001:db8::1]:0"),
            ("[2001:db8::1]", "[2001:db8::1]:0"),
            ("[2001:db8::1]:99", "[2001:db8::1]:99"),
            ("::ffff:192.0.2.1", "192.0.2.1:0"),
            ("[::ffff:192.0.2.1]:5", "192.0.2.1:5"),
            // The first untrusted address from the right; elements further left are not evaluated.
            ("evil, 10.9.9.9, 192.0.2.1", "192.0.2.1:0"),
            ("192.0.2.9, 192.0.2.1 ,\t10.0.0.7", "192.0.2.1:0"),
            ("192.0.2.9|192.0.2.1|10.0.0.7, 2001:db8:1::9", "192.0.2.1:0"),
            ("192.0.2.1, ::ffff:10.0.0.7", "192.0.2.1:0"),
            // All addresses are trusted: the leftmost one.
            ("10.0.0.9,10.0.0.8", "10.0.0.9:0"),
            // The list becomes malformed here.
            ("", PROXY),
            ("192.0.2.1,", PROXY),
            ("192.0.2.1, , 10.0.0.8", "10.0.0.8:0"),
            ("192.0.2.1|", PROXY),
            ("unknown", PROXY),
            ("192.0.2.1, unknown, 10.0.0.8", "10.0.0.8:0"),
            ("192.0.2.1, 10.0.0.8 10.0.0.7", PROXY),
            ("192.0.2.01", PROXY),
            ("0300.0.2.1", PROXY),
            ("0xc0.0.2.1", PROXY),
            ("3221225985", PROXY),
            ("192.0.513", PROXY),
            ("192.0.2.256", PROXY),
            ("192.0.2.1.", PROXY),
            ("192.0.2.1:", PROXY),
            ("192.0.2.1:+9", PROXY),
            ("192.0.2.1:65536", PROXY),
            ("192.0.2.1:000080", PROXY),
            ("192.0.2.1/32", PROXY),
            ("[192.0.2.1]", PROXY),
            ("[2001:db8::1", PROXY),
            ("[2001:db8::1]99", PROXY),
            ("[2001:db8::1]:", PROXY),
            ("fe80::1%eth0", PROXY),
            ("[fe80::1%25eth0]", PROXY),
            ("2001:db8::1::", PROXY),
            ("::ffff:192.0.2.01", PROXY),
            ("\"192.0.2.1\"", PROXY),
            ("for=192.0.2.1", PROXY),
            ("localhost", PROXY),
        ],
    );
    // Only this field with this spelling counts.
    for other in [
        "Forwarded: for=192.0.2.1\r\n",
        "X_Forwarded_For: 192.0.2.1\r\n",
        "X-Real-IP: 192.0.2.1\r\n",
        "",
    ] {
        assert_eq!(client_of(ClientAddressField::XForwardedFor, other), PROXY, "{other}");
    }
}

#[test]
fn forwarded_of_rfc_7239() {
    all_are(
        ClientAddressField::Forwarded,
        "Forwarded",
        &[
            ("for=192.0.2.1", "192.0.2.1:0"),
            ("For=\"192.0.2.1\"", "192.0.2.1:0"),
            ("FOR=\"192.0.2.1:99\"", "192.0.2.1:99"),
            ("for=\"192.0.2.1:_hidden\"", "192.0.2.1:0"),
            ("for=\"[2001:db8::1]\"", "[2001:db8::1]:0"),
            ("for=\"[2001:db8::1]:99\"", "[2001:db8::1]:99"),
            ("for=\"[::ffff:192.0.2.1]\"", "192.0.2.1:0"),
            ("for=\"\\1\\92.0.2.1\"", "192.0.2.1:0"),
            ("by=203.0.113.43;for=192.0.2.1;proto=http", "192.0.2.1:0"),
            ("for=192.0.2.1 ; host=\"a, for=192.0.2.9;b\\\"\";x=y", "192.0.2.1:0"),
            ("for=192.0.2.9, for=192.0.2.1, for=10.0.0.7", "192.0.2.1:0"),
            ("for=192.0.2.9|for=192.0.2.1|for=10.0.0.7,for=\"[2001:db8:1::9]\"", "192.0.2.1:0"),
            ("for=10.0.0.9, for=10.0.0.8", "10.0.0.9:0"),
            // A quote that a client leaves open does not affect elements appended after it.
            ("for=\"evil, for=192.0.2.1", "192.0.2.1:0"),
            ("for=\"evil\\, for=\"192.0.2.1\"", "192.0.2.1:0"),
            ("for=\"evil, for=\"192.0.2.1:9\", for=10.0.0.7", "192.0.2.1:9"),
            ("for=\"evil|for=192.0.2.1", "192.0.2.1:0"),
            // Hidden or malformed element: the hop to the right of it.
            ("for=unknown", PROXY),
            ("for=192.0.2.1, for=\"_gazonk\", for=10.0.0.8", "10.0.0.8:0"),
            ("for=192.0.2.1, for=_x", PROXY),
            ("for=192.0.2.1, by=10.0.0.8", PROXY),
            ("for=192.0.2.1, ", PROXY),
            ("", PROXY),
            ("192.0.2.1", PROXY),
            ("for", PROXY),
            ("for=", PROXY),
            ("for=\"\"", PROXY),
            ("for =192.0.2.1", PROXY),
            ("for= 192.0.2.1", PROXY),
            ("for=192.0.2.1:99", PROXY),
            ("for=[2001:db8::1]", PROXY),
            ("for=\"2001:db8::1\"", PROXY),
            ("for=\"[192.0.2.1]\"", PROXY),
            ("for=\"192.0.2.1", PROXY),
            ("for=192.0.2.1\"", PROXY),
            ("for=\"192.0.2.1\\\"", PROXY),
            ("for=\"192.0.2.1\"x", PROXY),
            ("for=192.0.2.1;", PROXY),
            (";for=192.0.2.1", PROXY),
            ("for=192.0.2.1;for=192.0.2.1", PROXY),
            ("for=192.0.2.1;FOR=_x", PROXY),
            ("for=192.0.2.1;proto=ht tp", PROXY),
            ("for=192.0.2.1;host=a:443", PROXY),
            ("for=192.0.2.01", PROXY),
            ("for=0x7f000001", PROXY),
            ("for=\"192.0.2.1:65536\"", PROXY),
            ("for=\"192.0.2.1:_\"", PROXY),
        ],
    );
    assert_eq!(client_of(ClientAddressField::Forwarded, "X-Forwarded-For: 192.0.2.1\r\n"), PROXY);
    let long = format!("Forwarded: for=192.0.2.1;host=\"{}\"\r\n", "a".repeat(300));
    assert_eq!(client_of(ClientAddressField::Forwarded, &long), "192.0.2.1:0");
    let long = format!("Forwarded: for=\"192.0.2.1{}\"\r\n", " ".repeat(300));
    assert_eq!(client_of(ClientAddressField::Forwarded, &long), PROXY);
}

#[test]
fn by_nothing_is_by_nothing() {
    let both = "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n";
    assert_eq!(client_of(ClientAddressField::Nothing, both), PROXY);
}

#[test]
fn a_list_is_walked_so_far_and_no_further() {
    let list = |hops: usize| format!("X-Forwarded-For: 192.0.2.1{}\r\n", ",10.0.0.2".repeat(hops));
    assert_eq!(client_of(ClientAddressField::XForwardedFor, &list(MAX_HOPS - 1)), "192.0.2.1:0");
    assert_eq!(client_of(ClientAddressField::XForwardedFor, &list(MAX_HOPS)), "10.0.0.2:0");
}

proptest! {
    /// Whatever a client sends, the address appended by the proxy is found.
    #[test]
    fn nothing_a_client_writes_hides_what_is_written_behind_it(text in "[ -~]{0,60}") {
        let fields = format!("X-Forwarded-For: {text}, 192.0.2.1\r\n");
        prop_assert_eq!(client_of(ClientAddressField::XForwardedFor, &fields), "192.0.2.1:0");
        for behind in ["for=192.0.2.1", "proto=https;for=\"192.0.2.1\"", "for=192.0.2.1;host=\"a,b\""] {
            let fields = format!("Forwarded: {text}, {behind}\r\n");
            prop_assert_eq!(client_of(ClientAddressField::Forwarded, &fields), "192.0.2.1:0");
        }
    }

    #[test]
    fn anything_is_read_to_an_end(text in "(for|[=\";,\\\\\\[\\]:. _0-9a-f]){0,40}") {
        client_of(ClientAddressField::XForwardedFor, &format!("X-Forwarded-For: {text}\r\n"));
        client_of(ClientAddressField::Forwarded, &format!("Forwarded: {text}\r\n"));
    }
}
