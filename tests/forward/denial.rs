//! Denied requests and their explanations, and authentication by user and password.

use crate::raw_conn::{Message, text};
use crate::world::{FACEBOOK, Setup, World};

/// One rule for a single user and one for every client.
const USERS: Setup = Setup {
    forward: "users-file = \"DIR/users\"",
    hosts: "",
    limits: "",
    timeouts: "",
    listener: "",
    rules: r#"
[[forward.rule]]
name = "twilio"
users = ["file-engine"]
allow = ["api.twilio.com"]
ports = [PORT]
connect-ports = [PORT]
private-networks = ["127.0.0.0/8"]
"#,
};

fn users() -> World {
    World::prepared(USERS, |dir| {
        let hash = bcrypt::hash("wing beat", 4).unwrap();
        std::fs::write(dir.join("users"), format!("file-engine:{hash}\n")).unwrap();
    })
}

fn basic(pair: &str) -> String {
    // Base64 (RFC 4648) of text whose length is a multiple of three bytes.
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert_eq!(pair.len() % 3, 0, "no padding here");
    let digits = pair.as_bytes().chunks(3).flat_map(|three| {
        let bits = three.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(LETTERS[bits >> shift & 63]))
    });
    format!("Proxy-Authorization: Basic {}\r\n", digits.collect::<String>())
}

fn check(answer: &Message, status: u16, reason: &str, error: &str) {
    assert_eq!(answer.status(), status, "{}", text(&answer.head));
    assert_eq!(answer.field("gateway-reason").as_deref(), Some(reason));
    let expected = format!("app-gateway; error={error}; details=\"{reason}\"");
    assert_eq!(answer.field("proxy-status").as_deref(), Some(expected.as_str()));
    assert!(text(&answer.body).contains(reason));
}

#[test]
fn a_denial_has_the_same_id_in_answer_and_log() {
    let mut world = World::plain();
    let mut client = world.sent("CONNECT chatapi.viber.com:PORT HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer();
    check(&answer, 403, "egress_denied", "http_request_denied");
    let body = text(&answer.body);
    for part in
        ["chatapi.viber.com", "rule `facebook`", "gateway.toml:", "add \"chatapi.viber.com\""]
    {
        assert!(body.contains(part), "{part} is missing: {body}");
    }
    let line = world.lines_of(client.local(), 1).remove(0);
    let id = answer.field("x-request-id").unwrap();
    assert_eq!(line["id"], id.as_str());
    assert!(body.contains(&id));
    assert!(line["error"].as_str().unwrap().contains("chatapi.viber.com"));
    let counted = "egress_requests_total{result=\"egress_denied\",rule=\"facebook\"} 1";
    assert!(world.metrics().contains(counted), "{}", world.metrics());
    assert!(!world.was_dialled());
    world.ends_with(&["egress CONNECT 403 egress_denied"]);
}

#[test]
fn a_denial_is_json_for_clients_that_accept_it() {
    let world = World::plain();
    let mut client = world.sent(
        "GET http://chatapi.viber.com:PORT/ HTTP/1.1\r\nHost: a\r\nAccept: application/json, text/plain, */*\r\n\r\n",
    );
    let answer = client.answer();
    assert_eq!(answer.field("content-type").as_deref(), Some("application/json"));
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["reason"], "egress_denied");
    assert_eq!(body["rule"], "facebook");
    assert_eq!(body["id"].as_str(), answer.field("x-request-id").as_deref());
    // A denial keeps the connection open.
    client.send("GET http://chatapi.viber.com/ HTTP/1.1\r\nHost: a\r\n\r\n");
    check(&client.answer(), 403, "egress_denied", "http_request_denied");
}

