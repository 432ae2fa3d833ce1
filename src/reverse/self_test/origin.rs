//! HTTP origin of the self-test: the page, and the endpoints that it requests.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::DuplexStream;

use crate::generation::SelfTestServer;
use crate::net::admission::Permit;
use crate::net::{CoarseClock, Timer};
use crate::reverse::tunnel::accept_for;

use super::{ArrivedRequest, LEAVE_PATH, echo};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The policy for the page: it loads its own resources and connects to its own origin.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
    img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
/// Fields of every answer.
const COMMON_FIELDS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

const JSON: &str = "application/json";
/// Content type of echoed bytes, which a browser must not render.
const BYTES: &str = "application/octet-stream";

/// Time to wait for a watched attempt to arrive.
const WATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Delay of the answer while the HTTP/2 connection is shut down: longer than a tick.
const GOAWAY_WAIT: Duration = Duration::from_millis(750);
/// Number of pieces of a piecewise answer, and the time between them.
const PIECE_COUNT: u8 = 4;
const PIECE_INTERVAL: Duration = Duration::from_secs(1);
/// Longest name of an attempt, in bytes.
const MAX_ATTEMPT_NAME: usize = 64;

/// Answers one request, and serves its WebSocket if it requested one.
pub(super) struct SelfTestOrigin {
    pub(super) test: Arc<SelfTestServer>,
    pub(super) seen: ArrivedRequest,
    pub(super) clock: CoarseClock,
    pub(super) _permit: Permit,
}

type OriginAnswer = Response<Either<Full<Bytes>, PiecewiseBody>>;

/// Serves the pipe until it closes.
///
/// # Cancellation
///
/// Dropping the future closes the pipe.
pub(super) async fn serve(pipe: DuplexStream, origin: SelfTestOrigin) {
    let switched = RefCell::<Option<OnUpgrade>>::default();
    let answer = service_fn(|request| {
        let (origin, switched) = (&origin, &switched);
        async move { Ok::<_, Infallible>(origin.answer(request, switched).await) }
    });
    let connection =
        http1::Builder::new().serve_connection(TokioIo::new(pipe), answer).with_upgrades();
    // The client may disconnect at any time.
    let _ = connection.await;
    if let Some(upgrade) = switched.take()
        && let Ok(stream) = upgrade.await
    {
        echo::serve(TokioIo::new(stream), &origin).await;
    }
}

impl SelfTestOrigin {
    async fn answer(
        &self,
        request: Request<Incoming>,
        switched: &RefCell<Option<OnUpgrade>>,
    ) -> OriginAnswer {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        match (is_read, request.uri().path()) {
            (true, "/") => text("text/html; charset=utf-8", PAGE),
            (true, "/page.css") => text("text/css; charset=utf-8", STYLE),
            (true, "/page.js") => text("text/javascript; charset=utf-8", SCRIPT),
            (true, "/seen") => self.report(),
            (true, "/hold") => {
                let seconds = parameter(&request, "seconds").and_then(|text| text.parse().ok());
                let hold = Duration::from_secs(seconds.unwrap_or(0)).min(self.test.idle);
                self.wait(hold).await;
                self.report()
            }
            (true, "/pieces") => {
                let timer = self.clock.timer();
                respond(
                    StatusCode::OK,
                    BYTES,
                    Either::Right(PiecewiseBody { left: PIECE_COUNT, timer }),
                )
            }
            (true, "/watch") => self.watched(parameter(&request, "attempt")).await,
            (true, "/socket") => self.socket(request, switched),
            (false, "/echo") => {
                let most = usize::try_from(SelfTestServer::LONGEST_BODY).unwrap_or_default();
                match Limited::new(request.into_body(), most).collect().await {
                    Ok(body) => whole(StatusCode::OK, BYTES, body.to_bytes()),
                    Err(_) => text_with_status(StatusCode::BAD_REQUEST, "no whole body\n"),
                }
            }
            (false, LEAVE_PATH) => {
                self.wait(GOAWAY_WAIT).await;
                self.report()
            }
            (true, _) | (false, "/") => text_with_status(StatusCode::NOT_FOUND, "not found\n"),
            (false, _) => {
                text_with_status(StatusCode::METHOD_NOT_ALLOWED, "not with this method\n")
            }
        }
    }

