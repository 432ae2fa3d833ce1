//! Fields of `response-headers` on the gateway's own answers.

use crate::world::{Setup, World};

const HEADERS: &str = "response-headers = { Strict-Transport-Security = \"max-age=1\", Cache-Control = \"max-age=9\", \
    Access-Control-Allow-Origin = \"https://site\", X-Content-Type-Options = \"\", Content-Language = \"en\" }";

fn world() -> World {
    World::with(Setup {
        profile: HEADERS,
        route: "response-headers = { X-Route = \"all\" }\nmethods = [\"GET\"]",
        routes: "[[profile.edge.route]]\npath = \"/go\"\nredirect = \"/there\"\n\
                 response-headers = { X-Route = \"go\" }\n\
                 [[profile.edge.route]]\npath = \"/closed/\"\ndeny = true",
        ..Setup::default()
    })
}

#[test]
fn rejections_and_redirects_have_the_fields_of_their_route_or_profile() {
    let world = world();
    for (request, status, route) in [
        ("GET /go HTTP/1.1\r\nHost: a\r\n", 302, Some("go")),
        ("GET /closed/x HTTP/1.1\r\nHost: a\r\n", 403, None),
        ("GET /a//b HTTP/1.1\r\nHost: a\r\n", 400, Some("all")),
        ("GET /a%2f..%2fb HTTP/1.1\r\nHost: a\r\n", 400, None),
        ("POST / HTTP/1.1\r\nHost: a\r\n", 405, None),
        ("GET / HTTP/1.1\r\n", 400, None),
    ] {
        let mut client = world.sent(format!("{request}\r\n"));
        let answer = client.message(false);
        assert_eq!(answer.status(), status, "{request}");
        let field = |name| answer.field(name);
        assert_eq!(field("strict-transport-security").as_deref(), Some("max-age=1"), "{request}");
        assert_eq!(field("access-control-allow-origin").as_deref(), Some("https://site"));
        assert_eq!(field("x-route").as_deref(), route, "{request}");
        // The configured `Cache-Control` is for answers of the component, not for those of the
        // gateway.
        assert_eq!(field("cache-control").as_deref(), Some("no-store"));
        assert_eq!((field("content-language"), field("x-content-type-options")), (None, None));
    }
    world.ends_with(&[
        "request GET 302",
        "request GET 403 route_denied",
        "request GET 400 ambiguous_path",
        "request GET 400 ambiguous_path",
        "request POST 405 method_not_allowed",
        "rejected 400 bad_host",
    ]);
}

#[test]
fn a_502_has_the_cors_fields_of_its_route() {
    let world = world();
    let mut client = world.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut upstream = world.accept();
    upstream.message(true);
    upstream.send("nonsense\r\n\r\n");
    drop(upstream);
    let answer = client.message(false);
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.field("access-control-allow-origin").as_deref(), Some("https://site"));
    assert_eq!(answer.field("x-route").as_deref(), Some("all"));
    world.ends_with(&["request GET 502 upstream_bad_answer"]);
}
