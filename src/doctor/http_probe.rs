//! Sends one HTTP/1.1 request and reads a bounded part of the response.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::net::http_client::{self, HttpClientError};

use super::probe::{ProbeError, TimeBudget};

/// Most bytes of a body that are read.
const MAX_BODY: usize = 64 * 1024;

const USER_AGENT: &str = concat!("app-gateway-doctor/", env!("CARGO_PKG_VERSION"));

/// The response.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProbeAnswer {
    /// Status code.
    pub status: u16,
    /// Reason phrase.
    pub reason: String,
    /// The beginning of the body.
    pub body: String,
    /// Difference of the server's clock to ours by its `Date`, in milliseconds; positive if the
    /// server is ahead. Accurate to half a second.
    pub clock_ahead_ms: Option<i64>,
}

/// Whether the body is waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BodyWanted {
    /// The head alone.
    Head,
    /// The head, and the body up to its end, 64 KiB, or the end of the time.
    Body,
}

/// Sends `METHOD TARGET` to `host`, and reads the answer.
///
/// # Errors
///
/// Closed, silent, or not HTTP.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    line: &str,
    host: &str,
    wanted: BodyWanted,
    budget: TimeBudget,
) -> Result<ProbeAnswer, ProbeError> {
    let request = request(line, host).map_err(|error| {
        ProbeError::Unreachable(format!("`{line}` for `{host}` is no HTTP request: {error}"))
    })?;
    let answer = http_client::send(TokioIo::new(stream), request);
    let mut answer = budget.wait("answer", answer).await?.map_err(failure)?;
    let mut body = Vec::new();
    if wanted == BodyWanted::Body {
        // What came in time, and before a failure, is enough.
        let _ = budget.wait("answer", answer.read_body(&mut body, MAX_BODY)).await;
    }
    let head = &answer.head;
    let reason = head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
    let reason = reason.map(String::from_utf8_lossy);
    Ok(ProbeAnswer {
        status: head.status.as_u16(),
        reason: reason.map_or_else(
            || head.status.canonical_reason().unwrap_or_default().to_owned(),
            std::borrow::Cow::into_owned,
        ),
        body: String::from_utf8_lossy(&body).into_owned(),
        clock_ahead_ms: head.headers.get(header::DATE).and_then(|date| ahead(date.as_bytes())),
    })
}

fn request(line: &str, host: &str) -> http::Result<Request<Full<Bytes>>> {
    let (method, target) = line.split_once(' ').unwrap_or(("GET", line));
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*");
    // A tunnel that is to stay open says nothing about closing.
    let request =
        if method == "CONNECT" { request } else { request.header(header::CONNECTION, "close") };
    request.body(Full::default())
}

fn failure(error: HttpClientError) -> ProbeError {
    match error {
        HttpClientError::Malformed(received) => not_http(&received),
        HttpClientError::Io(error) => ProbeError::of(&error, "an answer"),
        HttpClientError::Closed | HttpClientError::TooLong => {
            ProbeError::Closed { step: "an answer" }
        }
    }
}

fn not_http(bytes: &[u8]) -> ProbeError {
    ProbeError::NotThat { expected: "HTTP", came: quoted(bytes) }
}

/// The beginning of the response, in printable characters.
#[must_use]
pub fn quoted(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing came".to_owned();
    }
    let first: String =
        bytes.iter().take(24).flat_map(|&byte| byte.escape_ascii()).map(char::from).collect();
    format!("it began with `{first}`")
}

/// Difference of `date` to our clock. `Date` is truncated to seconds, so half a second is added on
/// average.
fn ahead(date: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(date).ok()?;
    let there = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let here = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(there.as_millisecond() + 500 - i64::try_from(here.as_millis()).ok()?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn answer_to(said: &'static [u8], wanted: BodyWanted) -> Result<ProbeAnswer, ProbeError> {
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        let server = tokio::spawn(async move {
            let mut request = vec![0; 1024];
            let read = theirs.read(&mut request).await.unwrap();
            let _ = theirs.write_all(said).await;
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let budget = TimeBudget::new(Duration::from_secs(10));
        let answer = ask(&mut ours, "GET /x", "a.test:1", wanted, budget).await;
        let request = server.await.unwrap();
        assert!(request.starts_with("GET /x HTTP/1.1\r\nHost: a.test:1\r\n"), "{request}");
        answer
    }

    #[tokio::test]
    async fn reads_heads_and_bodies() {
        let said = b"HTTP/1.1 503 Busy\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\nbody";
        let answer = answer_to(said, BodyWanted::Body).await.unwrap();
        assert_eq!((answer.status, answer.reason.as_str()), (503, "Busy"));
        assert_eq!(answer.body, "body");
        assert!(answer.clock_ahead_ms.unwrap() < -900_000_000_000);
    }

    #[tokio::test]
    async fn what_is_not_http_is_quoted() {
        let trouble = answer_to(b"SSH-2.0-x\r\n", BodyWanted::Head).await.unwrap_err();
        assert_eq!(trouble.to_string(), r"does not speak HTTP: it began with `SSH-2.0-x\r\n`");
        let trouble = answer_to(b"", BodyWanted::Head).await.unwrap_err();
        assert_eq!(trouble, ProbeError::Closed { step: "an answer" });
    }
}
