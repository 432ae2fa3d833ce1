//! Lines of the access log: their fields, independent of the format.
//!
//! An [`LogEvent`] passes its fields one after another, each under a [`Key`] of the closed list, to
//! a [`LineWriter`], which writes them in one of the [`Format`]s. The compiler instantiates each
//! pair of event and format, so a field that a format omits costs nothing.
//!
//! In: plain values. Out: one line without its line end and without control bytes, for any input;
//! no field is longer than [`MAX_FIELD_BYTES`].

mod combined;
mod ecs;
mod json;

use std::net::SocketAddr;
use std::time::Duration;

pub use crate::config::LogFormat as Format;
pub use combined::Combined;
pub use ecs::Ecs;
pub use json::Json;
pub(crate) use json::string;

use super::mask::QueryMask;
use super::timestamp::TimestampCache;

/// Limit for one field after escaping, in bytes; `…+N` follows with the number of omitted bytes. A
/// client must not make the log grow much faster than it sends.
pub const MAX_FIELD_BYTES: usize = 1024;

/// An event that has one line in the log.
pub trait LogEvent {
    /// Writes the fields of the event, in the order of the JSON format. The writer adds the time.
    fn write_fields<L: LineWriter>(&self, line: &mut L);
}

/// A line in one of the formats.
pub trait LineWriter {
    /// Appends a text.
    fn text(&mut self, key: Key, value: &[u8]);
    /// Appends a number.
    fn number(&mut self, key: Key, value: u64);
    /// Appends a duration.
    fn took(&mut self, key: Key, value: Duration);
    /// Appends an address and port; the port 0 means unknown.
    fn address(&mut self, key: Key, value: SocketAddr);
    /// Appends a request target or URL, with its secrets masked.
    fn target(&mut self, key: Key, value: &[u8]);
}

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $key:ident => $json:literal, $ecs:literal;)+) => {
        /// Name of a field.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Key {
            $($(#[doc = $doc])+ $key,)+
        }

        impl Key {
            /// All fields.
            pub const ALL: &'static [Self] = &[$(Self::$key,)+];

            /// Name in JSON, quoted, with its colon; empty if the field is omitted.
            #[inline]
            const fn json(self) -> &'static str {
                match self { $(Self::$key => concat!("\"", $json, "\":"),)+ }
            }

            /// Name in ECS, quoted, with its colon.
            #[inline]
            const fn ecs(self) -> &'static str {
                match self { $(Self::$key => concat!("\"", $ecs, "\":"),)+ }
            }
        }
    };
}

keys! {
    /// Id of the request.
    Id => "id", "http.request.id";
    /// Id of the trace that the request belongs to.
    Trace => "trace_id", "trace.id";
    /// `request`, `tunnel`, `refused`, …
    Event => "event", "event.action";
    /// Name of the profile.
    Profile => "profile", "app_gateway.profile";
    /// Name of the listener.
    Listener => "listener", "app_gateway.listener";
    /// The TCP peer, or the client named by a balancer or trusted proxy.
    Client => "client", "client.ip";
    /// The TCP peer, if it is a balancer or a trusted proxy that names the client.
    Peer => "peer", "app_gateway.peer";
    /// Result of the PROXY protocol header.
    ProxyProtocol => "proxy_protocol", "app_gateway.proxy_protocol";
    /// Unique id of the connection in the PROXY protocol header.
    PeerId => "peer_id", "app_gateway.peer_id";
    /// The authenticated user.
    User => "user", "user.name";
    /// Method of the request.
    Method => "method", "http.request.method";
    /// The host in the request, with its port.
    Host => "host", "url.domain";
    /// Host and port of a proxy request.
    Destination => "destination", "destination.address";
    /// Scheme of the URL of a proxy request.
    Scheme => "scheme", "url.scheme";
    /// Path and query.
    Path => "path", "url.original";
    /// Protocol and version.
    Protocol => "protocol", "http.version";
    /// `User-Agent`.
    Agent => "user_agent", "user_agent.original";
    /// `Referer`.
    Referrer => "referrer", "http.request.referrer";
    /// The short form of a Socket.IO session's id.
    Session => "session", "app_gateway.session";
    /// Name of the route.
    Route => "route", "app_gateway.route";
    /// Name of the rule.
    Rule => "rule", "rule.name";
    /// Reason for which the request would be denied without report mode.
    WouldDeny => "would_deny", "app_gateway.would_deny";
    /// Name of the upstream.
    Upstream => "upstream", "app_gateway.upstream";
    /// Endpoint of the upstream.
    Endpoint => "endpoint", "app_gateway.endpoint";
    /// Address of the connection.
    Dialled => "dialled", "destination.ip";
    /// Parent proxy.
    Parent => "parent", "app_gateway.parent";
    /// Status of the response.
    Status => "status", "http.response.status_code";
    /// Reason of a rejection or an early end.
    Reason => "reason", "event.reason";
    /// The reason as a response flag.
    Flags => "flags", "app_gateway.flags";
    /// Error reported by the system.
    Detail => "detail", "error.message";
    /// Cause of the end of a tunnel.
    End => "end", "app_gateway.end";
    /// Code of the Close frame.
    CloseCode => "close_code", "app_gateway.close_code";
    /// Bytes of the request's body.
    RequestBytes => "request_bytes", "http.request.body.bytes";
    /// Bytes of the response's body.
    ResponseBytes => "response_bytes", "http.response.body.bytes";
    /// Time until the destination was connected.
    Connect => "connect_ms", "app_gateway.connect_ms";
    /// Time until the response began.
    FirstByte => "first_byte_ms", "app_gateway.first_byte_ms";
    /// Total duration.
    Duration => "duration_ms", "event.duration";
    /// Number of the configuration generation.
    Generation => "generation", "app_gateway.generation";
    /// Hash of the configuration.
    Config => "config", "app_gateway.config";
    /// TLS version.
    Tls => "tls", "tls.version";
    /// Server name sent by the client.
    Sni => "sni", "tls.client.server_name";
}

/// Format of the lines, and masking.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LineStyle {
    /// The format.
    pub format: Format,
    /// Secret parameters to mask.
    pub mask: QueryMask,
}

impl LineStyle {
    /// Appends the line of an event, without a line end.
    pub fn write(&self, out: &mut Vec<u8>, stamp: &TimestampCache, event: &impl LogEvent) {
        match self.format {
            Format::Json => {
                let mut line = Json::begin(out, stamp, &self.mask);
                event.write_fields(&mut line);
                line.end();
            }
            Format::Ecs => {
                let mut line = Ecs::begin(out, stamp, &self.mask);
                event.write_fields(&mut line);
                line.end();
            }
            Format::Combined => {
                let mut line = Combined::begin(&self.mask);
                event.write_fields(&mut line);
                line.end(out, stamp);
            }
        }
    }
}

#[cfg(test)]
mod tests;
