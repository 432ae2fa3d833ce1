//! Reason words: the closed list of causes for a rejection or an early end of an exchange.

mod flag;

use http::StatusCode;

pub use flag::{Flag, Origin};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $word:literal, $status:literal;)+) => {
        /// Cause for which the gateway rejected a request or ended an exchange early.
        ///
        /// The word is the same in the `gateway-reason` field, the access log and the metrics.
        /// Dashboards depend on it: adding one is a feature, changing one is a breaking change.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// All reasons, for metrics and documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// Status code of a reply with this reason; without a reply, the status in the log.
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// Meaning in one sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// The request head is not HTTP/1.1 as RFC 9112 writes it.
    BadRequest => "bad_request", 400;
    /// A line of the request head ends in LF without CR.
    BareLf => "bare_lf", 400;
    /// More than one statement of where the body ends, or one that is not exactly a number or `chunked`.
    AmbiguousFraming => "ambiguous_framing", 400;
    /// A chunk of the request body is malformed.
    BadChunk => "bad_chunk", 400;
    /// `Host` is missing, repeated, malformed, or disagrees with the request target.
    BadHost => "bad_host", 400;
    /// The path can be read in two ways: dot segments, empty segments, `;` parameters, encoded slashes, backslashes or control bytes.
    AmbiguousPath => "ambiguous_path", 400;
    /// The request target is neither a path nor a URL.
    BadTarget => "bad_target", 400;
    /// This is a proxy: it takes `CONNECT host:port`, or a request for a whole `http://` URL.
    NotProxied => "not_a_proxy_request", 400;
    /// The client asks for an `https://` URL in clear instead of by CONNECT.
    HttpsInClear => "https_without_connect", 400;
    /// An upgrade request is malformed.
    BadUpgrade => "bad_upgrade", 400;
    /// `Connection` names a field that must not be removed.
    BadConnection => "bad_connection_field", 400;
    /// A plain HTTP request came to a TLS port.
    PlainHttp => "plain_http_on_tls_port", 400;
    /// The route denies it.
    RouteDenied => "route_denied", 403;
    /// The route does not carry WebSockets.
    WebSocketDenied => "websocket_not_allowed", 403;
    /// No route matches this path.
    NoRoute => "no_route", 404;
    /// The route does not allow this method.
    MethodNotAllowed => "method_not_allowed", 405;
    /// The request head took too long.
    HeaderTimeout => "header_timeout", 408;
    /// The request body stalled or came too slowly.
    BodyTooSlow => "body_too_slow", 408;
    /// The request body is larger than the route allows.
    BodyTooLarge => "body_too_large", 413;
    /// `Expect` asks for something other than `100-continue`.
    BadExpect => "expectation_failed", 417;
    /// This host is not served here.
    UnknownHost => "unknown_host", 421;
    /// The TLS handshake requirements for clients of this listener have changed since this connection was made: a new connection is needed.
    HandshakeOutdated => "handshake_outdated", 421;
    /// The request head is larger than allowed, or has more fields.
    HeaderTooLarge => "header_too_large", 431;
    /// The HTTP version is not 1.0, 1.1 or 2.
    BadVersion => "http_version", 505;
    /// No endpoint of the upstream could be connected to.
    UpstreamConnect => "upstream_connect_failed", 502;
    /// Connecting to the upstream took too long.
    UpstreamConnectTimeout => "upstream_connect_timeout", 504;
    /// The TLS handshake with the upstream failed: its certificate was not accepted, or it does not speak TLS as we do.
    UpstreamTls => "upstream_tls_failed", 502;
    /// The upstream's name could not be resolved.
    UpstreamUnresolved => "upstream_unresolved", 502;
    /// The upstream closed the connection before it answered.
    UpstreamClosed => "upstream_closed", 502;
    /// The upstream's answer is not HTTP/1.1, is ambiguous, or answers no request.
    UpstreamBadAnswer => "upstream_bad_answer", 502;
    /// The upstream did not start its answer in time.
    UpstreamFirstByteTimeout => "upstream_first_byte_timeout", 504;
    /// The upstream's answer stalled.
    UpstreamStalled => "upstream_stalled", 504;
    /// The upstream's answer ended before its stated end.
    UpstreamCut => "upstream_cut", 502;
    /// Every endpoint of the upstream is down, or was taken out of use by the operator.
    UpstreamDown => "upstream_down", 503;
    /// The Socket.IO session was on an endpoint that is gone; the client opens another.
    SessionLost => "session_lost", 400;
    /// The gateway is out of file descriptors.
    NoDescriptors => "out_of_descriptors", 503;
    /// The gateway has no local port left to connect from.
    NoPorts => "out_of_ports", 503;
    /// The gateway's host has no memory left for sockets.
    NoMemory => "out_of_memory", 503;
    /// The gateway is shutting down.
    Draining => "draining", 503;
    /// Too many open connections on the listener.
    TooManyConnections => "too_many_connections", 503;
    /// Too many open connections from this client.
    TooManyFromClient => "too_many_connections_from_client", 503;
    /// Too many open requests and WebSockets in the profile.
    TooManyRequests => "too_many_requests", 503;
    /// Too many open requests and WebSockets of this client.
    TooManyRequestsOfClient => "too_many_requests_of_client", 429;
    /// The client has left too much of earlier answers on its HTTP/2 connection unread.
    SendBufferFull => "http2_send_buffer_full", 503;
    /// The upstream has as many connections as it may have, and none became free in time.
    UpstreamFull => "upstream_full", 503;
    /// This client has its share of the connections that the upstream may have.
    UpstreamShare => "upstream_share_of_client", 429;
    /// Too many open tunnels.
    TooManyTunnels => "too_many_tunnels", 503;
    /// Too many open tunnels of this client.
    TooManyTunnelsOfClient => "too_many_tunnels_of_client", 429;
    /// The self-test cannot serve this client now, or the request exceeds its limits.
    SelfTestBusy => "self_test_busy", 429;
    /// This client asks for new tunnels faster than it may.
    TooFast => "too_many_new_tunnels", 429;
    /// Too many log-ins of this client network have failed, or wait to be verified.
    TooManyLogins => "too_many_logins", 429;
    /// Too many names are being looked up for this client network.
    TooManyLookUps => "too_many_lookups", 429;
    /// The parent proxy did not open the tunnel.
    ParentRefused => "parent_refused", 502;
    /// The client went away first.
    ClientGone => "client_gone", 499;
    /// The client took the answer too slowly.
    ClientTooSlow => "client_too_slow", 499;
    /// A frame or a head of HTTP/2 breaks the protocol (RFC 9113).
    Http2Protocol => "http2_protocol_error", 400;
    /// The client opens more HTTP/2 streams at once than it may.
    TooManyStreams => "http2_too_many_streams", 503;
    /// The client floods its HTTP/2 connection: resets, empty frames, endless heads.
    Http2Flood => "http2_flood", 429;
    /// The TLS handshake failed.
    TlsHandshake => "tls_handshake_failed", 0;
    /// The TLS handshake took too long.
    HandshakeTimeout => "tls_handshake_timeout", 0;
    /// A balancer's connection does not begin with a valid PROXY protocol header.
    BalancerHeader => "proxy_protocol_malformed", 0;
    /// A balancer did not send its PROXY protocol header in time.
    BalancerTimeout => "proxy_protocol_timeout", 0;
    /// Only the balancers that `proxy-protocol` lists may connect to this listener.
    NotABalancer => "not_a_balancer", 0;
    /// A tunnel was silent for too long.
    TunnelIdle => "tunnel_idle", 0;
    /// The client did not send the ClientHello of its tunnel in time.
    HelloTimeout => "egress_hello_timeout", 0;
    /// The destination of a forward proxy request is not a host and a port.
    BadDestination => "bad_destination", 400;
    /// No rule of the forward proxy allows this destination to this client.
    EgressDenied => "egress_denied", 403;
    /// No rule of the forward proxy is for this client.
    EgressClient => "egress_client", 403;
    /// A rule of the forward proxy allows this host, but not this port.
    EgressPort => "egress_port", 403;
    /// A rule of the forward proxy allows this destination, but not at this time.
    EgressTime => "egress_time", 403;
    /// A rule of the forward proxy denies this destination.
    EgressForbidden => "egress_forbidden", 403;
    /// The destination is an address, and no rule of the forward proxy lists it.
    EgressLiteral => "egress_literal", 403;
    /// The destination resolves to an address that no rule of the forward proxy lists: it is not on the internet, or the gateway's own.
    EgressAddress => "egress_address", 403;
    /// The TLS handshake requirements for clients of the forward proxy have changed since this connection was made: a new connection is needed.
    EgressHandshakeOutdated => "egress_handshake_outdated", 503;
    /// A rule of the forward proxy allows this destination only to authenticated users.
    ProxyAuthRequired => "proxy_auth_required", 407;
    /// The user is unknown to the forward proxy, or the password is wrong.
    ProxyAuthFailed => "proxy_auth_failed", 407;
    /// The server name in TLS is not the host of the tunnel.
    SniMismatch => "egress_sni_mismatch", 0;
    /// The ClientHello has no server name to compare.
    SniMissing => "egress_sni_missing", 0;
    /// The ClientHello of a tunnel contains an encrypted one (ECH): the visible server name may not be the true one.
    EgressEch => "egress_ech", 0;
    /// The client's data in the tunnel is not TLS.
    NotTls => "egress_not_tls", 0;
    /// The ClientHello of a tunnel is malformed or too long.
    BadHello => "egress_bad_hello", 0;
    /// The client's address is not in this listener's `clients`.
    TcpClient => "tcp_client_denied", 0;
    /// The ClientHello has no SNI and no catch-all route is configured.
    TcpSniMissing => "tcp_sni_missing", 0;
    /// No passthrough route has the server name of the ClientHello.
    TcpSniUnknown => "tcp_sni_unknown", 0;
    /// The second ClientHello of a passthrough connection, sent after a HelloRetryRequest, has another server name.
    TcpSniChanged => "tcp_sni_changed", 0;
    /// A passthrough connection does not begin with TLS.
    TcpNotTls => "tcp_not_tls", 0;
    /// The ClientHello of a passthrough connection is malformed or too long.
    TcpBadHello => "tcp_bad_hello", 0;
    /// The client did not send a complete ClientHello in time.
    TcpHelloTimeout => "tcp_hello_timeout", 0;
    /// A fault in the gateway itself.
    Internal => "internal", 500;
}

impl Reason {
    /// Returns `true` if the gateway itself lacked a resource, so that the failure says nothing about an upstream.
    #[must_use]
    pub const fn is_shortage(self) -> bool {
        matches!(self, Self::NoDescriptors | Self::NoPorts | Self::NoMemory)
    }

    /// The response flag.
    #[must_use]
    pub const fn flag(self) -> Flag {
        flag::of(self)
    }

    /// The status of a reply with this reason.
    #[must_use]
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.code()).unwrap_or(StatusCode::BAD_GATEWAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_plain() {
        let mut words: Vec<_> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        assert!(words.iter().all(|w| w.bytes().all(plain) && !w.starts_with(|c| c < 'a')));
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::ALL.len());
    }

    #[test]
    fn every_reason_has_a_sentence() {
        assert!(Reason::ALL.iter().all(|reason| reason.sentence().ends_with('.')));
    }
}
