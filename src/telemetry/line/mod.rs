//! The lines of the access log: what they say, apart from how it is written.
//!
//! An [`LogEvent`] tells its fields one after another, each under a [`Key`] of the closed list. A
//! [`LineWriter`] writes them, in one of the [`Format`]s. The pair is put together by the compiler, once
//! per event and format, so a format that skips a field costs nothing for it.
//!
//! In: plain values. Out: one line without its end, without control bytes, whatever came in; no field
//! of it longer than [`MAX_FIELD_BYTES`].

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

/// Bytes written of one field, escaped, at most; `…+N` follows with the number of bytes left out. A client
/// must not make the log grow much faster than it sends.
pub const MAX_FIELD_BYTES: usize = 1024;

/// Something that has one line in the log.
pub trait LogEvent {
    /// Tells its fields, in the order in which JSON shows them. The time is the writer's.
    fn tell<L: LineWriter>(&self, line: &mut L);
}

/// A line that is being written.
pub trait LineWriter {
    /// A text.
    fn text(&mut self, key: Key, value: &[u8]);
    /// A number.
    fn number(&mut self, key: Key, value: u64);
    /// A time that something took.
    fn took(&mut self, key: Key, value: Duration);
    /// An address and port; 0: nobody has told the port.
    fn address(&mut self, key: Key, value: SocketAddr);
    /// A request target or URL, whose secrets are masked.
    fn target(&mut self, key: Key, value: &[u8]);
}

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $key:ident => $json:literal, $ecs:literal;)+) => {
        /// What a field is.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Key {
            $($(#[doc = $doc])+ $key,)+
        }

        impl Key {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$key,)+];

            /// The name in JSON, quoted, with its colon; empty: not shown.
            #[inline]
            const fn json(self) -> &'static str {
                match self { $(Self::$key => concat!("\"", $json, "\":"),)+ }
            }

            /// The name in ECS, quoted, with its colon.
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
    /// The TCP peer, or whom a balancer or a trusted proxy names.
    Client => "client", "client.ip";
    /// The TCP peer, where that is a balancer, or a proxy that names another.
    Peer => "peer", "app_gateway.peer";
    /// What the balancer said about the connection.
    ProxyProtocol => "proxy_protocol", "app_gateway.proxy_protocol";
    /// What the balancer calls the connection.
    PeerId => "peer_id", "app_gateway.peer_id";
    /// Who has logged in.
    User => "user", "user.name";
    /// Method of the request.
    Method => "method", "http.request.method";
    /// The host that is asked for, port included.
    Host => "host", "url.domain";
    /// Host and port that a proxy request is for.
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
    /// What a setting let pass.
    WouldDeny => "would_deny", "app_gateway.would_deny";
    /// Name of the upstream.
    Upstream => "upstream", "app_gateway.upstream";
    /// The endpoint.
    Endpoint => "endpoint", "app_gateway.endpoint";
    /// The address that was connected to.
    Dialled => "dialled", "destination.ip";
    /// The proxy behind this one.
    Parent => "parent", "app_gateway.parent";
    /// Status of the answer.
    Status => "status", "http.response.status_code";
    /// Why it ended as it did.
    Reason => "reason", "event.reason";
    /// The same, as a response flag.
    Flags => "flags", "app_gateway.flags";
    /// What the system said.
    Detail => "detail", "error.message";
    /// How a tunnel ended.
    End => "end", "app_gateway.end";
    /// Code of the Close frame.
    CloseCode => "close_code", "app_gateway.close_code";
    /// Bytes of the request's body.
    RequestBytes => "request_bytes", "http.request.body.bytes";
    /// Bytes of the answer's body.
    ResponseBytes => "response_bytes", "http.response.body.bytes";
    /// Until the destination was connected to.
    Connect => "connect_ms", "app_gateway.connect_ms";
    /// Until the answer began.
    FirstByte => "first_byte_ms", "app_gateway.first_byte_ms";
    /// In all.
    Duration => "duration_ms", "event.duration";
    /// Number of the configuration generation.
    Generation => "generation", "app_gateway.generation";
    /// Hash of the configuration.
    Config => "config", "app_gateway.config";
    /// Version of TLS.
    Tls => "tls", "tls.version";
    /// The name the client asked for.
    Sni => "sni", "tls.client.server_name";
}

/// How lines are written, and what is masked in them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LineStyle {
    /// The format.
    pub format: Format,
    /// Secret parameters.
    pub mask: QueryMask,
}

impl LineStyle {
    /// Appends the line of an event, without a line end.
    pub fn write(&self, out: &mut Vec<u8>, stamp: &TimestampCache, event: &impl LogEvent) {
        match self.format {
            Format::Json => {
                let mut line = Json::begin(out, stamp, &self.mask);
                event.tell(&mut line);
                line.end();
            }
            Format::Ecs => {
                let mut line = Ecs::begin(out, stamp, &self.mask);
                event.tell(&mut line);
                line.end();
            }
            Format::Combined => {
                let mut line = Combined::begin(&self.mask);
                event.tell(&mut line);
                line.end(out, stamp);
            }
        }
    }
}

#[cfg(test)]
mod tests;
