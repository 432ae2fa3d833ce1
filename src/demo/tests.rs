//! Tests of the stand-in over real TLS, on ports chosen by the system.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::demo::{
    Component, DevelopmentCertificates, StandIn, ensure, environment, start_on_free_ports,
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct World {
    stand_in: StandIn,
    certificates: DevelopmentCertificates,
    _directory: TempDir,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let certificates = ensure(directory.path()).unwrap();
        let stand_in = start_on_free_ports(LOOPBACK, &certificates).await.unwrap();
        Self { stand_in, certificates, _directory: directory }
    }

    async fn ask(&self, component: Component, request: Request<Bytes>) -> Response<Bytes> {
        let address = self.stand_in.address(component);
        ask(address, &self.certificates, request).await.unwrap()
    }

    async fn get(&self, component: Component, target: &str) -> Response<Bytes> {
        self.ask(component, request(Method::GET, target, "")).await
    }

    async fn post(&self, component: Component, target: &str, body: &str) -> Response<Bytes> {
        self.ask(component, request(Method::POST, target, body)).await
    }
}

fn request(method: Method, target: &str, body: &str) -> Request<Bytes> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let request = Request::builder().method(method).uri(target);
    request.header("host", "chat.example.com:8443").body(body).unwrap()
}

async fn ask(
    address: SocketAddr,
    certificates: &DevelopmentCertificates,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificates.ca)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    #[expect(clippy::disallowed_methods, reason = "a test's client, at an address of this test")]
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("hybrid-chat.internal")?;
    let tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

