//! Constructors for the responses of components.

use std::error::Error;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use serde_json::Value;

/// Reason for the early end of a body or connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComponentBodyError {
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    #[error("closed without an answer, as asked")]
    AsAsked,
    #[error("the body could not be read")]
    Other(#[source] Box<dyn Error + Send + Sync>),
}

/// A body of any kind.
pub(crate) type ComponentBody = UnsyncBoxBody<Bytes, ComponentBodyError>;
/// Response of a component.
pub(crate) type ComponentReply = Response<ComponentBody>;

/// A JSON document.
pub(crate) fn json(status: StatusCode, value: &Value) -> ComponentReply {
    let text = format!("{value:#}\n");
    content(status, HeaderValue::from_static("application/json"), text.into())
}

/// Plain text for human readers.
pub(crate) fn text(status: StatusCode, sentence: impl Into<Bytes>) -> ComponentReply {
    content(status, HeaderValue::from_static("text/plain; charset=utf-8"), sentence.into())
}

/// Bytes of a given type, marked as not cacheable.
pub(crate) fn content(status: StatusCode, media_type: HeaderValue, bytes: Bytes) -> ComponentReply {
    let mut reply = Response::new(full(bytes));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, media_type);
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// No body.
pub(crate) fn empty(status: StatusCode) -> ComponentReply {
    let mut reply = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *reply.status_mut() = status;
    reply
}

/// A complete body.
pub(crate) fn full(bytes: Bytes) -> ComponentBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}
