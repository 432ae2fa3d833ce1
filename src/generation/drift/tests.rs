use std::fs;

use super::*;
use crate::config;
use crate::generation::compile;
use crate::message::Reason;
use crate::telemetry::Metrics;
use crate::tls;

const PROFILE: &str = "[gateway]\nshared-secret-file = 'secret'\n\
    [gateway.drift]\npeers = ['twin']\nignore = ['profile.lan.hosts', 'gone.*']\n\
    [upstream.twin]\nendpoints = ['https://127.0.0.1:9']\nverify = 'none'\n\
    [upstream.chat]\nendpoints = ['https://127.0.0.1:8']\nverify = 'none'\n\
    [profile.lan]\nhosts = ['a.test']\n\
    listener = [{ listen = '127.0.0.1:8080', redirect-to-https = 443 }]\n\
    route = [{ path = '/', upstream = 'chat' }, { path = '/drift', drift = true }]\n\
    timeouts = { header = '10s' }\n";

const SECRET: &str = "c3VwZXJzZWNyZXQwMTIzNDU2Nzg5YWJjZGVmZ2hpamtsbW5vcA==";
const OTHER: &str = "cG9ubWxramloZ2ZlZGNiYTk4NzY1NDMyMTB0ZXJjZXNyZXB1cw==";

/// A generation with its digest, and the codes of its warnings.
fn digest(text: &str, secrets: &[&str]) -> (Generation, Vec<&'static str>) {
    let dir = tempfile::tempdir().unwrap();
    let secrets = format!("{}\n", secrets.join("\n"));
    for (name, text) in [("a.toml", text), ("secret", &secrets)] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let env = |_: &str| None;
    let config = config::load(dir.path(), &env)
        .unwrap_or_else(|r| panic!("{}", config::draw(&r.sources, &r.problems, false)))
        .config;
    let metrics = Metrics::new(Reason::ALL.iter().map(|reason| reason.word())).unwrap();
    let compiled = compile(config, &tls::provider(), &metrics, None);
    let compiled = compiled.unwrap_or_else(|refused| panic!("{:?}", refused.1));
    let codes = compiled.warnings.iter().map(|problem| problem.code).collect();
    (compiled.generation, codes)
}

/// Differences of the first gateway from the second, as the first reports them.
fn differences(one: &Generation, two: &Generation) -> Option<Vec<String>> {
    let (one, two) = (one.digest.get().unwrap(), two.digest.get().unwrap());
    let keyed = &one.by_secret[0];
    // Called directly, because `judge` recognises answers of its own process.
    let question = one.question().unwrap();
    two.answer_at(question.as_bytes(), now())?;
    let other = two
        .by_secret
        .iter()
        .find(|p| p.wire.verify_question(question.as_bytes()).is_some())
        .unwrap();
    assert_eq!(one.judge(&question, b"1 sheet 0 x y\n[]").0, PeerState::Unverified);
    let found = one.compare(keyed, serde_json::from_str(&other.body).unwrap());
    Some(found.iter().map(|d| format!("{}: {} {}: {}", d.class, d.what, d.how, d.here)).collect())
}

#[test]
fn equal_configurations_are_alike() {
    let (one, warned) = digest(PROFILE, &[SECRET]);
    assert!(warned.contains(&"drift.differs"), "{warned:?}");
    let moved = PROFILE.replace("a.test", "b.test").replace(":8080", ":8081").replace(":9'", ":7'");
    let (two, _) = digest(&format!("# a comment\n{moved}"), &[SECRET]);
    assert_eq!(differences(&one, &two), Some(vec![]));
    let digest = one.digest.get().unwrap();
    let question = digest.question().unwrap();
    let answer = digest.answer_at(question.as_bytes(), now()).unwrap();
    assert_eq!(digest.judge(&question, answer.as_bytes()).0, PeerState::Itself);
}

#[test]
fn each_gateway_reports_its_own_values_of_differences() {
    let (one, _) = digest(PROFILE, &[SECRET]);
    let other = PROFILE
        .replace("'10s'", "'11s', keep-alive = '60s'")
        .replace("path = '/',", "path = '/x/',");
    let (two, _) = digest(&other, &[SECRET]);
    let found = differences(&one, &two).unwrap();
    assert_eq!(
        found.iter().map(|line| line.split(" (").next().unwrap()).collect::<Vec<_>>(),
        [
            "configuration: profile.lan.timeouts.header differs: \"10s\"",
            "configuration: route.lan./.path only here: \"/\"",
            "configuration: route.lan./.upstream only here: \"chat\"",
            "configuration: profile.lan.timeouts.keep-alive only there: ",
            "configuration: route.lan./x/.path only there: ",
            "configuration: route.lan./x/.upstream only there: ",
        ]
    );
    assert!(found[0].ends_with("a.toml:16)"), "{}", found[0]);
}

#[test]
fn a_secret_replaced_on_one_gateway_is_reported() {
    let (one, _) = digest(PROFILE, &[SECRET]);
    let (two, _) = digest(PROFILE, &[OTHER, SECRET]);
    let (stranger, _) = digest(PROFILE, &[OTHER]);
    let expected = vec!["secrets: gateway.shared-secret-file.contents differs: ".to_owned()];
    assert_eq!(differences(&one, &two), Some(expected.clone()));
    assert_eq!(differences(&stranger, &two), Some(expected));
    assert_eq!(differences(&one, &stranger), None);
}

#[test]
fn answers_contain_no_values_and_no_unkeyed_hashes() {
    let (one, _) = digest(PROFILE, &[SECRET]);
    let (two, _) = digest(PROFILE, &[OTHER]);
    let body = |generation: &Generation| generation.digest.get().unwrap().by_secret[0].body.clone();
    let rows = |generation: &Generation| -> Vec<DigestRow> {
        serde_json::from_str(&body(generation)).unwrap()
    };
    assert!(!body(&one).contains("a.test") && !body(&one).contains(&SECRET[..12]));
    for (a, b) in rows(&one).iter().zip(rows(&two)) {
        assert_eq!(a.1, b.1);
        assert_ne!(a.2, b.2, "{}: its hash does not depend on the secret", a.1);
    }
}

#[test]
fn patterns() {
    for (pattern, name) in [
        ("a.b", "a.b"),
        ("*", "anything"),
        ("upstream.*.endpoints", "upstream.chat.x.endpoints"),
        ("*.b", "a.b"),
        ("a*", "a"),
        ("a*b*c", "abbc"),
        ("a**b", "ab"),
    ] {
        assert!(matches(pattern, name), "{pattern} {name}");
    }
    for (pattern, name) in [
        ("a.b", "a.b.c"),
        ("a.b", "xa.b"),
        ("a*a", "a"),
        ("*.b", "a.bc"),
        ("", "a"),
        ("a*b*b", "ab"),
    ] {
        assert!(!matches(pattern, name), "{pattern} {name}");
    }
}
