//! Replies of the forward proxy itself. Each gives its reason as text or JSON, and in a
//! `Proxy-Status` field (RFC 9209) for intermediaries.

use std::fmt::Write as _;

use serde_json::json;

use crate::downstream::LocalReply;
use crate::message::{HeaderFields, Reason};

use super::parent::AT;
use super::record::EgressLog;

/// Which form of an explanation is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ExplanationFormat {
    /// Lines for people.
    Text,
    /// An object for programs.
    Json,
}

impl ExplanationFormat {
    /// Format that `Accept` requests. Text, unless JSON is named: most clients send `*/*`.
    pub(super) fn of(fields: &HeaderFields) -> Self {
        let accept = fields.named("accept").unwrap_or_default();
        let json = memchr::memmem::find(accept, b"application/json").is_some()
            || memchr::memmem::find(accept, b"application/problem+json").is_some();
        if json { Self::Json } else { Self::Text }
    }
}

/// The reply for a record that has its reason.
pub(super) fn reply(record: &EgressLog, wants: ExplanationFormat) -> LocalReply {
    let reason = record.reason.unwrap_or(Reason::Internal);
    let base = LocalReply::refusal(reason, &record.id);
    let body = match wants {
        ExplanationFormat::Text => text(record, reason),
        ExplanationFormat::Json => json(record, reason),
    };
    let kind = match wants {
        ExplanationFormat::Text => base.kind,
        ExplanationFormat::Json => "application/json",
    };
    let mut more = vec![("Proxy-Status", proxy_status(reason))];
    if reason.code() == 407 {
        more.push(("Proxy-Authenticate", "Basic realm=\"app-gateway\", charset=\"UTF-8\"".into()));
    }
    if reason.code() == 429 || reason.is_shortage() {
        more.push(("Retry-After", record.retry_after.unwrap_or(1).to_string()));
    }
    LocalReply { kind, more, body, ..base }
}

fn text(record: &EgressLog, reason: Reason) -> String {
    let id = record.id.as_str();
    if let (Some(denial), Some(destination)) = (&record.denial, record.destination()) {
        return denial.text(&record.client(), destination, id);
    }
    let mut text = format!("{}: {}\n\n", reason.word(), reason.sentence());
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    if let Some(destination) = record.destination() {
        line("destination", &destination.to_string());
    }
    if let Some(why) = detail_for_client(record, reason) {
        line("why", why);
    }
    line("id", id);
    text
}

/// The detail of a refusal, unless it could name addresses that a name resolves to, or those of a
/// parent: the log has it.
fn detail_for_client(record: &EgressLog, reason: Reason) -> Option<&str> {
    let about_the_request = matches!(
        reason,
        Reason::BadDestination
            | Reason::HttpsInClear
            | Reason::PlainHttp
            | Reason::TooManyLogins
            | Reason::TooManyLookUps
            | Reason::UpstreamUnresolved
    );
    let detail = record.detail.as_deref()?;
    match reason {
        Reason::ParentRefused => detail.rsplit_once(AT).map(|(said, _)| said),
        _ => about_the_request.then_some(detail),
    }
}

fn json(record: &EgressLog, reason: Reason) -> String {
    let id = record.id.as_str();
    let value = match (&record.denial, record.destination()) {
        (Some(denial), Some(destination)) => denial.json(&record.client(), destination, id),
        (_, destination) => json!({
            "reason": reason.word(),
            "message": reason.sentence(),
            "destination": destination.map(ToString::to_string),
            "client": record.client().ip.to_string(),
            "user": record.user,
            "why": detail_for_client(record, reason),
            "id": id,
        }),
    };
    format!("{value}\n")
}

/// The field of RFC 9209; its error types are those of section 2.3.
pub(super) fn proxy_status(reason: Reason) -> String {
    let error = match reason {
        Reason::UpstreamUnresolved => "dns_error",
        Reason::UpstreamConnect => "destination_unavailable",
        Reason::UpstreamConnectTimeout => "connection_timeout",
        Reason::UpstreamTls => "tls_protocol_error",
        Reason::UpstreamClosed => "connection_terminated",
        Reason::UpstreamCut => "http_response_incomplete",
        Reason::UpstreamBadAnswer => "http_protocol_error",
        Reason::UpstreamFirstByteTimeout | Reason::UpstreamStalled => "http_response_timeout",
        Reason::ParentRefused => "proxy_configuration_error",
        Reason::EgressAddress => "destination_ip_prohibited",
        Reason::TooManyTunnels
        | Reason::TooManyTunnelsOfClient
        | Reason::TooFast
        | Reason::TooManyLogins
        | Reason::TooManyLookUps
        | Reason::TooManyConnections
        | Reason::TooManyFromClient => "connection_limit_reached",
        reason if reason.is_shortage() => "proxy_internal_error",
        Reason::Internal | Reason::Draining => "proxy_internal_error",
        reason if matches!(reason.code(), 403 | 407) => "http_request_denied",
        _ => "http_request_error",
    };
    format!("app-gateway; error={error}; details=\"{}\"", reason.word())
}

/// Advice to a client that sends https:// requests in clear.
pub(super) const HTTPS_IN_CLEAR: &str = "the client sends `GET https://...` to the proxy instead of CONNECT, so its request, credentials included, \
would cross the network in clear. With axios set `proxy: false` and give it an `httpsAgent` (https-proxy-agent); \
or let the gateway open TLS itself: `https-absolute-form = true` in [forward]";
