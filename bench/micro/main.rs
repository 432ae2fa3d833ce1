//! Parts of the request path, run one at a time to count their instructions.
//!
//! `micro` lists the cases. `micro CASE` prepares one and runs it [`ITERATIONS`] times; valgrind
//! counts the instructions inside [`measured`] only. `bench/micro/check` does this for all cases.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a panic is how a case fails")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use app_gateway::addr::Destination;
use app_gateway::egress::{EgressClient, Verdict};
use app_gateway::generation::{self, Generation, VirtualServer};
use app_gateway::message::forward::{
    ClientOrigin, ResponseEdits, ResponseFraming, write_request, write_response,
};
use app_gateway::message::scan::{HeadProgress, HeadScanner};
use app_gateway::message::{Reason, RequestForm, RequestHead, ResponseHead};
use app_gateway::net::websocket::{FrameSender, FrameTracker};
use app_gateway::telemetry::line::{Format, Key, LineStyle, LineWriter, LogEvent};
use app_gateway::telemetry::mask::QueryMask;
use app_gateway::telemetry::timestamp::TimestampCache;
use app_gateway::telemetry::{Metrics, metrics};
use app_gateway::tls;
use app_gateway::tls::hello::HelloReader;
use bytes::Bytes;
use jiff::Timestamp;

/// Repetitions of a case; the instruction count is divided by it.
const ITERATIONS: usize = 1000;

/// The only function that valgrind counts; `bench/micro/check` refers to it by name.
#[inline(never)]
fn measured(case: &mut dyn FnMut()) {
    for _ in 0..ITERATIONS {
        case();
    }
}