#[test]
fn requests_that_are_not_for_a_proxy_are_rejected_with_an_explanation() {
    let world = World::plain();
    for (request, status, reason) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "not_a_proxy_request"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "not_a_proxy_request"),
        ("GET ftp://graph.facebook.com/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_target"),
        (
            "GET https://graph.facebook.com/ HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "https_without_connect",
        ),
        ("CONNECT graph.facebook.com HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_destination"),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_destination"),
        ("CONNECT u:p@graph.facebook.com:PORT HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_destination"),
        (
            "GET http://u:p@graph.facebook.com:PORT/ HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "bad_destination",
        ),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_host"),
        ("CONNECT a:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400, "ambiguous_framing"),
        ("CONNECT a:443 HTTP/1.1\nHost: a\n\n", 400, "bare_lf"),
        ("CONNECT a:443 HTTP/2.0\r\n\r\n", 505, "http_version"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 400, "bad_request"),
    ] {
        let mut client = world.sent(request);
        let answer = client.answer();
        assert_eq!(answer.status(), status, "{request}");
        assert_eq!(answer.field("gateway-reason").as_deref(), Some(reason), "{request}");
        assert!(answer.field("proxy-status").is_some());
    }
    let mut client = world.sent("GET https://graph.facebook.com/ HTTP/1.1\r\nHost: a\r\n\r\n");
    let said = text(&client.answer().body);
    assert!(said.contains("httpsAgent") && said.contains("https-absolute-form = true"), "{said}");
    assert!(!world.was_dialled());
}

