use proptest::prelude::*;

use super::*;
use crate::egress::tests::{client, now, policy, rule, to};

fn networks(list: &[&str]) -> Vec<ipnet::IpNet> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// The name of the allowing rule, or the reason word of the denial.
fn said(policy: &EgressPolicy, client: &EgressClient<'_>, destination: &str) -> String {
    match policy.decide(client, &to(destination), RequestForm::Connect, now()) {
        Verdict::Allowed(Grant { rule, reported: None }) => rule.settings.name.clone(),
        Verdict::Allowed(Grant { rule, reported: Some(denial) }) => {
            format!("{} reports {}", rule.settings.name, denial.reason.word())
        }
        Verdict::Denied(denial) => denial.reason.word().to_owned(),
    }
}

#[test]
fn a_destination_without_a_rule_is_denied() {
    let empty = EgressPolicy::new(Vec::new());
    assert_eq!(said(&empty, &client("10.0.0.1"), "example.com:443"), "egress_denied");
    assert_eq!(said(&empty, &client("10.0.0.1"), "8.8.8.8:443"), "egress_literal");
}

#[test]
fn names_match_exactly_or_as_subdomains() {
    let policy = policy(vec![
        rule("exact", &["api.twilio.com"]),
        rule("below", &["*.fbcdn.net"]),
        rule("deeper", &["*.xx.fbcdn.net"]),
    ]);
    let from = client("10.0.0.1");
    for (destination, expected) in [
        ("api.twilio.com:443", "exact"),
        ("API.TWILIO.COM.:443", "exact"),
        ("x.api.twilio.com:443", "egress_denied"),
        ("twilio.com:443", "egress_denied"),
        ("scontent.fbcdn.net:443", "below"),
        // The first rule that allows it, not the longest name.
        ("a.b.xx.fbcdn.net:443", "below"),
        ("fbcdn.net:443", "egress_denied"),
        ("xfbcdn.net:443", "egress_denied"),
        ("fbcdn.net.evil.org:443", "egress_denied"),
    ] {
        assert_eq!(said(&policy, &from, destination), expected, "{destination}");
    }
}

#[test]
fn addresses_need_a_rule_of_their_own() {
    let policy = policy(vec![
        rule("names", &["*.com"]),
        rule("host", &["8.8.8.8"]),
        rule("network", &["8.8.0.0/16", "2a00:1450::/32"]),
    ]);
    let from = client("10.0.0.1");
    for (destination, expected) in [
        ("8.8.8.8:443", "host"),
        ("8.8.4.4:443", "network"),
        ("8.9.4.4:443", "egress_literal"),
        ("[2a00:1450::1]:443", "network"),
        ("[2a00:1451::1]:443", "egress_literal"),
        ("[::ffff:8.8.8.8]:443", "egress_literal"),
    ] {
        assert_eq!(said(&policy, &from, destination), expected, "{destination}");
    }
}

#[test]
fn a_denying_rule_takes_precedence_in_any_position() {
    let policy = policy(vec![
        rule("all", &["*.example.com"]),
        ForwardRule {
            effect: RuleEffect::Deny,
            clients: networks(&["10.0.0.0/8"]),
            ..rule("never", &["bad.example.com"])
        },
        ForwardRule { mode: RuleMode::Report, ..rule("learning", &[]) },
    ]);
    assert_eq!(said(&policy, &client("10.0.0.1"), "bad.example.com:443"), "egress_forbidden");
    assert_eq!(said(&policy, &client("192.0.2.1"), "bad.example.com:443"), "all");
    assert_eq!(said(&policy, &client("10.0.0.1"), "good.example.com:443"), "all");
}

#[test]
fn the_denial_names_the_rule_nearest_to_applying() {
    let files = ForwardRule {
        clients: networks(&["10.0.0.5/32"]),
        connect_ports: vec![443],
        ..rule("files", &["cdn.example.com"])
    };
    let until = ForwardRule {
        clients: networks(&["10.0.0.0/8"]),
        until: Some(now()),
        ..rule("over", &["old.example.com"])
    };
    let from = ForwardRule {
        from: Some(now() + jiff::SignedDuration::from_secs(1)),
        ..rule("soon", &["new.example.com"])
    };
    let policy = policy(vec![files, until, from]);
    for (ip, destination, expected) in [
        ("10.0.0.5", "cdn.example.com:443", "files"),
        ("10.0.0.5", "cdn.example.com:8443", "egress_port"),
        // Rule `soon` is for all clients, so this client has one that could list it.
        ("10.0.0.6", "cdn.example.com:443", "egress_denied"),
        ("10.0.0.6", "old.example.com:443", "egress_time"),
        ("10.0.0.6", "new.example.com:443", "egress_time"),
        ("10.0.0.6", "other.example.com:443", "egress_denied"),
    ] {
        assert_eq!(said(&policy, &client(ip), destination), expected, "{ip} {destination}");
    }
    let only = self::policy(vec![ForwardRule {
        clients: networks(&["10.0.0.5/32"]),
        ..rule("files", &["cdn.example.com"])
    }]);
    assert_eq!(said(&only, &client("10.0.0.6"), "cdn.example.com:443"), "egress_client");
    assert_eq!(said(&only, &client("10.0.0.6"), "example.org:443"), "egress_client");
    assert_eq!(said(&only, &client("::ffff:10.0.0.5"), "cdn.example.com:443"), "files");
}

