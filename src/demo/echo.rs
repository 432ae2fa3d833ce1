//! Echoes a request exactly as it arrived, to make changes by a proxy visible.
//!
//! Every component answers any path with this echo. Three query parameters change the response, to
//! test a gateway with a slow or failing component: `answer-after=MILLISECONDS`,
//! `answer-with=STATUS`, and `answer-with=nothing`, which closes the connection instead.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::demo::components::Component;
use crate::demo::reply::{self, ComponentBodyError, ComponentReply};

/// Longest delay of an answer that a caller may request.
const MAX_DELAY: Duration = Duration::from_mins(2);

/// The component that received the request, and the connection.
#[derive(Clone, Debug)]
pub(crate) struct EchoedRequest {
    pub(crate) component: Component,
    pub(crate) peer: SocketAddr,
    pub(crate) sni: Option<String>,
}

/// Answers with a description of the request.
///
/// # Errors
///
/// The body ends early, or the caller requested that the connection be closed.
pub(crate) async fn answer(
    seen: EchoedRequest,
    request: Request<Incoming>,
) -> Result<ComponentReply, ComponentBodyError> {
    answer_also(seen, request, Map::new()).await
}

/// Like [`answer`], with additional members in the document.
pub(crate) async fn answer_also(
    seen: EchoedRequest,
    request: Request<Incoming>,
    also: Map<String, Value>,
) -> Result<ComponentReply, ComponentBodyError> {
    let wait = parameter(request.uri().query(), "answer-after");
    let wait = wait.and_then(|text| text.parse().ok()).map(Duration::from_millis);
    let with = parameter(request.uri().query(), "answer-with");
    let mut document = describe(&seen, request).await?;
    document.extend(also);
    if let Some(wait) = wait {
        tokio::time::sleep(wait.min(MAX_DELAY)).await;
    }
    let status = match with.as_deref() {
        Some("nothing") => return Err(ComponentBodyError::AsAsked),
        // hyper refuses to send a final answer with a status below 200.
        Some(text) => text.parse().ok().filter(|status: &StatusCode| status.as_u16() >= 200),
        None => None,
    };
    Ok(reply::json(status.unwrap_or(StatusCode::OK), &Value::Object(document)))
}

/// Describes the request; the body as length and SHA-256. The body is read and not kept.
async fn describe(
    seen: &EchoedRequest,
    request: Request<Incoming>,
) -> Result<Map<String, Value>, ComponentBodyError> {
    let (head, mut body) = request.into_parts();
    let mut hash = Context::new(&SHA256);
    let mut length: u64 = 0;
    while let Some(frame) = body.frame().await {
        if let Some(bytes) = frame?.data_ref() {
            hash.update(bytes);
            length = length.saturating_add(bytes.len() as u64);
        }
    }
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let fields: Vec<_> =
        head.headers.iter().map(|(name, value)| json!([name.as_str(), text(value)])).collect();
    let document = json!({
        "component": seen.component.name(),
        "status": "UP",
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "path": head.uri.path(),
        "query": head.uri.query(),
        "version": format!("{:?}", head.version),
        "host": head.headers.get(http::header::HOST).map(text),
        "fields": fields,
        "body_bytes": length,
        "body_sha256": hex(hash.finish().as_ref()),
        "peer": seen.peer.to_string(),
        "sni": seen.sni,
    });
    let Value::Object(document) = document else { return Ok(Map::new()) };
    Ok(document)
}

/// The value of a query parameter, percent-decoded; `+` is not decoded.
pub(crate) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
    Some(decode(value))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let pair = tail.get(..2).filter(|_| first == b'%');
        let byte = pair
            .filter(|pair| pair.iter().all(u8::is_ascii_hexdigit))
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_and_decoded() {
        let query = Some("hub.mode=subscribe&hub.challenge=11%2F5%zz+a&x");
        assert_eq!(parameter(query, "hub.challenge").as_deref(), Some("11/5%zz+a"));
        assert_eq!(parameter(query, "challenge"), None);
        assert_eq!(parameter(query, "x"), None);
        assert_eq!(parameter(Some("a=%"), "a").as_deref(), Some("%"));
        assert_eq!(parameter(None, "a"), None);
    }
}
