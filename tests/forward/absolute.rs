//! Requests in absolute form.

use crate::raw_conn::text;
use crate::world::{FACEBOOK, Setup, World, certificates};

#[test]
fn proxy_fields_are_removed_from_forwarded_requests() {
    let world = World::plain();
    let mut client = world.sent(
        "POST http://graph.facebook.com:PORT/v10.0/me?access_token=secret HTTP/1.1\r\n\
         Host: wrong.example\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic YTpi\r\n\
         Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
         X-Request-Id: mine\r\nAccept: */*\r\nContent-Length: 5\r\n\r\nhello",
    );
    let mut origin = world.accept();
    let port = world.port();
    origin.expect(&format!(
        "POST /v10.0/me?access_token=secret HTTP/1.1\r\nHost: graph.facebook.com:{port}\r\n\
         X-Request-Id: mine\r\nAccept: */*\r\nContent-Length: 5\r\nVia: 1.1 app-gateway\r\n\
         Connection: close\r\n\r\nhello"
    ));
    origin.send(
        "HTTP/1.1 201 Created\r\nX-Request-Id: theirs\r\ngateway-reason: forged\r\n\
         Connection: close, X-Hop\r\nX-Hop: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    let answer = client.answer();
    assert_eq!((answer.status(), text(&answer.body).as_str()), (201, "abc"));
    assert_eq!(answer.field("x-request-id").as_deref(), Some("theirs"));
    for gone in ["gateway-reason", "x-hop", "connection"] {
        assert_eq!(answer.field(gone), None, "{gone}");
    }
    // The client's connection carries a second request.
    client.send(format!("GET http://graph.facebook.com:{port} HTTP/1.1\r\n\r\n"));
    let mut origin = world.accept();
    assert!(text(&origin.head()).starts_with("GET / HTTP/1.1\n"));
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(text(&client.answer().body), "ok");
    drop(client);
    assert!(!world.log().contains("secret"));
    world.ends_with(&["egress POST 201", "egress GET 200"]);
}

#[test]
fn failures_of_the_origin_have_different_reasons() {
    let setup = Setup { timeouts: "first-byte = \"1s\"", ..Setup::default() };
    let world = World::with(setup);
    let request = "GET http://graph.facebook.com:PORT/ HTTP/1.1\r\nHost: a\r\n\r\n";
    for (said, status, reason) in [
        ("", 502, "upstream_closed"),
        ("SSH-2.0-OpenSSH\r\n\r\n", 502, "upstream_bad_answer"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", 502, "upstream_bad_answer"),
    ] {
        let mut client = world.sent(request);
        let mut origin = world.accept();
        origin.head();
        origin.send(said);
        drop(origin);
        let answer = client.answer();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.field("gateway-reason").as_deref(), Some(reason), "{said:?}");
    }
    let mut client = world.sent(request);
    let mut silent = world.accept();
    silent.head();
    let answer = client.answer();
    assert_eq!(answer.field("gateway-reason").as_deref(), Some("upstream_first_byte_timeout"));
    let expected =
        "app-gateway; error=http_response_timeout; details=\"upstream_first_byte_timeout\"";
    assert_eq!(answer.field("proxy-status").as_deref(), Some(expected));
}

#[test]
fn a_broken_answer_is_cut_and_a_client_that_leaves_is_logged() {
    let world = World::plain();
    let request = "GET http://graph.facebook.com:PORT/ HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = world.sent(request);
    let mut origin = world.accept();
    origin.head();
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    drop(origin);
    client.head();
    client.expect("abc");
    client.end();
    let client = world.sent(request);
    let mut origin = world.accept();
    origin.head();
    drop(client);
    origin.end();
    world.ends_with(&["egress GET 200 upstream_cut", "egress GET 499 client_gone"]);
}

#[test]
fn https_urls_are_fetched_over_verified_tls_if_configured() {
    let ca = certificates().ca.display().to_string();
    let ca: &'static str = ca.leak();
    let forward: &'static str =
        format!("https-absolute-form = true\nhttps-ca-file = \"{ca}\"").leak();
    let rules: &'static str = FACEBOOK
        .replace("\"graph.facebook.com\",", "\"graph.facebook.com\", \"localhost\",")
        .leak();
    let hosts = "\"localhost\" = [\"ADDRESS\"]";
    let world = World::with(Setup { forward, hosts, rules, ..Setup::default() });
    // The demo's certificates are valid for localhost.
    let mut client =
        world.sent("GET https://localhost:PORT/me HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut origin = crate::tls::as_origin(&world.accept());
    let head = text(&origin.head());
    assert!(
        head.starts_with(&format!("GET /me HTTP/1.1\nHost: localhost:{}\n", world.port())),
        "{head}"
    );
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(text(&client.answer().body), "ok");
    // A host that the certificate does not cover.
    let port = world.port();
    client.send(format!("GET https://graph.facebook.com:{port}/ HTTP/1.1\r\nHost: a\r\n\r\n"));
    let origin = world.accept();
    let refused = std::thread::spawn(move || crate::tls::try_as_origin(&origin));
    let answer = client.answer();
    assert_eq!(answer.field("gateway-reason").as_deref(), Some("upstream_tls_failed"));
    assert!(text(&answer.body).contains("graph.facebook.com"));
    let _ = refused.join();
}

#[test]
fn max_forwards_is_decremented_and_zero_is_answered_here() {
    let world = World::plain();
    let ask = |method: &str, hops: u8| {
        world.sent(&format!(
            "{method} http://graph.facebook.com:PORT/ HTTP/1.1\r\nHost: a\r\nMax-Forwards: {hops}\r\n\r\n"
        ))
    };
    assert_eq!(ask("OPTIONS", 0).answer().status(), 200);
    let answer = ask("TRACE", 0).answer();
    assert_eq!(answer.status(), 405);
    assert!(answer.field("allow").is_some());
    let mut client = ask("OPTIONS", 3);
    let mut origin = world.accept();
    assert!(text(&origin.head()).contains("Max-Forwards: 2\n"));
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.answer().status(), 200);
    world.ends_with(&[
        "egress OPTIONS 200",
        "egress TRACE 405 method_not_allowed",
        "egress OPTIONS 200",
    ]);
}

#[test]
fn a_port_outside_connect_ports_allows_no_tunnel() {
    let rules: &'static str = FACEBOOK.replace("connect-ports = [PORT]\n", "").leak();
    let world = World::with(Setup { rules, ..Setup::default() });
    let answer = world.sent("CONNECT graph.facebook.com:PORT HTTP/1.1\r\nHost: a\r\n\r\n").answer();
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.field("gateway-reason").as_deref(), Some("egress_port"));
    let wanted = format!("add {} to `connect-ports` of rule `facebook`", world.port());
    assert!(text(&answer.body).contains(&wanted), "{}", text(&answer.body));
    assert!(!world.was_dialled());
    let mut client = world.sent("GET http://graph.facebook.com:PORT/ HTTP/1.1\r\n\r\n");
    let mut origin = world.accept();
    origin.head();
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(text(&client.answer().body), "ok");
}