#[test]
fn a_rule_is_valid_from_its_start_until_its_end() {
    let at = |text: &str| -> Timestamp { text.parse().unwrap() };
    let policy = policy(vec![ForwardRule {
        from: Some(at("2026-01-01T00:00:00Z")),
        until: Some(at("2026-02-01T00:00:00+01:00")),
        ..rule("january", &["example.com"])
    }]);
    for (moment, holds) in [
        ("2025-12-31T23:59:59.999Z", false),
        ("2026-01-01T00:00:00Z", true),
        ("2026-01-31T22:59:59.999Z", true),
        ("2026-01-31T23:00:00Z", false),
    ] {
        let verdict = policy.decide(
            &client("10.0.0.1"),
            &to("example.com:443"),
            RequestForm::Connect,
            at(moment),
        );
        assert_eq!(matches!(verdict, Verdict::Allowed(_)), holds, "{moment}");
    }
}

#[test]
fn all_client_conditions_of_a_rule_must_match() {
    let policy = policy(vec![ForwardRule {
        clients: networks(&["10.0.0.0/8"]),
        users: vec!["ccm".to_owned()],
        client_names: vec!["ccm.example.com".to_owned()],
        ..rule("ccm", &["example.com"])
    }]);
    let names = ["CCM.example.com".to_owned()];
    let other = ["fe.example.com".to_owned()];
    let whole = EgressClient { ip: "10.0.0.1".parse().unwrap(), user: Some("ccm"), names: &names };
    for (client, expected) in [
        (whole, "ccm"),
        (EgressClient { user: None, ..whole }, "proxy_auth_required"),
        (EgressClient { user: Some("fe"), ..whole }, "egress_client"),
        (EgressClient { names: &other, ..whole }, "egress_client"),
        // Logging in would not help these.
        (EgressClient { names: &[], user: None, ..whole }, "egress_client"),
        (EgressClient { ip: "192.0.2.1".parse().unwrap(), user: None, ..whole }, "egress_client"),
    ] {
        assert_eq!(said(&policy, &client, "example.com:443"), expected, "{client:?}");
    }
    let nobody = EgressClient { user: None, ..whole };
    // No login is requested where it would not change the decision.
    assert_eq!(said(&policy, &nobody, "example.org:443"), "egress_client");
}

#[test]
fn report_mode_allows_and_reports() {
    let policy = policy(vec![
        ForwardRule {
            clients: networks(&["10.0.0.5/32"]),
            mode: RuleMode::Report,
            connect_ports: vec![443],
            ..rule("learning", &["known.example.com"])
        },
        ForwardRule {
            clients: networks(&["10.0.0.6/32"]),
            ..rule("strict", &["known.example.com"])
        },
    ]);
    let learner = client("10.0.0.5");
    assert_eq!(said(&policy, &learner, "known.example.com:443"), "learning");
    for (destination, word) in [
        ("other.example.com:443", "egress_denied"),
        ("known.example.com:8443", "egress_port"),
        ("8.8.8.8:53", "egress_literal"),
    ] {
        let expected = format!("learning reports {word}");
        assert_eq!(said(&policy, &learner, destination), expected, "{destination}");
    }
    assert_eq!(said(&policy, &client("10.0.0.6"), "other.example.com:443"), "egress_denied");
}

#[test]
fn report_mode_for_users_requires_a_login() {
    let policy = policy(vec![ForwardRule {
        users: vec!["fe".to_owned()],
        mode: RuleMode::Report,
        ..rule("learning", &[])
    }]);
    let nobody = client("10.0.0.5");
    assert_eq!(said(&policy, &nobody, "example.com:443"), "proxy_auth_required");
    let user = EgressClient { user: Some("fe"), ..nobody };
    assert_eq!(said(&policy, &user, "example.com:443"), "learning reports egress_denied");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_index_finds_the_same_rules_as_a_linear_search(
        lists in proptest::collection::vec(proptest::collection::vec(
            "(\\*\\.)?[ab](\\.[ab]){0,3}|10\\.[01]\\.0\\.0/16|10\\.0\\.0\\.[0-3]", 0..6), 0..6),
        host in "[ab](\\.[ab]){0,4}|10\\.[0-2]\\.0\\.[0-4]",
    ) {
        let rules = lists.iter().enumerate().map(|(number, list)| {
            rule(&number.to_string(), &list.iter().map(String::as_str).collect::<Vec<_>>())
        });
        let rules: Vec<_> = rules.collect();
        let destination = to(&format!("{host}:443"));
        let covers = |pattern: &str| match pattern.strip_prefix("*.") {
            Some(suffix) => host.ends_with(&format!(".{suffix}")),
            None => match (pattern.parse::<ipnet::IpNet>(), host.parse::<IpAddr>()) {
                (Ok(net), Ok(ip)) => net.contains(&ip),
                _ => pattern == host,
            },
        };
        let expected = lists.iter().position(|list| list.iter().any(|pattern| covers(pattern)));
        let policy = policy(rules);
        match (policy.decide(&client("192.0.2.1"), &destination, RequestForm::Connect, now()), expected) {
            (Verdict::Allowed(grant), Some(number)) => {
                prop_assert_eq!(&grant.rule.settings.name, &number.to_string());
            }
            (Verdict::Denied(_), None) => {}
            (verdict, expected) => prop_assert!(false, "{:?} {:?}", verdict, expected),
        }
    }
}

