//! pingora as a peer of the benchmarks: TLS on both sides, and exactly the work per request of the
//! other proxies in `bench/peers/`. Arguments are `KEY=VALUE`: `listen`, `chain`, `key`, `ca`,
//! `origin` (the upstream's port), `threads`, and optionally `routes` (a number), `log` (a file),
//! `scratch` (a directory).

use async_trait::async_trait;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{ProxyHttp, Session};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Idle timeout of client and upstream connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// State shared by all connections of the proxy.
struct Edge {
    origin: SocketAddr,
    /// First segments of the routed paths. A set and not a list, because pingora leaves routing to
    /// its user.
    routes: HashSet<String>,
    /// Written in blocks of 32 KB, like the logs of the other proxies.
    log: Option<Mutex<BufWriter<File>>>,
    hasher: (RandomState, RandomState),
    requests: AtomicU64,
}

/// State of one request.
struct Request {
    begun: Instant,
    id: String,
}

impl Edge {
    fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}{:016x}", self.hasher.0.hash_one(number), self.hasher.1.hash_one(number))
    }

    /// Whether a path has a route. All routes use the same origin.
    fn routed(&self, path: &str) -> bool {
        if !path.starts_with("/r-") {
            return true;
        }
        path[1..].find('/').is_some_and(|end| self.routes.contains(&path[..end + 2]))
    }
}

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request { begun: Instant::now(), id: self.request_id() }
    }

    async fn early_request_filter(&self, session: &mut Session, _: &mut Request) -> Result<()> {
        // The default of one minute would cut idle WebSockets; the other proxies also have longer
        // timeouts.
        session.set_read_timeout(Some(IDLE_TIMEOUT));
        Ok(())
    }

    async fn upstream_peer(&self, session: &mut Session, _: &mut Request) -> Result<Box<HttpPeer>> {
        if !self.routed(session.req_header().uri.path()) {
            return Err(Error::new(ErrorType::HTTPStatus(404)));
        }
        // The certificate is verified against the server's `ca_file`, including the name. The
        // protocol is HTTP/1.1.
        let mut peer = HttpPeer::new(self.origin, true, "localhost".to_owned());
        peer.options.idle_timeout = Some(IDLE_TIMEOUT);
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Request,
    ) -> Result<()> {
        if let Some(client) = session.client_addr().and_then(|address| address.as_inet()) {
            request.insert_header("X-Forwarded-For", client.ip().to_string())?;
        }
        request.insert_header("X-Forwarded-Proto", "https")?;
        if let Some(host) = session.req_header().headers.get("host").cloned() {
            request.insert_header("X-Forwarded-Host", host)?;
        }
        request.insert_header("X-Request-Id", &context.id)?;
        Ok(())
    }

    async fn response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Request,
    ) -> Result<()> {
        response.insert_header("X-Request-Id", &context.id)?;
        Ok(())
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, context: &mut Request) {
        let Some(log) = &self.log else { return };
        let head = session.req_header();
        let text = |name: &str| {
            head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        let client = session.client_addr().map(ToString::to_string).unwrap_or_default();
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Ok(mut log) = log.lock() {
            let _ = writeln!(
                log,
                "{{\"time\":{}.{:03},\"request_id\":\"{}\",\"client\":\"{client}\",\"method\":\"{}\",\"host\":{:?},\
                 \"uri\":{:?},\"user_agent\":{:?},\"status\":{status},\"bytes\":{},\"seconds\":{:.6}}}",
                now.as_secs(),
                now.subsec_millis(),
                context.id,
                head.method,
                text("host"),
                head.uri.path(),
                text("user-agent"),
                session.body_bytes_sent(),
                context.begun.elapsed().as_secs_f64(),
            );
        }
    }
}

fn main() {
    let arguments: HashMap<String, String> = std::env::args()
        .skip(1)
        .filter_map(|argument| {
            argument.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
        })
        .collect();
    let wanted = |key: &str| arguments.get(key).unwrap_or_else(|| panic!("{key}= is missing"));
    let port = |key: &str| SocketAddr::from(([127, 0, 0, 1], wanted(key).parse().expect("a port")));
    let number =
        |key: &str| arguments.get(key).map_or(0, |value| value.parse::<usize>().expect("a number"));
    let scratch = arguments.get("scratch").map_or("/tmp", String::as_str);

    let configuration = ServerConf {
        threads: number("threads"),
        ca_file: Some(wanted("ca").clone()),
        upstream_keepalive_pool_size: 512,
        pid_file: format!("{scratch}/pingora.pid"),
        upgrade_sock: format!("{scratch}/pingora.sock"),
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, configuration);
    server.bootstrap();
    let edge = Edge {
        origin: port("origin"),
        routes: (0..number("routes")).map(|n| format!("/r-{n}/")).collect(),
        log: arguments.get("log").map(|path| {
            Mutex::new(BufWriter::with_capacity(32 << 10, File::create(path).expect("a log file")))
        }),
        hasher: (RandomState::new(), RandomState::new()),
        requests: AtomicU64::new(0),
    };
    let mut service = pingora_proxy::http_proxy_service(&server.configuration, edge);
    let mut tls = TlsSettings::intermediate(wanted("chain"), wanted("key"))
        .expect("a certificate and its key");
    tls.enable_h2();
    service.add_tls_with_settings(wanted("listen"), None, tls);
    server.add_service(service);
    server.run_forever();
}
