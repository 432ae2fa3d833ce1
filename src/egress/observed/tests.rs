use std::fs;

use super::*;
use crate::config;
use crate::egress::tests::{client, to};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn some() -> Observations {
    let seen = Observations::default();
    let (fe, ccm) = (client("10.0.0.5"), client("10.0.0.6"));
    seen.note(&fe, &to("cdn.example.com:443"), RequestForm::Connect, at("2026-06-01T12:00:00Z"));
    seen.note(&fe, &to("cdn.example.com:443"), RequestForm::Connect, at("2026-06-02T12:00:00.5Z"));
    seen.note(&fe, &to("api.example.com:443"), RequestForm::Connect, at("2026-06-01T13:00:00Z"));
    seen.note(&fe, &to("old.example.com:8443"), RequestForm::Connect, at("2026-06-01T14:00:00Z"));
    let user = EgressClient { user: Some("c\"cm"), ..ccm };
    seen.note(&user, &to("8.8.8.8:53"), RequestForm::Connect, at("2026-06-01T15:00:00Z"));
    seen.note(&user, &to("8.8.8.8:443"), RequestForm::Connect, at("2026-06-01T14:00:00Z"));
    seen.note(&ccm, &to("ocsp.example.com:80"), RequestForm::Http, at("2026-06-01T14:00:00Z"));
    seen
}

#[test]
fn observations_are_counted_per_client_and_destination() {
    let report = some().report();
    let cdn = report.sightings.iter().find(|sighting| sighting.host == "cdn.example.com").unwrap();
    assert_eq!((cdn.count, cdn.port), (2, 443));
    assert_eq!((cdn.first, cdn.last), (at("2026-06-01T12:00:00Z"), at("2026-06-02T12:00:00.5Z")));
    assert_eq!(report.sightings.len(), 6);
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<ObservationReport>(&text).unwrap(), report);
}

#[test]
fn suggested_rules_list_the_observed_destinations() {
    let expected = "\
# Seen in report mode, and not allowed by any rule. Read it before you use it: what a client
# asked for is not yet what it should be allowed to have.

[[forward.rule]]
name = \"seen-1\"
clients = [\"10.0.0.5\"]
allow = [
    \"api.example.com\",                       # 1 x, 2026-06-01T13:00:00Z to 2026-06-01T13:00:00Z
    \"cdn.example.com\",                       # 2 x, 2026-06-01T12:00:00Z to 2026-06-02T12:00:00Z
]

[[forward.rule]]
name = \"seen-2\"
clients = [\"10.0.0.5\"]
connect-ports = [8443]
allow = [
    \"old.example.com\",                       # 1 x, 2026-06-01T14:00:00Z to 2026-06-01T14:00:00Z
]

[[forward.rule]]
name = \"seen-3\"
clients = [\"10.0.0.6\"]
ports = [80]
allow = [
    \"ocsp.example.com\",                      # 1 x, 2026-06-01T14:00:00Z to 2026-06-01T14:00:00Z
]

[[forward.rule]]
name = \"seen-4\"
clients = [\"10.0.0.6\"]
users = [\"c\\\"cm\"]
connect-ports = [53, 443]
allow = [
    \"8.8.8.8\",                               # 2 x, 2026-06-01T14:00:00Z to 2026-06-01T15:00:00Z
]
";
    assert_eq!(some().report().toml(), expected);
    assert!(ObservationReport::default().toml().starts_with("# Report mode recorded no"));
}

#[test]
fn suggested_rules_are_a_valid_configuration() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("users"), "").unwrap();
    let listener =
        "[forward]\nusers-file = \"users\"\n[[forward.listener]]\nlisten = \"127.0.0.1:3128\"\n";
    fs::write(dir.path().join("a.toml"), format!("{listener}{}", some().report().toml())).unwrap();
    let loaded = config::load(dir.path(), &|_| None)
        .unwrap_or_else(|r| panic!("{}", config::draw(&r.sources, &r.problems, false)));
    let rules = &loaded.config.forward.as_ref().unwrap().rules;
    let policy = crate::egress::tests::policy(rules.clone());
    for sighting in some().report().sightings {
        let destination =
            Destination::parse(format!("{}:{}", sighting.host, sighting.port).as_bytes(), None);
        let client =
            EgressClient { ip: sighting.client, user: sighting.user.as_deref(), names: &[] };
        let form = if sighting.how == How::Url { RequestForm::Http } else { RequestForm::Connect };
        let verdict = policy.decide(&client, &destination.unwrap(), form, Timestamp::now());
        assert!(matches!(verdict, crate::egress::Verdict::Allowed(_)), "{sighting:?}");
    }
}

#[test]
fn the_number_of_observations_is_limited() {
    let seen = Observations::default();
    let client = client("10.0.0.5");
    for number in 0..MAX_OBSERVATIONS + 7 {
        seen.note(
            &client,
            &to(&format!("host-{number}.example.com:443")),
            RequestForm::Connect,
            at("2026-06-01T12:00:00Z"),
        );
    }
    // Known destinations are still counted.
    seen.note(
        &client,
        &to("host-0.example.com:443"),
        RequestForm::Connect,
        at("2026-06-01T12:00:00Z"),
    );
    let report = seen.report();
    assert_eq!((report.sightings.len(), report.unkept), (MAX_OBSERVATIONS, 7));
    assert!(report.toml().contains("INCOMPLETE: there was no room for 7 requests"));
}
