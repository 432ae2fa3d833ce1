//! Tests of the whole egress path: target, rules, resolved names, dialled addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use crate::addr::Pattern;
use crate::config::{ForwardRule, RuleEffect, RuleMode, SniPolicy, Span};
use crate::message::RequestForm;

/// A rule that allows these destinations on any port for all clients.
pub(super) fn rule(name: &str, destinations: &[&str]) -> ForwardRule {
    ForwardRule {
        name: name.to_owned(),
        place: Span { file: 0, start: 0, end: 0 },
        clients: Vec::new(),
        users: Vec::new(),
        client_names: Vec::new(),
        effect: RuleEffect::Allow,
        destinations: destinations.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
        ports: Vec::new(),
        connect_ports: Vec::new(),
        private_networks: Vec::new(),
        from: None,
        until: None,
        mode: RuleMode::Enforce,
        sni: SniPolicy::STRICT,
        sni_elsewhere: SniPolicy::OFF,
        rate: 0,
        via: None,
    }
}

/// Rules as written in lines 10, 20, ... of a file.
pub(super) fn policy(rules: Vec<ForwardRule>) -> EgressPolicy {
    let at = |number: usize| format!("config/forward.toml:{}", 10 * (number + 1));
    let rules = rules.into_iter().enumerate();
    EgressPolicy::new(
        rules.map(|(number, settings)| EgressRule { settings, at: at(number) }).collect(),
    )
}

pub(super) fn client(ip: &str) -> EgressClient<'static> {
    EgressClient { ip: ip.parse().unwrap(), user: None, names: &[] }
}

pub(super) fn to(text: &str) -> Destination {
    Destination::parse(text.as_bytes(), None).unwrap()
}

pub(super) fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

