//! Answers of the gateway's own, over HTTP/2.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};

use crate::downstream::LocalReply;
use crate::message::Reason;
use crate::message::forward::ResponseEdits;

use super::answer::ResponseStream;
use crate::reverse::record::RequestLog;

/// The refusal of an answer of an upstream.
pub(super) fn bad_answer(
    record: &mut RequestLog,
    edits: &Arc<ResponseEdits>,
    fault: &str,
) -> Response<ResponseStream> {
    record.detail = Some(fault.to_owned());
    refuse(record, edits, Reason::UpstreamBadAnswer, None)
}

/// A refusal. `edits` are those of the route that was found, else of the site.
pub(super) fn refuse(
    record: &mut RequestLog,
    edits: &Arc<ResponseEdits>,
    reason: Reason,
    allow: Option<String>,
) -> Response<ResponseStream> {
    let reply = LocalReply { allow, ..LocalReply::refusal(reason, &record.id) };
    refused(record, edits, reason, reply)
}

/// The refusal that `reply` is.
pub(super) fn refused(
    record: &mut RequestLog,
    edits: &Arc<ResponseEdits>,
    reason: Reason,
    reply: LocalReply,
) -> Response<ResponseStream> {
    record.reason = Some(reason);
    let response = own(record, edits, reply);
    if reason == Reason::ClientGone {
        // Nobody gets this answer, and the log does not say that somebody did.
        record.status = reason.code();
        record.response_bytes = 0;
    }
    response
}

/// A reply that the gateway makes itself.
pub(super) fn own(
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
    tell_date(headers, record);
    tell_id(headers, record);
    if !record.is_head() {
        *response.body_mut() = ResponseStream::Own(Bytes::from(reply.body));
    }
    response
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Adds the present time.
pub(super) fn tell_date(to: &mut HeaderMap, record: &RequestLog) {
    let mut date = Vec::with_capacity(32);
    record.write_date(&mut date);
    to.extend(HeaderValue::from_bytes(&date).map(|date| (header::DATE, date)));
}

/// Adds the request's id.
pub(super) fn tell_id(to: &mut HeaderMap, record: &RequestLog) {
    if let Ok(mut id) = HeaderValue::from_str(record.id.as_str()) {
        // Each answer has another, which would only push the others out of the table of HPACK (RFC 7541 section 7.1.3).
        id.set_sensitive(true);
        to.append(X_REQUEST_ID, id);
    }
}
