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

            /// Name in the format `json`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$key => $json,)+ }
            }

            /// Name in the format `ecs`.
            #[must_use]
            pub const fn ecs_name(self) -> &'static str {
                match self { $(Self::$key => $ecs,)+ }
            }

            /// Meaning, for the reference.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$key => concat!($($doc),+).trim_ascii(),)+ }
            }

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
    /// Id of the request, the same as in `X-Request-Id` on both sides.
    Id => "id", "http.request.id";
    /// Id of the trace that the component received in `traceparent`.
    Trace => "trace_id", "trace.id";
    /// `request`; `egress` (a request to the forward proxy); `tunnel` (a WebSocket, a tunnel of the
    /// forward proxy or a passthrough connection, written when it ends); or `rejected` (a
    /// connection or head that was rejected before there was a request).
    Event => "event", "event.action";
    /// Name of the profile; `forward` for the forward proxy, the name of the table for passthrough.
    Profile => "profile", "app_gateway.profile";
    /// Address of the listener.
    Listener => "listener", "app_gateway.listener";
    /// Address and port of the TCP peer, or those that a balancer or one of `trusted-proxies`
    /// names; without the port if it is not known.
    Client => "client", "client.ip";
    /// Behind a balancer, or a trusted proxy that names the client: its own address and port.
    Peer => "peer", "app_gateway.peer";
    /// Behind a balancer, the content of its PROXY protocol header: the client (`proxied`), no
    /// client (`unknown`), or the balancer itself (`local`).
    ProxyProtocol => "proxy_protocol", "app_gateway.proxy_protocol";
    /// Unique id of the connection in the PROXY protocol header, if the balancer sends one.
    PeerId => "peer_id", "app_gateway.peer_id";
    /// User who authenticated to the forward proxy.
    User => "user", "user.name";
    /// Method of the request.
    Method => "method", "http.request.method";
    /// Host of the request, with its port.
    Host => "host", "url.domain";
    /// Host and port of a request to the forward proxy.
    Destination => "destination", "destination.address";
    /// Scheme of an absolute-form request to the forward proxy: `http` or `https`.
    Scheme => "scheme", "url.scheme";
    /// Path and query of the request, with secrets masked.
    Path => "path", "url.original";
    /// Protocol and version of the request.
    Protocol => "protocol", "http.version";
    /// `User-Agent` of the request.
    Agent => "user_agent", "user_agent.original";
    /// `Referer` of the request, with secrets masked.
    Referrer => "referrer", "http.request.referrer";
    /// Short form of a Socket.IO session's id: the first 16 digits of the SHA-256 of its `sid`, as
    /// `why-polling` shows it.
    Session => "session", "app_gateway.session";
    /// Name of the route: its `name`, else its path. For passthrough, missing if no route matched.
    Route => "route", "app_gateway.route";
    /// Name of the rule of the forward proxy that allows the request, or of the nearest one.
    Rule => "rule", "rule.name";
    /// Reason word of a request that was allowed only because of report mode.
    WouldDeny => "would_deny", "app_gateway.would_deny";
    /// Name of the upstream.
    Upstream => "upstream", "app_gateway.upstream";
    /// Endpoint of the upstream; missing if no connection could be made (`error` then names it).
    Endpoint => "endpoint", "app_gateway.endpoint";
    /// Address that the gateway connected to: a destination of the forward proxy, its parent proxy,
    /// or an endpoint of passthrough.
    UpstreamAddr => "upstream_addr", "destination.ip";
    /// Parent proxy to which `upstream_addr` belongs.
    Parent => "parent", "app_gateway.parent";
    /// Status of the response; 101 for a WebSocket, 0 if there was no response. Missing for
    /// passthrough.
    Status => "status", "http.response.status_code";
    /// Reason word: why the gateway rejected the request or ended the exchange. For the forward
    /// proxy also a mismatch that `sni` allows with `"log"`.
    Reason => "reason", "event.reason";
    /// Response flag of the reason, also for WebSockets that did not end normally.
    Flags => "flags", "app_gateway.flags";
    /// Error of the socket or of TLS, or the rule that a response or an HTTP/2 frame broke.
    Error => "error", "error.message";
    /// Why a tunnel was closed: `client_closed`, `upstream_closed`, `client_broken`,
    /// `upstream_broken`, `tunnel_idle`, `draining`, or `policy` (a reload no longer allows it, or
    /// requires more of its client's handshake). For the forward proxy and passthrough also
    /// `rejected` (the server name in TLS) and `tunnel_expired` (the longest lifetime or the time of
    /// a rule is over); for passthrough also `failed_over` (its endpoint is down or no longer used,
    /// and another one is up).
    CloseReason => "close_reason", "app_gateway.close_reason";
    /// Code of the Close frame that the gateway sent to the client of a WebSocket: 1001
    /// (`draining`, `tunnel_idle`, `handshake_outdated`) or 1008 (`policy`), with that word as its
    /// reason; missing if the other side ended the WebSocket, or if no frame boundary came within
    /// two seconds.
    CloseCode => "close_code", "app_gateway.close_code";
    /// Bytes of the request body, or of a tunnel towards the destination.
    RequestBytes => "request_bytes", "http.request.body.bytes";
    /// Bytes of the response body, or of a tunnel towards the client.
    ResponseBytes => "response_bytes", "http.response.body.bytes";
    /// Time until the destination was connected, name resolution included; for passthrough since
    /// accept.
    Connect => "connect_ms", "app_gateway.connect_ms";
    /// Time until the response began.
    FirstByte => "first_byte_ms", "app_gateway.first_byte_ms";
    /// Total time. For a rejected connection or head since it was accepted or began.
    Duration => "duration_ms", "event.duration";
    /// Number of the configuration generation that decided.
    Generation => "generation", "app_gateway.generation";
    /// Hash of the configuration that decided.
    ConfigHash => "config_hash", "app_gateway.config_hash";
    /// TLS version of the client's connection.
    Tls => "tls", "tls.version";
    /// Server name in the client's TLS; in a tunnel of the forward proxy the name inside the
    /// tunnel.
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