fn document(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

fn field<'a>(response: &'a Response<Bytes>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn every_component_is_healthy_and_names_itself() {
    let world = World::new().await;
    assert_eq!(world.stand_in.addresses().len(), Component::ALL.len());
    for component in Component::ALL {
        let answer = world.get(component, component.health()).await;
        assert_eq!(answer.status(), StatusCode::OK, "{component:?}");
        assert_eq!(field(&answer, "stand-in-component"), component.name());
        assert_eq!(world.stand_in.requests(component), 1);
    }
}

#[tokio::test]
async fn a_request_is_described_exactly_as_it_arrived() {
    let world = World::new().await;
    let mut asked = request(Method::PUT, "/a%2Fb//c/%7e?q=%20+&&x", "body");
    asked.headers_mut().append("x-forwarded-for", "192.0.2.1".parse().unwrap());
    asked.headers_mut().append("x-forwarded-for", "192.0.2.2".parse().unwrap());

    let seen = document(&world.ask(Component::Umm, asked).await);

    assert_eq!(seen["component"], "umm");
    assert_eq!(seen["method"], "PUT");
    assert_eq!(seen["target"], "/a%2Fb//c/%7e?q=%20+&&x");
    assert_eq!(seen["host"], "chat.example.com:8443");
    assert_eq!(seen["sni"], "hybrid-chat.internal");
    assert_eq!(seen["body_bytes"], 4);
    let fields = seen["fields"].as_array().unwrap();
    let forwarded: Vec<_> = fields.iter().filter(|pair| pair[0] == "x-forwarded-for").collect();
    assert_eq!(forwarded.len(), 2, "two fields are two fields");
}

#[tokio::test]
async fn a_component_fails_on_request() {
    let world = World::new().await;
    let answer = world.get(Component::Mre, "/api/EWT?answer-with=503").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let closed = request(Method::GET, "/?answer-with=nothing", "");
    let address = world.stand_in.address(Component::Mre);
    assert!(ask(address, &world.certificates, closed).await.is_err());
}

#[tokio::test]
async fn a_webhook_is_confirmed_and_received_byte_for_byte() {
    let world = World::new().await;
    let component = Component::CustomerChannelManager;
    let target = "/webhook?hub.mode=subscribe&hub.verify_token=t&hub.challenge=1158201444";
    assert_eq!(world.get(component, target).await.body(), "1158201444");

    let body = r#"{"text":"\u00e4 \/"}"#;
    let seen = document(&world.post(component, "/viber-message/receive?sig=ab%3D", body).await);
    assert_eq!(seen["received"], true);
    assert_eq!(seen["target"], "/viber-message/receive?sig=ab%3D");
    let expected = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
    assert_eq!(seen["body_sha256"], super::echo::hex(expected.as_ref()));
    assert_eq!(document(&world.post(component, "/sms/send", "").await)["received"], false);
}

#[tokio::test]
async fn a_file_comes_back_whole_and_in_parts() {
    let world = World::new().await;
    let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a \u{e4}.txt\"\r\n\
        Content-Type: text/plain\r\n\r\n0123456789\r\n--b--\r\n";
    let mut asked = request(Method::POST, "/api/uploadFileStream", form);
    let form_type = "multipart/form-data; boundary=b".parse().unwrap();
    asked.headers_mut().insert("content-type", form_type);
    let stored = document(&world.ask(Component::FileEngine, asked).await);
    assert_eq!(stored["size"], 10);
    let name = stored["filename"].as_str().unwrap();
    let target = format!("/api/downloadFileStream?filename={name}");

    let whole = world.get(Component::FileEngine, &target).await;
    assert_eq!(whole.body(), "0123456789");
    assert_eq!(field(&whole, "content-type"), "text/plain");
    assert_eq!(
        field(&whole, "content-disposition"),
        "attachment; filename=\"a _.txt\"; filename*=UTF-8''a%20%C3%A4.txt"
    );

    let head = world.ask(Component::FileEngine, request(Method::HEAD, &target, "")).await;
    assert_eq!((field(&head, "content-length"), head.body().len()), ("10", 0));

    let ranged = |range: &'static str| {
        let mut asked = request(Method::GET, &target, "");
        asked.headers_mut().insert("range", range.parse().unwrap());
        asked
    };
    let part = world.ask(Component::FileEngine, ranged("bytes=2-4")).await;
    assert_eq!((part.status(), &**part.body()), (StatusCode::PARTIAL_CONTENT, &b"234"[..]));
    assert_eq!(field(&part, "content-range"), "bytes 2-4/10");
    let beyond = world.ask(Component::FileEngine, ranged("bytes=10-")).await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(field(&beyond, "content-range"), "bytes */10");

    let mut again = request(Method::GET, &target, "");
    again.headers_mut().insert("if-none-match", field(&whole, "etag").parse().unwrap());
    let again = world.ask(Component::FileEngine, again).await;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn the_file_engine_rejects_unsupported_requests() {
    let world = World::new().await;
    let huge = request(Method::POST, "/api/uploadFileStream", &"x".repeat(42 * 1024 * 1024));
    let address = world.stand_in.address(Component::FileEngine);
    // The server answers before it has read the whole body, so the client may see the end of the
    // connection.
    if let Ok(answer) = ask(address, &world.certificates, huge).await {
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    let fetched = world.post(Component::FileEngine, "/api/uploadFileFromUrl", "{}").await;
    assert_eq!(fetched.status(), StatusCode::NOT_IMPLEMENTED);
    let none = world.get(Component::FileEngine, "/api/getFileStat?filename=x").await;
    assert_eq!(none.status(), StatusCode::NOT_FOUND);
}

/// Opens a Socket.IO session by long polling and returns its id.
async fn connect(world: &World) -> String {
    let opened = world.get(Component::ChatServer, "/socket.io/?EIO=4&transport=polling").await;
    let opened: Value = serde_json::from_slice(&opened.body()[1..]).unwrap();
    assert_eq!((&opened["pingInterval"], &opened["pingTimeout"]), (&3000.into(), &6000.into()));
    opened["sid"].as_str().unwrap().to_owned()
}

/// Polls until an answer contains `wanted`.
async fn poll_for(world: &World, sid: &str, wanted: &str) -> String {
    let target = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let polling = async {
        loop {
            let polled = world.get(Component::ChatServer, &target).await;
            let text = String::from_utf8_lossy(polled.body()).into_owned();
            if text.contains(wanted) {
                return text;
            }
            if text.contains('2') {
                world.post(Component::ChatServer, &target, "3").await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), polling).await.unwrap()
}

#[tokio::test]
async fn a_customer_writes_and_an_agent_reads() {
    let world = World::new().await;
    let (customer, agent) = (connect(&world).await, connect(&world).await);
    let say = async |sid: &str, packets: &str| {
        let target = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
        let said = world.post(Component::ChatServer, &target, packets).await;
        assert_eq!(said.status(), StatusCode::OK);
    };
    say(&agent, "40").await;
    poll_for(&world, &agent, "40{").await;
    say(&agent, r#"42["join",{"role":"agent"}]"#).await;
    poll_for(&world, &agent, "\"welcome\"").await;
    say(&customer, "40").await;
    poll_for(&world, &customer, "40{").await;
    say(&customer, r#"42["join",{"role":"customer","name":"Customer","key":"k"}]"#).await;
    poll_for(&world, &customer, "\"welcome\"").await;
    say(&customer, r#"42["message",{"id":"1","text":"hello"}]"#).await;

    let heard = poll_for(&world, &agent, "\"message\"").await;
    assert!(heard.contains(r#""text":"hello""#), "{heard}");
    let echoed = poll_for(&world, &customer, "\"message\"").await;
    assert!(echoed.contains(r#""id":"1""#), "{echoed}");
}

#[tokio::test]
async fn stopping_frees_the_port_and_closes_open_connections() {
    let world = World::new().await;
    let address = world.stand_in.address(Component::ChatServer);
    let sid = connect(&world).await;
    // The first heartbeat arrives at once; after it there is nothing to send for three seconds.
    poll_for(&world, &sid, "2").await;
    let before = world.stand_in.requests(Component::ChatServer);
    let waiting = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let waiting = request(Method::GET, &waiting, "");
    let open = ask(address, &world.certificates, waiting);
    let stop = async {
        while world.stand_in.requests(Component::ChatServer) == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::pin!(open);
    tokio::select! {
        answer = &mut open => panic!("nothing to say yet: {answer:?}"),
        () = stop => {}
    }
    world.stand_in.stop().await;
    let cut = tokio::time::timeout(Duration::from_secs(2), open).await;
    let cut = cut.unwrap();
    assert!(cut.is_err(), "cut at once, not at the next heartbeat: {cut:?}");
    tokio::net::TcpListener::bind(address).await.unwrap();
}

#[test]
fn the_environment_points_at_the_stand_in() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = ensure(directory.path()).unwrap();
    let variables = environment(&certificates, "::1".parse().unwrap());
    let value = |wanted: &str| variables.iter().find(|(name, _)| name == wanted).unwrap().1.clone();
    assert_eq!(value("HYBRID_CHAT_HOST"), "[::1]");
    assert!(value("CERT_DIR").starts_with('/'));
    assert!(value("HYBRID_CHAT_CA").ends_with("/ca.crt"));
}
