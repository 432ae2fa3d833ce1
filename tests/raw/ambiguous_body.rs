//! Malformed request bodies. The gateway leaves the upstream with a visibly incomplete request, and
//! never parses the client's following bytes as a request.

use crate::raw_conn::{ConnEnd, find, text};
use crate::world::World;

/// Bodies that follow a valid head. Some begin with a valid chunk `A`, which may be forwarded.
const CHUNKS: &[&[u8]] = &[
    b"g\r\nA\r\n0\r\n\r\n",
    b"-1\r\nA\r\n0\r\n\r\n",
    b"+1\r\nA\r\n0\r\n\r\n",
    b"0x1\r\nA\r\n0\r\n\r\n",
    b" 1\r\nA\r\n0\r\n\r\n",
    b"1 \r\nA\r\n0\r\n\r\n",
    b"1\t;x\r\nA\r\n0\r\n\r\n",
    b"\r\nA\r\n0\r\n\r\n",
    b";x\r\nA\r\n0\r\n\r\n",
    b"1\nA\r\n0\r\n\r\n",
    b"1\rA\r\n0\r\n\r\n",
    b"1\r\r\nA\r\n0\r\n\r\n",
    b"1;x\nA\r\n0\r\n\r\n",
    b"1;x\ry\r\nA\r\n0\r\n\r\n",
    b"1;x\x00\r\nA\r\n0\r\n\r\n",
    b"1;x\x7f\r\nA\r\n0\r\n\r\n",
    b"1\r\nAB\r\n0\r\n\r\n",
    b"1\r\nA0\r\n\r\n",
    b"1\r\nA\n0\r\n\r\n",
    b"1\r\nA\r0\r\n\r\n",
    b"1\r\nA\r\n\r\n0\r\n\r\n",
    b"10000000000000001\r\nA\r\n0\r\n\r\n",
    b"FFFFFFFFFFFFFFFF\r\nA\r\n0\r\n\r\n",
    b"\xef\xbc\x91\r\nA\r\n0\r\n\r\n",
    b"1\r\nA\r\n0\n\r\n",
    b"1\r\nA\r\n0\r\n\n",
    b"1\r\nA\r\n0\r\nX: y\n\r\n",
    b"1\r\nA\r\n0\r\nX: y\rZ: 1\r\n\r\n",
    b"1\r\nA\r\n0\r\nX: y\r\n z\r\n\r\n",
    b"1\r\nA\r\n0\r\nX : y\r\n\r\n",
    b"1\r\nA\r\n0\r\nX\r\n\r\n",
    b"1\r\nA\r\n0\r\nX: a\x00\r\n\r\n",
    b"1\r\nA\r\n0\r\n: y\r\n\r\n",
    b"1\r\nA\r\n0\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n",
];

#[test]
fn malformed_chunks_are_never_completed_upstream() {
    let mut flood = b"1;".to_vec();
    flood.resize(9000, b'x');
    let mut trailers = b"1\r\nA\r\n0\r\nX: ".to_vec();
    trailers.resize(9000, b'x');
    let cases: Vec<&[u8]> = CHUNKS.iter().copied().chain([&*flood, &*trailers]).collect();
    let world = World::plain();
    let mut wrong = Vec::new();
    for chunks in &cases {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let second = b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut client = world.sent([head, *chunks, second].concat());
        let answer = client.answer();
        let said = answer.field("gateway-reason").unwrap_or_default();
        if (answer.status(), said.as_str()) != (400, "bad_chunk") {
            wrong.push(format!("{}\n  answered {} {said}", text(chunks), answer.status()));
        }
        assert_eq!(client.end(), ConnEnd::Clean, "{}", text(chunks));
        assert!(client.input.is_empty());
        let mut upstream = world.accept();
        upstream.end();
        let got = std::mem::take(&mut upstream.input);
        if find(&got, b"/second").is_some() || find(&got, b"\r\n0\r\n").is_some() {
            wrong.push(format!("{}\n  forwarded:\n{}", text(chunks), text(&got)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    world.ends_with(&vec!["request POST 400 bad_chunk"; cases.len()]);
}

#[test]
fn bytes_after_the_stated_length_are_the_next_request() {
    let world = World::plain();
    let mut client = world.sent(
        "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /POST /two HTTP/1.1\r\nHost: a\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\n0\r\n\r\n0\r\n\r\nGET /three HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let mut upstream = world.accept();
    for (line, body) in [("POST /one", "GET /"), ("POST /two", "0\n"), ("GET /three", "")] {
        let message = upstream.message(line == "GET /three");
        assert!(text(&message.head).starts_with(&format!("{line} HTTP/1.1\n")));
        assert_eq!(text(&message.body), body);
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(client.answered(200), "ok");
    }
    world.ends_with(&["request POST 200", "request POST 200", "request GET 200"]);
}

#[test]
fn a_chunked_body_larger_than_allowed_is_never_completed() {
    let world = World::with(crate::world::Setup { profile: "max-body = 10", ..Default::default() });
    let mut client = world.sent(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         a\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    client.refused(413, "body_too_large");
    assert_eq!(client.end(), ConnEnd::Clean);
    let mut upstream = world.accept();
    upstream.end();
    assert_eq!(find(&upstream.input, b"\r\n0\r\n\r\n"), None);
    assert_eq!(find(&upstream.input, b"second"), None);
    world.ends_with(&["request POST 413 body_too_large"]);
}
