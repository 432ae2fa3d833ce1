//! Replies of the gateway itself, over HTTP/2.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};

use crate::downstream::LocalReply;
use crate::message::Reason;
use crate::message::forward::ResponseEdits;

use super::answer::ResponseStream;
use crate::reverse::record::RequestLog;

/// An error for a faulty answer of an upstream.
pub(super) fn bad_answer(
    record: &mut RequestLog,
    edits: &Arc<ResponseEdits>,
    fault: &str,
) -> Response<ResponseStream> {
    record.detail = Some(fault.to_owned());
    reject(record, edits, Reason::UpstreamBadAnswer, None)
}

/// An error answer. `edits` are those of the route, or of the virtual server if there is none.
pub(super) fn reject(
    record: &mut RequestLog,
    edits: &Arc<ResponseEdits>,
    reason: Reason,
    allow: Option<String>,
) -> Response<ResponseStream> {
    let reply = LocalReply { allow, ..LocalReply::refusal(reason, &record.id) };
    reject_with(record, edits, reason, reply)
}

/// An error answer with the content of `reply`.
pub(super) fn reject_with(
    record: &mut RequestLog,
    edits: &Arc<ResponseEdits>,
    reason: Reason,
    reply: LocalReply,
) -> Response<ResponseStream> {
    record.reason = Some(reason);
    let response = local_reply(record, edits, reply);
    if reason == Reason::ClientGone {
        // The client has disconnected, so the log must not report a delivered answer.
        record.status = reason.code();
        record.response_bytes = 0;
    }
    response
}

/// A reply of the gateway itself.
pub(super) fn local_reply(
    record: &mut RequestLog,
    edits: &Arc<ResponseEdits>,
    reply: LocalReply,
) -> Response<ResponseStream> {
    let reply = LocalReply { edits: Some(Arc::clone(edits)), ..reply };
    record.status = reply.status.as_u16();
    record.response_bytes = reply.body.len() as u64;
    let mut response = Response::new(ResponseStream::Empty);
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    reply.each_field(|name, value| {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        {
            headers.insert(name, value);
        }
    });
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
    append_date(headers, record);
    append_request_id(headers, record);
    if !record.is_head() {
        *response.body_mut() = ResponseStream::Own(Bytes::from(reply.body));
    }
    response
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Appends the current time.
pub(super) fn append_date(to: &mut HeaderMap, record: &RequestLog) {
    let mut date = Vec::with_capacity(32);
    record.write_date(&mut date);
    to.extend(HeaderValue::from_bytes(&date).map(|date| (header::DATE, date)));
}

/// Appends the id of the request.
pub(super) fn append_request_id(to: &mut HeaderMap, record: &RequestLog) {
    if let Ok(mut id) = HeaderValue::from_str(record.id.as_str()) {
        // Each id is different and would only evict other fields from the HPACK table (RFC 7541
        // section 7.1.3).
        id.set_sensitive(true);
        to.append(X_REQUEST_ID, id);
    }
}