/// The name of a case, and a function that prepares the closure to measure.
type Case = (&'static str, fn() -> Box<dyn FnMut()>);

const CASES: &[Case] = &[
    ("route-1", || decide(1)),
    ("route-100", || decide(100)),
    ("route-10000", || decide(10_000)),
    ("route-none", || reject(10_000)),
    ("request-head", request_head),
    ("request-head-browser", browser_head),
    ("response-head", response_head),
    ("egress-1", || egress(1)),
    ("egress-1000", || egress(1000)),
    ("egress-denied", egress_denied),
    ("tls-hello", tls_hello),
    ("log-json", || log(Format::Json)),
    ("log-ecs", || log(Format::Ecs)),
    ("log-combined", || log(Format::Combined)),
    ("count-request", count_request),
    ("websocket-frames", websocket_frames),
];

fn main() {
    let Some(wanted) = std::env::args().nth(1).filter(|argument| !argument.starts_with('-')) else {
        println!("{ITERATIONS}");
        for (name, _) in CASES {
            println!("{name}");
        }
        return;
    };
    let (_, prepare) = CASES.iter().find(|(name, _)| *name == wanted).unwrap();
    let mut case = prepare();
    // One run before the measurement fills caches and grows buffers.
    case();
    measured(&mut *case);
}

// --- Routing ------------------------------------------------------------------------------------

/// Compiles a configuration of a certificate, an upstream and `more`.
fn generation(more: &str) -> Generation {
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(["chat.example.com".to_owned()]).unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("site.crt", &key.cert.pem());
    write("site.key", &key.signing_key.serialize_pem());
    let text = format!(
        r#"
[[certificate.site.pairs]]
chain = "site.crt"
key = "site.key"
[upstream.chat]
endpoints = ["http://127.0.0.2:1"]
[profile.internet]
certificates = ["site"]
hosts = ["chat.example.com"]
[[profile.internet.listener]]
listen = "127.0.0.1:8443"
{more}"#
    );
    write("gateway.toml", &text);
    let metrics = Metrics::new(Reason::ALL.iter().map(|reason| reason.word())).unwrap();
    let environment = |_: &str| None;
    let loaded = generation::load(directory.path(), &environment, &tls::provider(), &metrics, None);
    loaded.map(|compiled| compiled.generation).map_err(|refused| refused.problems).unwrap()
}

fn virtual_server(routes: usize) -> Arc<VirtualServer> {
    let mut text = String::new();
    for n in 0..routes {
        let _ =
            write!(text, "[[profile.internet.route]]\npath = \"/app-{n}/\"\nupstream = \"chat\"\n");
    }
    let generation = generation(&text);
    Arc::clone(generation.virtual_servers.first().unwrap())
}

fn request_head_for(path: &str) -> RequestHead {
    let head = format!("GET {path} HTTP/1.1\r\nHost: chat.example.com\r\n\r\n");
    RequestHead::parse(&Bytes::from(head), 100).unwrap()
}

fn decide(routes: usize) -> Box<dyn FnMut()> {
    let virtual_server = virtual_server(routes);
    let head = request_head_for(&format!("/app-{}/socket.io/?EIO=4&transport=polling", routes / 2));
    Box::new(move || assert!(black_box(virtual_server.decide(black_box(&head))).is_ok()))
}

fn reject(routes: usize) -> Box<dyn FnMut()> {
    let virtual_server = virtual_server(routes);
    let head = request_head_for("/wp-admin/setup-config.php?step=1");
    Box::new(move || assert!(black_box(virtual_server.decide(black_box(&head))).is_err()))
}

// --- Heads --------------------------------------------------------------------------------------

const PLAIN: &str =
    "GET /1k HTTP/1.1\r\nHost: chat.example.com\r\nUser-Agent: client\r\nAccept: */*\r\n\r\n";

const BROWSER: &str = "GET /client/socket.io/?EIO=4&transport=polling&t=Oxm2Q1a&sid=4yVYwNvsYtF6Tn0FAAAB HTTP/1.1\r\n\
    Host: chat.example.com\r\nConnection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"130\", \"Google Chrome\";v=\"130\", \"Not?A_Brand\";v=\"99\"\r\n\
    sec-ch-ua-platform: \"Windows\"\r\nsec-ch-ua-mobile: ?0\r\n\
    User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n\
    Accept: */*\r\nOrigin: https://www.example.com\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors\r\n\
    Sec-Fetch-Dest: empty\r\nReferer: https://www.example.com/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en-US;q=0.9,en;q=0.8\r\nCookie: consent=yes; visitor=8f14e45fceea167a5a36dedd4bea2543\r\n\r\n";

/// Parses a request head and writes the head for the upstream.
fn head(text: &'static str) -> Box<dyn FnMut()> {
    let bytes = Bytes::from_static(text.as_bytes());
    let client: IpAddr = [192, 0, 2, 17].into();
    let mut out = Vec::with_capacity(4096);
    Box::new(move || {
        let scanned = HeadScanner::default().scan(black_box(&bytes));
        assert!(matches!(scanned, HeadProgress::Ends(end) if end == bytes.len()));
        let head = RequestHead::parse(&bytes, 100).unwrap();
        let origin = ClientOrigin {
            sticky_cookie_name: None,
            client,
            proxy: None,
            strip_prefix: None,
            request_id: "0123456789abcdef0123456789abcdef",
            trace: None,
            passes: &[],
        };
        out.clear();
        write_request(&mut out, &head, &origin, None);
        black_box(&out);
    })
}

fn request_head() -> Box<dyn FnMut()> {
    head(PLAIN)
}

fn browser_head() -> Box<dyn FnMut()> {
    head(BROWSER)
}

fn response_head() -> Box<dyn FnMut()> {
    let text = "HTTP/1.1 200 OK\r\nServer: chat\r\nDate: Mon, 23 Nov 2026 03:02:32 GMT\r\n\
        Content-Type: application/json; charset=utf-8\r\nContent-Length: 1024\r\nConnection: keep-alive\r\n\
        Cache-Control: no-store\r\nETag: \"6561b2a8-400\"\r\nX-Content-Type-Options: nosniff\r\n\r\n";
    let bytes = Bytes::from_static(text.as_bytes());
    let edits = ResponseEdits::new(std::iter::empty());
    let mut out = Vec::with_capacity(4096);
    Box::new(move || {
        let head = ResponseHead::parse(black_box(&bytes), false).unwrap();
        out.clear();
        let tail = b"X-Request-Id: 0123456789abcdef0123456789abcdef\r\n";
        write_response(&mut out, &head, &edits, ResponseFraming::Length(1024), tail);
        black_box(&out);
    })
}

// --- Egress policy ------------------------------------------------------------------------------

fn forward_proxy(rules: usize) -> Arc<generation::ForwardProxy> {
    let mut text = String::from("[[forward.listener]]\nlisten = \"127.0.0.1:3128\"\n");
    for n in 0..rules {
        let _ = write!(
            text,
            "[[forward.rule]]\nname = \"rule-{n}\"\nclients = [\"10.0.0.0/8\"]\nallow = [\"api-{n}.example.com\", \"*.cdn-{n}.example.net\"]\n"
        );
    }
    text.push_str("[[profile.internet.route]]\npath = \"/\"\nupstream = \"chat\"\n");
    generation(&text).forward_proxy.unwrap()
}

/// The checks of a CONNECT before the connection is made, without name resolution.
fn egress(rules: usize) -> Box<dyn FnMut()> {
    let forward_proxy = forward_proxy(rules);
    let authority = format!("img.cdn-{}.example.net:443", rules / 2);
    let client = EgressClient { ip: [10, 1, 2, 3].into(), user: None, names: &[] };
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    Box::new(move || {
        let to = Destination::parse(black_box(authority.as_bytes()), None).unwrap();
        let Verdict::Allowed(grant) =
            forward_proxy.policy.decide(&client, &to, RequestForm::Connect, now)
        else {
            unreachable!("it is allowed")
        };
        let ip = black_box([93, 184, 216, 34]).into();
        assert!(forward_proxy.guard.check(&grant.rule, ip, to.port).is_ok());
    })
}

fn egress_denied() -> Box<dyn FnMut()> {
    let forward_proxy = forward_proxy(100);
    let client = EgressClient { ip: [10, 1, 2, 3].into(), user: None, names: &[] };
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    Box::new(move || {
        let to = Destination::parse(black_box(b"elsewhere.example.org:443"), None).unwrap();
        assert!(matches!(
            forward_proxy.policy.decide(&client, &to, RequestForm::Connect, now),
            Verdict::Denied(_)
        ));
    })
}

fn tls_hello() -> Box<dyn FnMut()> {
    let config = tls_client();
    let name = "img.cdn.example.net".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    Box::new(move || {
        black_box(HelloReader::new().feed(black_box(&hello)));
    })
}

fn tls_client() -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

// --- Log and metrics ----------------------------------------------------------------------------

/// A request with the log fields that `reverse::record` writes.
struct Request {
    client: SocketAddr,
}

impl LogEvent for Request {
    fn write_fields<L: LineWriter>(&self, line: &mut L) {
        line.text(Key::Id, b"0123456789abcdef0123456789abcdef");
        line.text(Key::Trace, b"fedcba9876543210fedcba9876543210");
        line.text(Key::Event, b"request");
        line.text(Key::Profile, b"internet");
        line.text(Key::Listener, b"0.0.0.0:443");
        line.address(Key::Client, self.client);
        line.text(Key::Method, b"GET");
        line.text(Key::Host, b"chat.example.com");
        line.target(Key::Path, b"/client/socket.io/?EIO=4&transport=polling&t=Oxm2Q1a");
        line.text(Key::Protocol, b"HTTP/1.1");
        line.text(Key::Agent, b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36");
        line.target(Key::Referrer, b"https://www.example.com/");
        line.text(Key::Route, b"client");
        line.text(Key::Upstream, b"chat");
        line.text(Key::Endpoint, b"https://10.0.0.5:8443");
        line.number(Key::Status, 200);
        line.number(Key::RequestBytes, 0);
        line.number(Key::ResponseBytes, 1024);
        line.took(Key::FirstByte, Duration::from_micros(12_345));
        line.took(Key::Duration, Duration::from_micros(12_456));
        line.number(Key::Generation, 1);
        line.text(Key::ConfigHash, b"0123456789ab");
        line.text(Key::Tls, b"TLSv1.3");
        line.text(Key::Sni, b"chat.example.com");
    }
}

fn log(format: Format) -> Box<dyn FnMut()> {
    let style = LineStyle { format, mask: QueryMask::default() };
    let (stamp, event) =
        (TimestampCache::default(), Request { client: ([192, 0, 2, 17], 51234).into() });
    let mut out = Vec::with_capacity(4096);
    Box::new(move || {
        out.clear();
        style.write(&mut out, &stamp, black_box(&event));
        black_box(&out);
    })
}

/// The counters that one request updates.
fn count_request() -> Box<dyn FnMut()> {
    let virtual_server = virtual_server(1);
    let head = request_head_for("/app-0/");
    let Ok(generation::RouteDecision::Route(route)) = virtual_server.decide(&head) else {
        unreachable!("there is a route")
    };
    Box::new(move || {
        let metrics = &route.stats.metrics;
        metrics.in_flight.inc();
        metrics.requests[metrics::class(black_box(200))].inc();
        metrics.in_flight.dec();
        metrics.seconds.observe(black_box(0.012));
        metrics.request_bytes.inc_by(17);
        metrics.response_bytes.inc_by(1024);
    })
}

// --- WebSockets ---------------------------------------------------------------------------------

/// Tracks two messages of a client and two of a server.
fn websocket_frames() -> Box<dyn FnMut()> {
    let mut from_client = vec![0x81, 0x80 | 0x64, 1, 2, 3, 4];
    from_client.resize(106, b'x');
    let mut from_server = vec![0x82, 126, 4, 0];
    from_server.resize(1028, b'x');
    let (mut client, mut server) =
        (FrameTracker::new(FrameSender::Client), FrameTracker::new(FrameSender::Server));
    Box::new(move || {
        for _ in 0..2 {
            client.pass(black_box(&from_client));
            server.pass(black_box(&from_server));
        }
        assert!(client.is_between() && server.is_between());
    })
}