#[test]
fn a_password_in_a_url_is_not_in_the_log() {
    let mut world = World::plain();
    for target in [
        "CONNECT bob:hunter2@graph.facebook.com:PORT",
        "GET http://bob:hunter2@graph.facebook.com:PORT/",
        "GET http://bob:hunter2@graph.facebook.com:PORT/?sig[]=hunter2;otp=hunter2",
    ] {
        let mut client = world.sent(&format!("{target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.answer();
        assert_eq!(answer.field("gateway-reason").as_deref(), Some("bad_destination"), "{target}");
        assert!(!text(&answer.body).contains("hunter2"));
        let line = world.lines_of(client.local(), 1).remove(0);
        let destination = format!("***@graph.facebook.com:{}", world.port());
        assert_eq!(line["destination"], destination.as_str(), "{line}");
    }
    assert!(!world.log().contains("hunter2") && !world.log().contains("bob"), "{}", world.log());
}

#[test]
fn a_407_keeps_the_connection_open() {
    let mut world = users();
    let connect = "CONNECT api.twilio.com:PORT HTTP/1.1\r\nHost: api.twilio.com:PORT\r\n";
    let mut client = world.sent(&format!("{connect}\r\n"));
    let answer = client.answer();
    check(&answer, 407, "proxy_auth_required", "http_request_denied");
    let challenge = answer.field("proxy-authenticate").unwrap();
    assert!(challenge.starts_with("Basic realm="), "{challenge}");
    assert_eq!(answer.field("content-length"), Some(answer.body.len().to_string()));
    assert_eq!(answer.field("connection"), None);

    let port = world.port().to_string();
    let wrong = format!("{connect}{}\r\n", basic("file-engine:wrong one"));
    client.send(wrong.replace("PORT", &port));
    let answer = client.answer();
    check(&answer, 407, "proxy_auth_failed", "http_request_denied");
    assert!(answer.field("proxy-authenticate").is_some());

    let right = format!("{connect}{}\r\n", basic("file-engine:wing beat"));
    client.send(right.replace("PORT", &port));
    assert!(text(&client.head()).starts_with("HTTP/1.1 200 "));
    let mut origin = world.accept();
    client.send("x");
    origin.expect("x");
    drop(client);
    origin.end();
    drop(origin);
    let lines = world.log();
    assert!(!lines.contains("wing") && !lines.contains("Basic"), "{lines}");
    world.stop();
    assert!(world.log().contains("\"user\":\"file-engine\""));
    assert_log_lines(&world, 3);
}

fn assert_log_lines(world: &World, lines: usize) {
    assert_eq!(world.log().lines().count(), lines, "{}", world.log());
}

#[test]
fn credentials_in_absolute_form_requests_are_not_forwarded() {
    let world = users();
    let head = format!(
        "GET http://api.twilio.com:PORT/ HTTP/1.1\r\nHost: a\r\n{}\r\n",
        basic("file-engine:wing beat")
    );
    let mut client = world.sent(&head);
    let mut origin = world.accept();
    let forwarded = text(&origin.head());
    assert!(!forwarded.to_lowercase().contains("proxy-"), "{forwarded}");
    origin.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert!(text(&client.head()).starts_with("HTTP/1.1 204 "));
}

#[test]
fn password_verification_does_not_block_the_worker() {
    let world = World::prepared(USERS, |dir| {
        // Verification of one password takes seconds.
        let hash = bcrypt::hash("wing beat", 13).unwrap();
        std::fs::write(dir.join("users"), format!("file-engine:{hash}\n")).unwrap();
    });
    let slow: Vec<_> = ["file-engine:guess1", "file-engine:guess2"]
        .iter()
        .map(|pair| {
            world.sent(&format!(
                "CONNECT api.twilio.com:PORT HTTP/1.1\r\nHost: a\r\n{}\r\n",
                basic(pair)
            ))
        })
        .collect();
    // The only worker answers other clients meanwhile.
    let mut other = world.sent("CONNECT chatapi.viber.com:PORT HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(other.answer().status(), 403);
    for mut client in slow {
        assert_eq!(client.answer().status(), 407);
    }
}

#[test]
fn credentials_are_not_verified_if_no_rule_requires_them() {
    let rules: &'static str = format!(
        "{FACEBOOK}{}",
        USERS.rules.replace("users =", "clients = [\"10.0.0.0/8\"]\nusers =")
    )
    .leak();
    let world = World::prepared(Setup { rules, ..USERS }, |dir| {
        // Verification of one password takes a second or more.
        let hash = bcrypt::hash("wing beat", 14).unwrap();
        std::fs::write(dir.join("users"), format!("file-engine:{hash}\n")).unwrap();
    });
    let begun = std::time::Instant::now();
    let mut client = world.sent(&format!(
        "CONNECT graph.facebook.com:PORT HTTP/1.1\r\nHost: a\r\n{}\r\n",
        basic("old:secrets1")
    ));
    assert!(text(&client.head()).starts_with("HTTP/1.1 200 "));
    drop(world.accept());
    // The rule with `users` is for other clients.
    for guess in 10..30 {
        let mut client = world.sent(&format!(
            "CONNECT api.twilio.com:PORT HTTP/1.1\r\nHost: a\r\n{}\r\n",
            basic(&format!("file-engine:guess{guess}--"))
        ));
        check(&client.answer(), 403, "egress_denied", "http_request_denied");
    }
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[test]
fn password_guesses_are_limited_and_authenticated_clients_continue() {
    let world = users();
    let log_in = |pair: &str| {
        let request =
            format!("GET http://api.twilio.com:PORT/ HTTP/1.1\r\nHost: a\r\n{}\r\n", basic(pair));
        world.sent(&request)
    };
    let mut client = log_in("file-engine:wing beat");
    let served = || {
        let mut origin = world.accept();
        origin.head();
        origin.send("HTTP/1.1 204 No Content\r\n\r\n");
    };
    served();
    assert!(text(&client.head()).starts_with("HTTP/1.1 204 "));
    let answers: Vec<_> =
        (10..40).map(|guess| log_in(&format!("file-engine:wrong{guess}--")).answer()).collect();
    check(&answers[0], 407, "proxy_auth_failed", "http_request_denied");
    let last = answers.last().unwrap();
    check(last, 429, "too_many_logins", "connection_limit_reached");
    assert!(last.field("retry-after").unwrap().parse::<u64>().unwrap() <= 3);
    let mut client = log_in("file-engine:wing beat");
    served();
    assert!(text(&client.head()).starts_with("HTTP/1.1 204 "));
}

#[test]
fn report_mode_allows_and_logs_requests_that_would_be_denied() {
    let setup = Setup {
        rules: r#"
[[forward.rule]]
name = "learning"
clients = ["127.0.0.0/8"]
mode = "report"
private-networks = ["127.0.0.0/8"]
sni = { mismatch = "allow", missing = "allow", not-tls = "allow" }
"#,
        ..Setup::default()
    };
    let mut world = World::with(setup);
    let (client, origin) = world.tunnel("chatapi.viber.com");
    let local = client.local();
    let told = world.command(&["egress", "list"]);
    let port = world.port();
    for part in [format!("chatapi.viber.com:{port}"), "learning".to_owned(), local.to_string()] {
        assert!(told.contains(&part), "{part} is missing: {told}");
    }
    drop((client, origin));
    let suggested = world.command(&["egress", "suggest"]);
    for part in ["[[forward.rule]]", "\"chatapi.viber.com\"", "clients = [\"127.0.0.1\"]"] {
        assert!(suggested.contains(part), "{part} is missing: {suggested}");
    }
    world.wait("the tunnel to be off the list", |world| {
        world.command(&["egress", "list"]) == "no tunnel is open\n"
    });
    let line = world.lines_of(local, 1).remove(0);
    assert_eq!(line["would_deny"], "egress_denied");
    assert_eq!(line["status"], 200);
    assert!(world.metrics().contains("app_gateway_egress_report_only_total{rule=\"learning\"} 1"));
}
