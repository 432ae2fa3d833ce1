use std::fs;

use super::*;
use crate::config;
use crate::generation::compile;
use crate::telemetry::Metrics;
use crate::tls;

const RULES: &str = r#"
[[forward.listener]]
listen = "127.0.0.1:3128"

[[forward.rule]]
name = "platforms"
clients = ["10.0.0.0/8"]
allow = ["api.twilio.com", "*.fbcdn.net"]
rate = "1MiB"

[[forward.rule]]
name = "inside"
clients = ["10.0.0.0/8"]
allow = ["intranet.example.com", "parent.example.com"]
private-networks = ["10.1.0.0/16"]
connect-ports = [443, 8443]
ports = [80]
via = "enterprise"

[[forward.parent]]
name = "enterprise"
endpoints = ["http://10.0.0.9:3128"]
no-proxy = ["intranet.example.com"]

[forward.hosts]
"pinned.fbcdn.net" = ["8.8.8.8", "127.0.0.1"]

[[forward.rule]]
name = "learning"
clients = ["192.0.2.10"]
mode = "report"
"#;

/// Explanation of a destination without the directory, and whether the destination is allowed.
fn explained(destination: &str, client: &str) -> (String, bool) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("forward.toml"), RULES.trim_start()).unwrap();
    let config = config::load(dir.path(), &|_| None)
        .unwrap_or_else(|r| panic!("{}", config::draw(&r.sources, &r.problems, false)))
        .config;
    let metrics = Metrics::new(Reason::ALL.iter().map(|reason| reason.word())).unwrap();
    let generation = compile(config, &tls::provider(), &metrics, None)
        .map_err(|refused| refused.1)
        .unwrap_or_else(|problems| panic!("{problems:?}"))
        .generation;
    let forward_proxy = generation.forward_proxy.as_ref().unwrap();
    let mut explained = EgressExplanation {
        forward_proxy,
        generation: &generation,
        lines: ExplanationLines::default(),
    };
    let asked = EgressArgs {
        destination: destination.to_owned(),
        client: client.parse().unwrap(),
        user: None,
        names: Vec::new(),
    };
    let addresses = |host: &str| match host {
        "api.twilio.com" => Ok(vec!["8.8.8.8".parse().unwrap(), "10.9.9.9".parse().unwrap()]),
        "intranet.example.com" => Ok(vec!["10.1.2.3".parse().unwrap()]),
        "scontent.xx.fbcdn.net" => Ok(vec!["127.0.0.1".parse().unwrap()]),
        "new.example.com" => Ok(vec!["2606:4700::1111".parse().unwrap()]),
        "parent.example.com" => Err("no such name".to_owned()),
        other => panic!("{other} was looked up"),
    };
    let open = explained.explain(&asked, &addresses);
    let here = format!("{}/", dir.path().display());
    (explained.lines.text.replace(&here, ""), open)
}

#[test]
fn an_allowed_destination_is_shown_with_every_address() {
    let expected = "\
destination api.twilio.com:443
client      10.0.0.5 (not logged in)
rule        platforms                                     forward.toml:5
verdict     allowed
through     no other proxy
inside      only TLS with this server name; otherwise the tunnel is closed
limits      connect 10s, silence 10min, at most 24h, 1MiB per second
address     8.8.8.8                                       allowed
address     10.9.9.9                                      BARRED: 10.9.9.9 is private (RFC 1918), in 10.0.0.0/8
to fix      if this is intended, add \"10.9.9.9\" to `private-networks` of rule `platforms` in forward.toml:5
";
    assert_eq!(explained("API.twilio.com.:443", "10.0.0.5"), (expected.to_owned(), true));
}

#[test]
fn a_denied_destination_is_not_looked_up() {
    let expected = "\
destination api.twilio.com:8443
client      10.0.0.5 (not logged in)
rule        platforms (the nearest)                       forward.toml:5
verdict     denied: 403 egress_port
            rule `platforms` allows api.twilio.com, but not CONNECT to port 8443
addresses   not looked up: denied names never are
to fix      add 8443 to `connect-ports` of rule `platforms` in forward.toml:5
";
    assert_eq!(explained("api.twilio.com:8443", "10.0.0.5"), (expected.to_owned(), false));
}

#[test]
fn other_verdicts_are_told_apart() {
    for (destination, client, open, parts) in [
        (
            "2130706433:443",
            "10.0.0.5",
            false,
            &["rejected: 400 bad_destination", "four decimal"][..],
        ),
        ("a\r\nb:443", "10.0.0.5", false, &["a\\r\\nb:443", "control character"]),
        (
            "scontent.xx.fbcdn.net:443",
            "10.0.0.5",
            false,
            &["denied: 403 egress_address", "loopback"],
        ),
        (
            "pinned.fbcdn.net:443",
            "10.0.0.5",
            true,
            &["listed in [forward.hosts]", "8.8.8.8  ", "BARRED: 127.0.0.1"],
        ),
        (
            "intranet.example.com:8443",
            "10.0.0.5",
            true,
            &["through     no other proxy", "not looked at", "allowed"],
        ),
        (
            "parent.example.com:443",
            "10.0.0.5",
            true,
            &["parent enterprise", "http://10.0.0.9:3128", "the parent looks it up"],
        ),
        (
            "new.example.com:443",
            "192.0.2.10",
            true,
            &["allowed only because of report mode: egress_denied", "to keep it", "allowed"],
        ),
        ("8.8.8.8:443", "10.0.0.5", false, &["egress_literal", "add \"8.8.8.8\" to `allow`"]),
        (
            "api.twilio.com:443",
            "203.0.113.1",
            false,
            &["egress_client", "add \"203.0.113.1\" to `clients`"],
        ),
    ] {
        let (text, is_open) = explained(destination, client);
        assert_eq!(is_open, open, "{destination}:\n{text}");
        for part in parts {
            assert!(text.contains(part), "{destination} lacks {part}:\n{text}");
        }
    }
}

#[test]
fn a_url_is_asked_about_by_its_own_ports() {
    let (text, is_open) = explained("http://intranet.example.com/a?b", "10.0.0.5");
    assert!(is_open, "{text}");
    assert!(text.contains("intranet.example.com:80 (an http:// URL)"), "{text}");
    assert!(!text.contains("\ninside "), "{text}");
    let (text, is_open) = explained("intranet.example.com:80", "10.0.0.5");
    assert!(!is_open && text.contains("egress_port"), "{text}");
    assert!(text.contains("add 80 to `connect-ports` of rule `inside`"), "{text}");
    let (text, is_open) = explained("http://api.twilio.com", "10.0.0.5");
    assert!(!is_open && text.contains("add 80 to `ports` of rule `platforms`"), "{text}");
}