/// Look-up results of a test: the addresses of each name, at the first look-up and at the next.
struct Resolver(HashMap<&'static str, Vec<Vec<IpAddr>>>);

impl Resolver {
    fn new(names: &[(&'static str, &[&str])]) -> Self {
        let answers = |answers: &[&str]| -> Vec<Vec<IpAddr>> {
            let one = |answer: &&str| answer.split(' ').map(|ip| ip.parse().unwrap()).collect();
            answers.iter().rev().map(one).collect()
        };
        Self(names.iter().map(|(name, all)| (*name, answers(all))).collect())
    }

    fn look_up(&mut self, name: &str) -> Vec<IpAddr> {
        let answers = self.0.get_mut(name).unwrap_or_else(|| panic!("{name} was looked up"));
        if answers.len() > 1 { answers.pop().unwrap() } else { answers[0].clone() }
    }
}

/// Result of a CONNECT to `target`: `bad KIND`, `denied WORD`, `barred BLOCK`, or `dials
/// ADDRESSES`.
fn outcome(target: &[u8], policy: &EgressPolicy, guard: &Guard, resolver: &mut Resolver) -> String {
    let destination = match Destination::parse(target, None) {
        Ok(destination) => destination,
        Err(why) => return format!("bad {why:?}"),
    };
    let grant = match policy.decide(&client("192.0.2.1"), &destination, RequestForm::Connect, now())
    {
        Verdict::Allowed(grant) => grant,
        Verdict::Denied(denial) => return format!("denied {}", denial.reason.word()),
    };
    let found = match &destination.host {
        Host::Addr(ip) => vec![*ip],
        Host::Name(name) => resolver.look_up(name.as_str()),
    };
    let judged = found.iter().map(|ip| guard.check(&grant.rule, *ip, destination.port));
    let (good, bad): (Vec<_>, Vec<_>) = judged.partition(Result::is_ok);
    match (good.as_slice(), bad.first()) {
        ([], Some(Err(Blocked::Special { what, .. }))) => format!("barred {what:?}"),
        ([], _) => "barred Own".to_owned(),
        (good, _) => {
            let good: Vec<_> = good.iter().map(|addr| addr.unwrap().get().to_string()).collect();
            format!("dials {}", good.join(" "))
        }
    }
}

/// Own listeners: the reverse proxy on every IPv4 address and on one of IPv6, and two that are
/// never dialled.
fn guard() -> Guard {
    let own =
        |text: &str, may_be_listed| OwnAddress { address: text.parse().unwrap(), may_be_listed };
    Guard::with_locals(
        vec![
            own("0.0.0.0:8443", true),
            own("[2a00:1450::7]:8443", true),
            own("8.8.4.4:3128", false),
            own("0.0.0.0:9145", false),
        ],
        |ip| ip.to_string() == "8.8.4.4" || ip.is_loopback(),
    )
}

mod hostile;

#[test]
fn every_hostile_destination_has_its_expected_outcome() {
    // The widest possible rule: only spelling and guard can deny from here on.
    let policy = policy(vec![
        rule("all", &["0.0.0.0/0", "::/0", "*.example.com", "example.com", "localhost", "*.test"]),
        ForwardRule { effect: RuleEffect::Deny, ..rule("never", &["denied.example.com"]) },
    ]);
    let guard = guard();
    let mut wrong = Vec::new();
    assert!(hostile::DESTINATIONS.len() >= 150, "{}", hostile::DESTINATIONS.len());
    for (target, expected) in hostile::DESTINATIONS {
        let mut resolver = Resolver::new(hostile::NAMES);
        let is = outcome(target, &policy, &guard, &mut resolver);
        if is != *expected {
            wrong.push(format!("{:?}: {is}, not {expected}", String::from_utf8_lossy(target)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn oversized_destinations_are_rejected() {
    for part in ["a", "a.", "1", "[", ":", "0x", "%41", "\u{e9}", "@", "\r\n"] {
        let target = part.repeat(100_000);
        let why = Destination::parse(target.as_bytes(), Some(443)).unwrap_err();
        assert_eq!(why, DestinationError::TooLong, "{part}");
    }
}

#[test]
fn a_name_is_checked_again_at_every_look_up() {
    let policy = policy(vec![rule("all", &["*.example.com"])]);
    let mut resolver = Resolver::new(&[(
        "rebinding.example.com",
        &["8.8.8.8", "127.0.0.1", "8.8.8.8 169.254.169.254"],
    )]);
    let guard = guard();
    let mut ask = || outcome(b"rebinding.example.com:443", &policy, &guard, &mut resolver);
    assert_eq!(ask(), "dials 8.8.8.8:443");
    assert_eq!(ask(), "barred Loopback");
    assert_eq!(ask(), "dials 8.8.8.8:443");
}

#[test]
fn denied_names_are_never_looked_up() {
    let policy = policy(vec![rule("one", &["example.com"])]);
    // This resolver panics when it is called.
    let mut resolver = Resolver::new(&[]);
    let guard = guard();
    for target in ["other.example.com:443", "2130706433:443", "127.1:443", "0x7f.1:443"] {
        let is = outcome(target.as_bytes(), &policy, &guard, &mut resolver);
        assert!(is.starts_with("denied") || is.starts_with("bad"), "{target}: {is}");
    }
}

#[test]
fn only_listed_destinations_are_dialled() {
    let listed = ForwardRule {
        private_networks: ["10.1.0.0/16", "::ffff:0:0/96", "8.8.4.4/32"]
            .iter()
            .map(|net| net.parse().unwrap())
            .collect(),
        ..rule("inside", &["*.test", "8.8.4.4"])
    };
    let policy = policy(vec![listed]);
    let guard = guard();
    for (answer, expected) in [
        ("10.1.2.3", "dials 10.1.2.3:8443"),
        ("10.2.2.3", "barred Private"),
        ("::ffff:10.1.2.3", "dials 10.1.2.3:8443"),
        ("::ffff:10.2.2.3", "barred Private"),
        ("::ffff:8.8.8.8", "dials 8.8.8.8:8443"),
        ("64:ff9b::10.1.2.3", "barred Nat64"),
        ("8.8.4.4", "dials 8.8.4.4:8443"),
    ] {
        let mut resolver =
            Resolver(HashMap::from([("a.test", vec![vec![answer.parse().unwrap()]])]));
        assert_eq!(outcome(b"a.test:8443", &policy, &guard, &mut resolver), expected, "{answer}");
    }
    // The forward proxy itself and the admin listener stay closed.
    let mut resolver = Resolver::new(&[]);
    assert_eq!(outcome(b"8.8.4.4:3128", &policy, &guard, &mut resolver), "barred Own");
    assert_eq!(outcome(b"8.8.4.4:9145", &policy, &guard, &mut resolver), "barred Own");
}

#[test]
fn a_grant_outlives_its_policy() {
    let policy = policy(vec![rule("one", &["example.com"])]);
    let Verdict::Allowed(grant) =
        policy.decide(&client("192.0.2.1"), &to("example.com:443"), RequestForm::Connect, now())
    else {
        panic!("denied");
    };
    drop(policy);
    assert_eq!(Arc::strong_count(&grant.rule), 1);
    assert_eq!(grant.rule.settings.name, "one");
}
