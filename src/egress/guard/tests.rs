use std::net::TcpListener;

use super::*;
use crate::config::ForwardRule;
use crate::egress::tests::rule;

fn under(addresses: &[&str], destinations: &[&str]) -> EgressRule {
    let private_networks = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let settings = ForwardRule { private_networks, ..rule("r", destinations) };
    EgressRule { settings, at: "config/forward.toml:1".to_owned() }
}

fn judged(rule: &EgressRule, ip: &str) -> Result<String, String> {
    let checked = Guard::new(Vec::new()).check(rule, ip.parse().unwrap(), 443);
    checked.map(|addr| addr.get().to_string()).map_err(|barred| barred.to_string())
}

#[test]
fn a_block_is_listed_by_its_name_or_a_part_of_it() {
    for (listed, ip, open) in [
        ("10.0.0.0/8", "10.1.2.3", true),
        ("10.1.2.3/32", "10.1.2.3", true),
        ("10.1.2.4/32", "10.1.2.3", false),
        ("0.0.0.0/0", "10.1.2.3", false),
        ("8.0.0.0/5", "10.1.2.3", false),
        // Metadata is a separate block inside link-local.
        ("169.254.0.0/16", "169.254.1.1", true),
        ("169.254.0.0/16", "169.254.169.254", false),
        ("169.254.169.254/32", "169.254.169.254", true),
        ("fc00::/7", "fd12::1", true),
        ("fc00::/7", "fd00:ec2::254", false),
        ("::/0", "fd12::1", false),
        ("::/0", "::1", false),
    ] {
        assert_eq!(judged(&under(&[listed], &[]), ip).is_ok(), open, "{listed} {ip}");
        assert_eq!(judged(&under(&[], &[listed]), ip).is_ok(), open, "allow {listed} {ip}");
    }
}

#[test]
fn barred_addresses_have_an_entry_that_allows_them() {
    let nothing = under(&[], &[]);
    assert_eq!(
        judged(&nothing, "10.1.2.3").unwrap_err(),
        "10.1.2.3 is private (RFC 1918), in 10.0.0.0/8"
    );
    assert_eq!(
        judged(&nothing, "169.254.169.254").unwrap_err(),
        "169.254.169.254 is a cloud metadata address"
    );
    let inside = Guard::new(Vec::new()).check(&nothing, "::ffff:10.1.2.3".parse().unwrap(), 443);
    assert_eq!(inside.unwrap_err().listing(), Some("10.1.2.3".parse().unwrap()));
}

#[test]
fn a_wildcard_listener_is_every_address_of_this_host() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let own = |text: &str| OwnAddress {
        address: SocketAddr::new(text.parse().unwrap(), port),
        may_be_listed: false,
    };
    let listed = under(&["127.0.0.0/8"], &[]);
    let check = |bound: &str, ip: &str, port: u16| {
        Guard::new(vec![own(bound)]).check(&listed, ip.parse().unwrap(), port).is_ok()
    };
    // Decided by the kernel: loopback addresses are local, addresses of other hosts are not.
    assert!(!check("0.0.0.0", "127.0.0.1", port));
    assert!(!check("0.0.0.0", "127.9.9.9", port));
    assert!(check("0.0.0.0", "8.8.8.8", port));
    assert!(check("::", "127.0.0.1", port));
    assert!(!check("127.0.0.1", "127.0.0.1", port));
    assert!(check("127.0.0.2", "127.0.0.1", port));
    assert!(check("0.0.0.0", "127.0.0.1", port ^ 1));
}

#[test]
fn an_own_listener_is_allowed_only_if_its_address_is_listed() {
    let own = |may_be_listed| OwnAddress { address: "8.8.8.8:443".parse().unwrap(), may_be_listed };
    let ip = "8.8.8.8".parse().unwrap();
    let check = |rule: &EgressRule, may_be_listed| {
        Guard::new(vec![own(may_be_listed)]).check(rule, ip, 443).err().map(|b| b.listing())
    };
    assert_eq!(check(&under(&[], &["*.example.com"]), true), Some(Some(ip)));
    assert_eq!(check(&under(&[], &["8.8.8.8"]), true), None);
    assert_eq!(check(&under(&[], &["8.8.0.0/16"]), true), Some(Some(ip)));
    assert_eq!(check(&under(&[], &["8.8.8.8"]), false), Some(None));
}

#[test]
fn an_address_of_a_configured_translator_counts_as_the_embedded_one() {
    let prefixes = ["64:ff9b::/96", "2001:db8:64::/48", "fd00:64::/96"];
    let guard = Guard::new(Vec::new())
        .behind(prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect());
    let nothing = under(&[], &[]);
    for (ip, open) in [
        ("64:ff9b::8.8.8.8", true),
        ("64:ff9b::169.254.169.254", false),
        ("64:ff9b::10.0.0.1", false),
        ("fd00:64::8.8.8.8", true),
        ("fd00:64::127.0.0.1", false),
        // 8.8.8.8 and 10.0.0.1 in a prefix of 48 bits.
        ("2001:db8:64:808:8:800::", true),
        ("2001:db8:64:a00:0:100::", false),
        // Not a translator of this network.
        ("64:ff9b:1::8.8.8.8", false),
        ("fd00:65::8.8.8.8", false),
    ] {
        assert_eq!(guard.check(&nothing, ip.parse().unwrap(), 443).is_ok(), open, "{ip}");
    }
    // Without configured translators, the well-known prefix stays barred.
    assert!(judged(&nothing, "64:ff9b::8.8.8.8").is_err());
    let listed = under(&["10.0.0.0/8"], &[]);
    assert!(guard.check(&listed, "64:ff9b::10.0.0.1".parse().unwrap(), 443).is_ok());
}
