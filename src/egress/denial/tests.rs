use super::*;
use crate::config::{ForwardRule, RuleEffect};
use crate::egress::tests::{client, now, policy, rule, to};
use crate::egress::{EgressPolicy, Guard, Verdict};

fn denied(policy: &EgressPolicy, client: &EgressClient<'_>, destination: &str) -> Denial {
    match policy.decide(client, &to(destination), RequestForm::Connect, now()) {
        Verdict::Denied(denial) => denial,
        Verdict::Allowed(grant) => {
            panic!("{destination} is allowed by {}", grant.rule.settings.name)
        }
    }
}

fn rules() -> EgressPolicy {
    policy(vec![
        ForwardRule {
            clients: vec!["10.0.0.0/8".parse().unwrap()],
            ports: vec![443],
            connect_ports: vec![443],
            ..rule("platforms", &["api.twilio.com"])
        },
        ForwardRule { effect: RuleEffect::Deny, ..rule("never", &["*.ngrok.io"]) },
        ForwardRule {
            users: vec!["fe".to_owned()],
            clients: vec!["192.0.2.0/24".parse().unwrap()],
            ..rule("files", &["cdn.example.com"])
        },
        ForwardRule { until: Some(now()), ..rule("over", &["old.example.com"]) },
    ])
}

#[test]
fn every_denial_names_the_setting_and_its_file() {
    let policy = rules();
    let (inside, outside) = (client("10.0.0.5"), client("192.0.2.7"));
    let user = EgressClient { user: Some("ccm"), ..outside };
    for (client, destination, way_out) in [
        (
            inside,
            "example.org:443",
            "add \"example.org\" to `allow` of rule `platforms` in config/forward.toml:10",
        ),
        (
            inside,
            "example.org:8443",
            "add \"example.org\" to `allow`, and 8443 to `connect-ports`, of rule `platforms` in config/forward.toml:10",
        ),
        (
            inside,
            "8.8.8.8:443",
            "add \"8.8.8.8\" to `allow` of rule `platforms` in config/forward.toml:10",
        ),
        (
            inside,
            "api.twilio.com:8443",
            "add 8443 to `connect-ports` of rule `platforms` in config/forward.toml:10",
        ),
        (
            inside,
            "x.ngrok.io:443",
            "take it out of `deny` of rule `never` in config/forward.toml:20",
        ),
        (
            outside,
            "cdn.example.com:443",
            "send Proxy-Authorization with a user of rule `files` (config/forward.toml:30)",
        ),
        (
            inside,
            "old.example.com:443",
            "change `from` and `until` of rule `over` in config/forward.toml:40: it holds until 2026-06-01T12:00:00Z",
        ),
    ] {
        let denial = denied(&policy, &client, destination);
        let said = denial.way_out(&client, &to(destination)).unwrap();
        assert_eq!(said, way_out, "{destination}");
    }
    // Rule `over` is for all clients; without it these have no rule of their own.
    let policy =
        self::policy(rules().rules()[..3].iter().map(|rule| rule.settings.clone()).collect());
    for (client, destination, way_out) in [
        (
            outside,
            "api.twilio.com:443",
            "add \"192.0.2.7\" to `clients` of rule `platforms` in config/forward.toml:10",
        ),
        (
            user,
            "cdn.example.com:443",
            "add \"ccm\" to `users` of rule `files` in config/forward.toml:30",
        ),
        (
            outside,
            "example.org:8443",
            "add a [[forward.rule]] with `clients = [\"192.0.2.7\"]` and `allow = [\"example.org\"]` and `connect-ports = [8443]`",
        ),
    ] {
        let denial = denied(&policy, &client, destination);
        let said = denial.way_out(&client, &to(destination)).unwrap();
        assert_eq!(said, way_out, "{destination}");
    }
}

#[test]
fn a_denial_has_the_documented_text() {
    let policy = rules();
    let client = client("10.0.0.5");
    let destination = to("api.twilio.com:8443");
    let text = denied(&policy, &client, "api.twilio.com:8443").text(&client, &destination, "01J");
    let expected = "\
egress_port: A rule of the forward proxy allows this host, but not this port.

destination  api.twilio.com:8443
client       10.0.0.5
why          rule `platforms` allows api.twilio.com, but not CONNECT to port 8443
rule         platforms (config/forward.toml:10)
to allow it  add 8443 to `connect-ports` of rule `platforms` in config/forward.toml:10
id           01J
";
    assert_eq!(text, expected);
}

#[test]
fn a_denial_as_json_has_the_same_content() {
    let policy = rules();
    let client = client("10.0.0.5");
    let denial = denied(&policy, &client, "example.org:443");
    let json = denial.json(&client, &to("example.org:443"), "01J");
    assert_eq!(json["reason"], "egress_denied");
    assert_eq!(json["rule"], "platforms");
    assert_eq!(json["at"], "config/forward.toml:10");
    assert_eq!(json["destination"], "example.org:443");
    assert_eq!(json["id"], "01J");
    assert!(json["way_out"].as_str().unwrap().contains("`allow`"));
}

#[test]
fn a_barred_address_is_reported_with_the_entry_that_allows_it() {
    let policy = rules();
    let rule = &policy.rules()[0];
    let (client, destination) = (client("10.0.0.5"), to("api.twilio.com:443"));
    let barred = Guard::new(Vec::new()).check(rule, "10.9.9.9".parse().unwrap(), 443).unwrap_err();
    let denial = Denial::barred(rule, barred, RequestForm::Connect);
    assert_eq!(denial.reason, Reason::EgressAddress);
    assert_eq!(
        denial.why(&client, &destination),
        "10.9.9.9 is private (RFC 1918), in 10.0.0.0/8, and rule `platforms` does not list it"
    );
    assert_eq!(
        denial.way_out(&client, &destination).unwrap(),
        "add \"10.9.9.9\" to `private-networks` of rule `platforms` in config/forward.toml:10"
    );
    // The client is not told which address it is.
    let [text, json] = [
        denial.text(&client, &destination, "01J"),
        denial.json(&client, &destination, "01J").to_string(),
    ];
    for said in [text, json] {
        assert!(!said.contains("10.9.9.9") && !said.contains("10.0.0.0/8"), "{said}");
        assert!(said.contains("app-gateway explain egress api.twilio.com:443 --client 10.0.0.5"));
    }
    // The client wrote the address itself, so it is no secret.
    let literal = denial.text(&client, &to("10.9.9.9:443"), "01J");
    assert!(literal.contains("add \"10.9.9.9\" to `private-networks`"), "{literal}");
    let own = Blocked::Own { ip: "10.9.9.9".parse().unwrap(), may_be_listed: false };
    assert_eq!(
        Denial::barred(rule, own, RequestForm::Connect).way_out(&client, &destination),
        None
    );
}
