//! Causes for which a session has no WebSocket: a closed list with explanations and remedies.

use std::time::Duration;

use super::packet::Heartbeat;

/// Location of an idle timer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TimerSide {
    /// Between the client and the gateway.
    Front,
    /// Between the gateway and the component.
    Behind,
    /// In the gateway.
    Ours,
}

impl TimerSide {
    /// The location in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Front => "in front of the gateway",
            Self::Behind => "behind the gateway",
            Self::Ours => "in the gateway itself",
        }
    }
}

macro_rules! causes {
    ($($(#[doc = $doc:literal])+ $name:ident => $word:literal, $sentence:literal, $next:literal;)+) => {
        /// Cause for which a session has no WebSocket.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Cause {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Cause {
            /// All causes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The stable word, in metrics and reports.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// Explanation of the cause, one sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)+ }
            }

            /// Remedy.
            #[must_use]
            pub const fn next(self) -> &'static str {
                match self { $(Self::$name => $next,)+ }
            }
        }
    };
}

causes! {
    /// The client did not request a WebSocket.
    NeverTried => "never_tried",
        "The client never requested a WebSocket, although the session offers one.",
        "Check the client: `transports: ['polling']` or `upgrade: false` in its options, or a browser or proxy that blocks WebSockets. Or a proxy in front answers upgrade requests itself and forwards only the polls.";
    /// The server does not offer a WebSocket.
    NotOffered => "not_offered",
        "The chat server does not offer a WebSocket: `upgrades` in its open packet is empty.",
        "Check the options of the chat server: `allowUpgrades` must not be false, and `transports` must have `websocket`.";
    /// Fields of the upgrade were removed before the gateway.
    UpgradeStripped => "upgrade_stripped",
        "The request for a WebSocket arrived without the fields of an upgrade: a proxy in front of the gateway removes `Upgrade` or `Connection`.",
        "Forward the upgrade in the proxy or firewall in front of the gateway. nginx: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";` F5: a WebSocket profile on the virtual server. Firewalls: no TLS inspection for this host, or its WebSocket option.";
    /// The request was a plain GET over HTTP/2.
    Http2 => "http2_without_websocket",
        "The request for a WebSocket came over HTTP/2 as a plain GET: the proxy in front uses HTTP/2 to the gateway, without WebSockets (RFC 8441).",
        "Use HTTP/1.1 from the proxy in front of the gateway for this path, or enable Extended CONNECT in it. Or set `http2 = false` on this listener.";
    /// The gateway rejected the request.
    GatewayRefused => "gateway_refused",
        "The gateway rejected the WebSocket.",
        "See the reason word: `websocket_not_allowed` means `websocket = false` on the route; `upstream_...` means that the chat server could not be reached for this request.";
    /// The server did not know the session.
    SessionUnknown => "session_unknown",
        "The chat server answered that it does not know the session (Engine.IO code 1).",
        "Was the chat server restarted? Does a balancer behind the gateway spread one session over several servers? Then it must be sticky. A client that slept for longer than the heartbeat allows gets this answer too, and opens another session.";
    /// The server rejected the request as malformed.
    BadRequest => "bad_request",
        "The chat server rejected the WebSocket as a bad request (Engine.IO code 3).",
        "A proxy behind the gateway removes `Upgrade`, or client and server disagree about the version (`EIO`). Request a WebSocket from the chat server directly, on the gateway's host (docs/guide/socketio.md).";
    /// The upstream rejected the request in another way.
    UpstreamRefused => "upstream_refused",
        "The upstream answered the request for a WebSocket with a status other than 101.",
        "Its status and Engine.IO code are in the evidence: 0 unknown transport (`transports` without `websocket`), 4 forbidden (`allowRequest`), 5 the version is not supported (`allowEIO3`). A page of HTML comes from a proxy between the gateway and the chat server.";
    /// The WebSocket was opened, but the probe messages were not exchanged.
    NoFrames => "no_frames",
        "The WebSocket was answered with 101, but the probe messages did not get through.",
        "A device on the path forwards the upgrade but not the frames that follow: a proxy that buffers, a firewall that inspects. The evidence says on which side frames were missing.";
    /// Requests of the session reached another endpoint.
    EndpointChanged => "endpoint_changed",
        "Requests of the session went to another endpoint than the one it was opened on.",
        "Socket.IO needs one endpoint per session: keep `sticky` on for this upstream, and check whether its endpoint went down (`app-gateway status`). A balancer that hides several chat servers behind one address must be sticky too.";
    /// An idle timer ended the session.
    IdleTimer => "idle_timer",
        "An idle timer on the path is shorter than the heartbeat and cut a waiting request.",
        "Raise that timer above pingInterval + pingTimeout. nginx: `proxy_read_timeout`; F5: idle timeout of the TCP profile; firewalls: session timeout of TCP; here: `tunnel-idle`, `first-byte-timeout`.";
    /// The beginning of the session was not seen.
    Unknown => "unknown",
        "The beginning of the session was not seen: its handshake was before the gateway's start, was compressed, or took another path.",
        "Sessions opened from now on will show the cause. A compressed answer to a handshake cannot be read: check whether a proxy behind the gateway compresses.";
}

/// A warning if a timeout of the gateway is shorter than the heartbeat needs.
pub(super) fn too_short(heartbeat: Heartbeat, key: &str, set: Duration) -> Option<String> {
    (set < heartbeat.need()).then(|| {
        format!(
            "`{key}` is {set:?}, and the heartbeat of its Socket.IO sessions needs {:?} \
             (pingInterval {:?} + pingTimeout {:?}): raise it, or chats are cut",
            heartbeat.need(),
            heartbeat.interval,
            heartbeat.timeout
        )
    })
}
