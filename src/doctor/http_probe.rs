//! Sends one HTTP/1.1 request and reads a bounded part of the response.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::probe::{ProbeError, TimeBudget};

/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;

/// Fields of a head that are looked at.
const MAX_FIELDS: usize = 128;

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
    let mut request = String::new();
    let version = env!("CARGO_PKG_VERSION");
    // Writing to a String cannot fail.
    let _ = write!(
        request,
        "{line} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: app-gateway-doctor/{version}\r\nAccept: */*\r\n"
    );
    // A tunnel that is to stay open says nothing about closing.
    request.push_str(if line.starts_with("CONNECT ") {
        "\r\n"
    } else {
        "Connection: close\r\n\r\n"
    });
    let sent = budget.wait("answer", stream.write_all(request.as_bytes())).await?;
    sent.map_err(|error| ProbeError::of(&error, "an answer"))?;
    let mut bytes = Vec::new();
    loop {
        let ended = more(stream, &mut bytes, budget).await?;
        if let Some((mut answer, head)) = parse(&bytes)? {
            if wanted == BodyWanted::Body && answer.status != 204 {
                while bytes.len() < MAX_ANSWER
                    && matches!(more(stream, &mut bytes, budget).await, Ok(false))
                {}
            }
            answer.body =
                String::from_utf8_lossy(bytes.get(head..).unwrap_or_default()).into_owned();
            return Ok(answer);
        }
        if ended && bytes.is_empty() {
            return Err(ProbeError::Closed { step: "an answer" });
        }
        if ended || bytes.len() > MAX_ANSWER {
            return Err(not_http(&bytes));
        }
    }
}

/// Reads once; whether that was the end.
async fn more<S: AsyncRead + Unpin>(
    stream: &mut S,
    bytes: &mut Vec<u8>,
    budget: TimeBudget,
) -> Result<bool, ProbeError> {
    let mut buffer = [0; 4096];
    match budget.wait("answer", stream.read(&mut buffer)).await? {
        Ok(read) => {
            bytes.extend_from_slice(buffer.get(..read).unwrap_or_default());
            Ok(read == 0)
        }
        // The server closed without `close_notify`; the bytes before that are used.
        Err(_) if !bytes.is_empty() => Ok(true),
        Err(error) => Err(ProbeError::of(&error, "an answer")),
    }
}

/// The head, and its length; `None` if it is not whole yet.
fn parse(bytes: &[u8]) -> Result<Option<(ProbeAnswer, usize)>, ProbeError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(not_http(bytes)),
    };
    let date = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("date"));
    let answer = ProbeAnswer {
        status: head.code.unwrap_or_default(),
        reason: head.reason.unwrap_or_default().to_owned(),
        body: String::new(),
        clock_ahead_ms: date.and_then(|field| ahead(field.value)),
    };
    Ok(Some((answer, length)))
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
    use super::*;
    use std::time::Duration;

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