    /// The request as it arrived, and the parameters of the page.
    fn report(&self) -> OriginAnswer {
        let report = json!({
            "self_test": true,
            "seen": self.seen,
            "idle": self.test.idle.as_secs(),
            "socket_io": self.test.socket_io,
        });
        whole(StatusCode::OK, JSON, report.to_string())
    }

    /// The request of an attempt that is made at the same time on another connection.
    async fn watched(&self, attempt: Option<String>) -> OriginAnswer {
        let Some(attempt) = attempt else {
            return text_with_status(StatusCode::BAD_REQUEST, "no attempt\n");
        };
        let mut watch = self.test.watch(&attempt);
        let mut over = pin!(self.wait(WATCH_TIMEOUT));
        let seen = poll_fn(|cx| match Pin::new(&mut watch.seen).poll(cx) {
            Poll::Ready(seen) => Poll::Ready(seen.ok()),
            Poll::Pending => over.as_mut().poll(cx).map(|()| None),
        });
        whole(StatusCode::OK, JSON, seen.await.unwrap_or_else(|| "null".to_owned()))
    }

    /// Accepts a WebSocket, if the request is for one.
    fn socket(
        &self,
        mut request: Request<Incoming>,
        switched: &RefCell<Option<OnUpgrade>>,
    ) -> OriginAnswer {
        if let Some(attempt) = parameter(&request, "attempt") {
            self.test.report_arrival(&attempt, json!(self.seen).to_string());
        }
        let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
        let accept = key.and_then(|key| key.to_str().ok()).map(accept_for);
        let version = request.headers().get(header::SEC_WEBSOCKET_VERSION);
        let (Some(accept), true, true) =
            (accept, self.seen.upgrade, version.is_some_and(|version| version == "13"))
        else {
            let mut refused =
                text_with_status(StatusCode::UPGRADE_REQUIRED, "this is for WebSockets\n");
            let ours = HeaderValue::from_static("13");
            refused.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, ours);
            return refused;
        };
        switched.replace(Some(hyper::upgrade::on(&mut request)));
        let mut agreed = Response::new(Either::Left(Full::default()));
        *agreed.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = agreed.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.extend(HeaderValue::from_str(&accept).map(|a| (header::SEC_WEBSOCKET_ACCEPT, a)));
        agreed
    }

    /// The first message over a WebSocket.
    pub(super) fn hello(&self) -> String {
        json!({ "self_test": true, "seen": self.seen }).to_string()
    }

    async fn wait(&self, time: Duration) {
        let timer = self.clock.timer();
        timer.set(time);
        poll_fn(|cx| timer.poll(cx)).await;
    }
}

/// A body that is sent one line at a time, the first at once.
struct PiecewiseBody {
    left: u8,
    timer: Timer,
}

impl Body for PiecewiseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.left < PIECE_COUNT {
            ready!(self.timer.poll(cx));
        }
        self.left -= 1;
        self.timer.set(PIECE_INTERVAL);
        // Registers the waker for the next piece.
        let _ = self.timer.poll(cx);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"piece\n")))))
    }
}

/// A query parameter, if it is short and alphanumeric.
fn parameter(request: &Request<Incoming>, name: &str) -> Option<String> {
    let mut pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (plain && !value.is_empty() && value.len() <= MAX_ATTEMPT_NAME).then(|| value.to_owned())
}

fn text(kind: &'static str, body: &'static str) -> OriginAnswer {
    whole(StatusCode::OK, kind, body)
}

fn text_with_status(status: StatusCode, body: &'static str) -> OriginAnswer {
    whole(status, "text/plain; charset=utf-8", body)
}

fn whole(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> OriginAnswer {
    respond(status, kind, Either::Left(Full::new(body.into())))
}

fn respond(
    status: StatusCode,
    kind: &'static str,
    body: Either<Full<Bytes>, PiecewiseBody>,
) -> OriginAnswer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let fields = COMMON_FIELDS.into_iter().chain([(header::CONTENT_TYPE, kind)]);
    response
        .headers_mut()
        .extend(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}
