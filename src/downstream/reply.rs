//! Local replies: responses of the gateway itself, such as errors and redirects.

use std::sync::Arc;

use http::{Method, StatusCode};

use crate::message::Reason;
use crate::message::forward::{ResponseEdits, field, number_field, status_line};

use super::{RequestId, Worker};

/// Media type of replies in plain text.
const TEXT_PLAIN: &str = "text/plain; charset=utf-8";

/// A response of the gateway itself, for HTTP/1 and HTTP/2.
pub(crate) struct LocalReply {
    pub(crate) status: StatusCode,
    /// Reason word in the field `gateway-reason`, if the reply has one.
    pub(crate) reason: Option<Reason>,
    pub(crate) location: Option<Vec<u8>>,
    pub(crate) allow: Option<String>,
    /// Media type of the body.
    pub(crate) kind: &'static str,
    /// Further header fields.
    pub(crate) more: Vec<(&'static str, String)>,
    pub(crate) body: String,
    /// Response headers that the configuration sets or removes.
    pub(crate) edits: Option<Arc<ResponseEdits>>,
}

impl LocalReply {
    /// Error response for a rejection. It contains the reason word and its sentence, and nothing
    /// about the upstreams.
    pub(crate) fn refusal(reason: Reason, id: &RequestId) -> Self {
        let status = match reason.code() {
            // Reasons without a status are answered, where that is possible, as a timeout.
            0 | 499 => StatusCode::REQUEST_TIMEOUT,
            _ => reason.status(),
        };
        let phrase = status.canonical_reason().unwrap_or_default();
        let body = format!(
            "{} {phrase}\n\n{}\n\nreason: {}\nrequest: {}\n",
            status.as_u16(),
            reason.sentence(),
            reason.word(),
            id.as_str(),
        );
        Self {
            status,
            reason: Some(reason),
            location: None,
            allow: None,
            kind: TEXT_PLAIN,
            more: Vec::new(),
            body,
            edits: None,
        }
    }

    /// A 200 with this text.
    pub(crate) fn good(body: &str) -> Self {
        Self {
            status: StatusCode::OK,
            reason: None,
            location: None,
            allow: None,
            kind: TEXT_PLAIN,
            more: Vec::new(),
            body: body.to_owned(),
            edits: None,
        }
    }

    /// A redirect to `location`.
    pub(crate) fn redirect(status: StatusCode, location: Vec<u8>) -> Self {
        let body = format!("Moved to {}\n", String::from_utf8_lossy(&location));
        Self {
            status,
            reason: None,
            location: Some(location),
            allow: None,
            kind: TEXT_PLAIN,
            more: Vec::new(),
            body,
            edits: None,
        }
    }

    /// Writes the reply for an HTTP/1 client. `method` is the method of the request, if it was read.
    pub(crate) fn write(
        &self,
        out: &mut Vec<u8>,
        worker: &Worker,
        id: &RequestId,
        method: Option<&Method>,
        close: bool,
    ) {
        let phrase = self.status.canonical_reason().unwrap_or_default();
        status_line(out, self.status.as_u16(), phrase.as_bytes());
        out.extend_from_slice(b"Date: ");
        worker.stamp.write_http(out);
        out.extend_from_slice(b"\r\n");
        field(out, "Content-Type", self.kind.as_bytes());
        number_field(out, "Content-Length", self.body.len() as u64);
        field(out, "X-Request-Id", id.as_str().as_bytes());
        self.each_field(|name, value| field(out, name, value));
        if close {
            field(out, "Connection", b"close");
        }
        out.extend_from_slice(b"\r\n");
        if method != Some(&Method::HEAD) {
            out.extend_from_slice(self.body.as_bytes());
        }
    }

    /// Calls `add` for each header field that both versions of HTTP send. The configuration may
    /// change these fields, except those that carry the meaning of the reply and `Cache-Control`.
    pub(crate) fn each_field(&self, mut add: impl FnMut(&str, &[u8])) {
        let edits = self.edits.as_deref();
        let is_ours = |name: &str| edits.is_none_or(|edits| !edits.drops(name.as_bytes()));
        add("Cache-Control", b"no-store");
        if is_ours("X-Content-Type-Options") {
            add("X-Content-Type-Options", b"nosniff");
        }
        if let Some(reason) = self.reason {
            add("gateway-reason", reason.word().as_bytes());
        }
        if let Some(location) = &self.location {
            add("Location", location);
        }
        if let Some(allow) = &self.allow {
            add("Allow", allow.as_bytes());
        }
        for (name, value) in &self.more {
            if *name == "Retry-After" || is_ours(name) {
                add(name, value.as_bytes());
            }
        }
        for (name, value) in edits.map(ResponseEdits::own).unwrap_or_default() {
            add(name.as_str(), value.as_bytes());
        }
    }
}
