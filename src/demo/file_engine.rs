//! The file engine: uploads and downloads of files, in memory.
//!
//! Uploads are forms or plain bytes. Downloads have the properties that messaging platforms check
//! when they fetch media: type, length, disposition, ranges, HEAD, and a validator.

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use crate::demo::echo::{self, EchoedRequest};
use crate::demo::multipart;
use crate::demo::range::{self, RangeRequest};
use crate::demo::reply::{self, ComponentBodyError, ComponentReply};
use crate::demo::store::{MAX_FILE, Store, StoredFile};

/// Maximum overhead of a form around its file.
const FORM_OVERHEAD: usize = 64 * 1024;

/// Types that a browser may show inline. Other types are downloaded, because a file uploaded by one
/// visitor must not run as a page for the next.
const INLINE_TYPES: &[&str] =
    &["image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"];

/// The file engine.
#[derive(Debug, Default)]
pub(crate) struct FileEngine {
    store: Store,
}

impl FileEngine {
    pub(crate) async fn answer(
        &self,
        seen: EchoedRequest,
        request: Request<Incoming>,
    ) -> Result<ComponentReply, ComponentBodyError> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/api/uploadFileStream" if request.method() == Method::POST => {
                self.upload(request).await
            }
            "/api/downloadFileStream" if is_read => Ok(self.download(&request)),
            "/api/getFileStat" if is_read => Ok(self.stat(&request)),
            "/api/uploadFileFromUrl" if request.method() == Method::POST => {
                let mut also = Map::new();
                also.insert("error".to_owned(), json!("the stand-in does not fetch"));
                let mut reply = echo::answer_also(seen, request, also).await?;
                *reply.status_mut() = StatusCode::NOT_IMPLEMENTED;
                Ok(reply)
            }
            _ => echo::answer(seen, request).await,
        }
    }

    async fn upload(
        &self,
        request: Request<Incoming>,
    ) -> Result<ComponentReply, ComponentBodyError> {
        let (head, body) = request.into_parts();
        let limit = MAX_FILE + FORM_OVERHEAD;
        let field = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let announced = field(header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
        if announced.is_some_and(|length: usize| length > limit) {
            return Ok(too_large());
        }
        let body = match collect(Limited::new(body, limit)).await {
            Err(ComponentBodyError::Other(error)) if error.is::<LengthLimitError>() => {
                return Ok(too_large());
            }
            collected => collected?,
        };
        let content_type = field(header::CONTENT_TYPE).unwrap_or_default();
        let (name, media_type, content) = if let Some(boundary) = multipart::boundary(content_type)
        {
            let Some(part) = multipart::first_file(&body, boundary) else {
                return Ok(refused(StatusCode::BAD_REQUEST, "the form has no file"));
            };
            (part.name, part.media_type, body.slice(part.content))
        } else {
            let name = echo::parameter(head.uri.query(), "filename").unwrap_or_default();
            (name, Some(content_type.to_owned()), body)
        };
        if content.len() > MAX_FILE {
            return Ok(too_large());
        }
        let media_type = media_type_of(media_type.as_deref().unwrap_or_default());
        let file = self.store.keep(&name, media_type, content);
        Ok(reply::json(StatusCode::OK, &facts(&file)))
    }

    fn stat(&self, request: &Request<Incoming>) -> ComponentReply {
        match self.asked_for(request) {
            Some(file) => reply::json(StatusCode::OK, &facts(&file)),
            None => refused(StatusCode::NOT_FOUND, "there is no such file"),
        }
    }

    fn download(&self, request: &Request<Incoming>) -> ComponentReply {
        let Some(file) = self.asked_for(request) else {
            return refused(StatusCode::NOT_FOUND, "there is no such file");
        };
        serve(&file, request.headers())
    }

    fn asked_for(&self, request: &Request<Incoming>) -> Option<StoredFile> {
        self.store.find(&echo::parameter(request.uri().query(), "filename")?)
    }
}

/// Reads the whole body. Memory grows with the received bytes, not with the announced length.
async fn collect(mut body: Limited<Incoming>) -> Result<Bytes, ComponentBodyError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(part) = frame.map_err(ComponentBodyError::Other)?.into_data() {
            bytes.extend_from_slice(&part);
        }
    }
    Ok(bytes.freeze())
}

/// The file or the requested part. hyper omits the body for HEAD and keeps the length.
fn serve(file: &StoredFile, fields: &HeaderMap) -> ComponentReply {
    let field = |name| fields.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let length = file.content.len();
    let tag = format!("\"{}\"", file.sha256.get(..32).unwrap_or_default());
    let names_us = |list: &str| list.split(',').any(|one| [&*tag, "*"].contains(&one.trim()));

    let unchanged = field(header::IF_NONE_MATCH).is_some_and(names_us);
    let same_file = field(header::IF_RANGE).is_none_or(|named| named == tag);
    let asked = match field(header::RANGE) {
        Some(field) if same_file => range::asked(Some(field), length),
        _ => RangeRequest::Whole,
    };
    let mut reply = match asked {
        _ if unchanged => reply::empty(StatusCode::NOT_MODIFIED),
        RangeRequest::Whole => Response::new(reply::full(file.content.clone())),
        RangeRequest::Part(part) => {
            let span = format!("bytes {}-{}/{length}", part.start, part.end - 1);
            let mut reply = Response::new(reply::full(file.content.slice(part)));
            *reply.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut reply, header::CONTENT_RANGE, &span);
            reply
        }
        RangeRequest::Beyond => {
            let mut reply = reply::empty(StatusCode::RANGE_NOT_SATISFIABLE);
            set(&mut reply, header::CONTENT_RANGE, &format!("bytes */{length}"));
            return reply;
        }
    };
    set(&mut reply, header::ETAG, &tag);
    set(&mut reply, header::ACCEPT_RANGES, "bytes");
    set(&mut reply, header::CACHE_CONTROL, "private, max-age=3600");
    if !unchanged {
        set(&mut reply, header::CONTENT_TYPE, &file.media_type);
        set(&mut reply, header::CONTENT_DISPOSITION, &disposition(file));
        set(&mut reply, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    }
    reply
}

/// The name in two forms: ASCII for old clients, and the original (RFC 6266, RFC 8187).
fn disposition(file: &StoredFile) -> String {
    let kind = if INLINE_TYPES.contains(&&*file.media_type) { "inline" } else { "attachment" };
    let plain: String = file
        .original
        .chars()
        .map(|c| if c.is_ascii() && !"\"\\".contains(c) { c } else { '_' })
        .collect();
    let extended: String = file.original.bytes().map(encoded).collect();
    format!("{kind}; filename=\"{plain}\"; filename*=UTF-8''{extended}")
}

fn encoded(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

fn facts(file: &StoredFile) -> Value {
    json!({
        "filename": file.name,
        "name": file.original,
        "type": file.media_type,
        "size": file.content.len(),
        "sha256": file.sha256,
    })
}

/// The claimed type if it is valid in a header field, or else `application/octet-stream`.
fn media_type_of(claimed: &str) -> &str {
    let plausible = claimed.contains('/')
        && claimed.len() <= 100
        && claimed.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if plausible { claimed } else { "application/octet-stream" }
}

fn set(reply: &mut ComponentReply, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

fn refused(status: StatusCode, why: &str) -> ComponentReply {
    reply::json(status, &json!({ "component": "file-engine", "error": why }))
}

fn too_large() -> ComponentReply {
    refused(StatusCode::PAYLOAD_TOO_LARGE, "a file may have 40 MiB at most")
}