#[test]
fn the_number_of_names_does_not_affect_the_cost() {
    let names = |from: usize, to: usize| -> Vec<String> {
        (from..to).map(|n| format!("host-{n}.example-{}.com", n % 100)).collect()
    };
    let below =
        |count: usize| -> Vec<String> { (0..count).map(|n| format!("*.below-{n}.net")).collect() };
    let rules: Vec<_> = (0..50)
        .map(|n| {
            let all = [names(n * 200, (n + 1) * 200), below(1000)].concat();
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            rule(&format!("rule-{n}"), &all)
        })
        .collect();
    let policy = policy(rules);
    assert_eq!(policy.rules().iter().map(|r| r.settings.destinations.len()).sum::<usize>(), 60_000);
    let looked_at = |destination: &str| policy.index.rules(&to(destination).host).count();
    // Only the rules that list the name are checked: one of 50, none, or all that have it.
    assert_eq!(looked_at("host-7123.example-23.com:443"), 1);
    assert_eq!(looked_at("host-7123.example-24.com:443"), 0);
    assert_eq!(looked_at("a.b.c.d.e.f.below-999.net:443"), 50);
    assert_eq!(looked_at("below-999.net:443"), 0);
    assert_eq!(said(&policy, &client("10.0.0.1"), "host-7123.example-23.com:443"), "rule-35");
}

#[test]
fn ports_of_urls_open_no_tunnels() {
    let policy = policy(vec![
        ForwardRule {
            ports: vec![80, 443],
            connect_ports: vec![443],
            ..rule("ocsp", &["ocsp.example.com"])
        },
        ForwardRule {
            effect: RuleEffect::Deny,
            ports: vec![25],
            connect_ports: vec![25],
            ..rule("no-mail", &["ocsp.example.com"])
        },
    ]);
    let from = client("10.0.0.1");
    for (form, destination, expected) in [
        (RequestForm::Http, "ocsp.example.com:80", "ocsp"),
        (RequestForm::Connect, "ocsp.example.com:80", "egress_port"),
        (RequestForm::Connect, "ocsp.example.com:443", "ocsp"),
        (RequestForm::Https, "ocsp.example.com:443", "ocsp"),
        (RequestForm::Http, "ocsp.example.com:8080", "egress_port"),
        (RequestForm::Http, "ocsp.example.com:25", "egress_forbidden"),
        (RequestForm::Connect, "ocsp.example.com:25", "egress_forbidden"),
    ] {
        let said = match policy.decide(&from, &to(destination), form, now()) {
            Verdict::Allowed(grant) => grant.rule.settings.name.clone(),
            Verdict::Denied(denial) => denial.reason.word().to_owned(),
        };
        assert_eq!(said, expected, "{form:?} {destination}");
    }
}

#[test]
fn credentials_matter_only_where_a_rule_needs_them() {
    let users = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let inside = || networks(&["10.0.0.0/8"]);
    let policy = policy(vec![
        ForwardRule { users: users(&["fe"]), clients: inside(), ..rule("first", &["a.example"]) },
        rule("open", &["a.example", "b.example"]),
        ForwardRule { users: users(&["fe"]), clients: inside(), ..rule("last", &["b.example"]) },
        ForwardRule { users: users(&["fe"]), clients: inside(), ..rule("own", &["c.example"]) },
        ForwardRule {
            effect: RuleEffect::Deny,
            clients: inside(),
            ..rule("never", &["d.example"])
        },
    ]);
    let (inside, outside) = (client("10.0.0.1"), client("192.0.2.1"));
    for (client, destination, expected) in [
        // No rule that asks for users is for this client.
        (outside, "a.example:443", Login::Ignored),
        (outside, "c.example:443", Login::Ignored),
        (outside, "other.example:443", Login::Ignored),
        (inside, "a.example:443", Login::Decides),
        // The rule before it is open.
        (inside, "b.example:443", Login::Ignored),
        (inside, "c.example:443", Login::Decides),
        // Denied to all clients: only the texts differ.
        (inside, "d.example:443", Login::Explains),
        (inside, "other.example:443", Login::Explains),
    ] {
        let said = policy.login(&client, &to(destination), RequestForm::Connect, now());
        assert_eq!(said, expected, "{} {destination}", client.ip);
    }
    let report = ForwardRule {
        mode: RuleMode::Report,
        users: users(&["fe"]),
        clients: networks(&["10.0.0.0/8"]),
        ..rule("learning", &[])
    };
    let policy = self::policy(vec![report]);
    let said = policy.login(&inside, &to("any.example:443"), RequestForm::Connect, now());
    assert_eq!(said, Login::Decides);
}
