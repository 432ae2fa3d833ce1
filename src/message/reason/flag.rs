//! Response flags: the reasons in a few groups, in the letters that Envoy has for them.

use super::Reason;

macro_rules! flags {
    ($($(#[doc = $doc:literal])+ $flag:ident => $letters:literal;)+) => {
        /// What kind of end a request had.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum Flag {
            $($(#[doc = $doc])+ $flag,)+
        }

        impl Flag {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$flag,)+];

            /// The stable letters.
            #[must_use]
            pub const fn letters(self) -> &'static str {
                match self { $(Self::$flag => $letters,)+ }
            }

            /// What it means, one sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$flag => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

flags! {
    /// No route takes it.
    NoRoute => "NR";
    /// No endpoint of the upstream is usable.
    UpstreamUnhealthy => "UH";
    /// The upstream has as many connections as it may have.
    UpstreamOverflow => "UO";
    /// The upstream could not be connected to.
    UpstreamFailure => "UF";
    /// The upstream closed the connection.
    UpstreamClosed => "UC";
    /// The upstream took too long.
    UpstreamTimeout => "UT";
    /// The upstream's answer breaks the protocol.
    UpstreamProtocol => "UPE";
    /// The client went away.
    ClientGone => "DC";
    /// The client took too long.
    ClientTimeout => "DT";
    /// The client breaks the protocol.
    ClientProtocol => "PE";
    /// A limit on the client is reached.
    Limited => "RL";
    /// A size limit is exceeded.
    TooLarge => "BL";
    /// The access rules deny it.
    Denied => "AC";
    /// Nobody has logged in.
    Unknown => "AD";
    /// A tunnel was silent for too long.
    Idle => "SI";
    /// The gateway drains.
    Draining => "HD";
    /// The gateway is overloaded.
    Overloaded => "OM";
    /// A fault in the gateway.
    Internal => "IE";
}

impl Flag {
    /// Of the word for how a tunnel ended; `None` if that was as it should be.
    #[must_use]
    pub fn of_end(word: &str) -> Option<Self> {
        Some(match word {
            "client_broken" => Self::ClientGone,
            "upstream_broken" => Self::UpstreamClosed,
            "tunnel_idle" => Self::Idle,
            "draining" => Self::Draining,
            "policy" => Self::Denied,
            "failed_over" => Self::UpstreamUnhealthy,
            _ => return None,
        })
    }
}

/// Every reason has one: a reason without one does not compile.
pub(super) const fn of(reason: Reason) -> Flag {
    match reason {
        Reason::BadRequest
        | Reason::BareLf
        | Reason::AmbiguousFraming
        | Reason::BadChunk
        | Reason::BadHost
        | Reason::AmbiguousPath
        | Reason::BadTarget
        | Reason::BadUpgrade
        | Reason::BadConnection
        | Reason::PlainHttp
        | Reason::Http2Protocol
        | Reason::BadExpect
        | Reason::BadVersion
        | Reason::NotProxied
        | Reason::HttpsInClear
        | Reason::BadDestination
        | Reason::NotTls
        | Reason::TcpNotTls
        | Reason::TcpBadHello
        | Reason::BadHello
        | Reason::BalancerHeader
        | Reason::TlsHandshake => Flag::ClientProtocol,
        Reason::RouteDenied
        | Reason::WebSocketDenied
        | Reason::EgressDenied
        | Reason::EgressClient
        | Reason::EgressPort
        | Reason::EgressTime
        | Reason::EgressForbidden
        | Reason::EgressLiteral
        | Reason::EgressAddress
        | Reason::TcpClient
        | Reason::SniMismatch
        | Reason::SniMissing
        | Reason::EgressEch
        | Reason::NotABalancer
        | Reason::HandshakeOutdated
        | Reason::EgressHandshakeOutdated => Flag::Denied,
        Reason::ProxyAuthRequired | Reason::ProxyAuthFailed => Flag::Unknown,
        Reason::NoRoute
        | Reason::MethodNotAllowed
        | Reason::UnknownHost
        | Reason::TcpSniMissing
        | Reason::TcpSniUnknown
        | Reason::TcpSniChanged => Flag::NoRoute,
        Reason::HeaderTimeout
        | Reason::BodyTooSlow
        | Reason::ClientTooSlow
        | Reason::HandshakeTimeout
        | Reason::BalancerTimeout
        | Reason::HelloTimeout
        | Reason::TcpHelloTimeout => Flag::ClientTimeout,
        Reason::BodyTooLarge | Reason::HeaderTooLarge => Flag::TooLarge,
        Reason::UpstreamConnect
        | Reason::UpstreamConnectTimeout
        | Reason::UpstreamTls
        | Reason::ParentRefused => Flag::UpstreamFailure,
        Reason::UpstreamUnresolved | Reason::UpstreamDown | Reason::SessionLost => {
            Flag::UpstreamUnhealthy
        }
        Reason::UpstreamClosed | Reason::UpstreamCut => Flag::UpstreamClosed,
        Reason::UpstreamBadAnswer => Flag::UpstreamProtocol,
        Reason::UpstreamFull => Flag::UpstreamOverflow,
        Reason::UpstreamFirstByteTimeout | Reason::UpstreamStalled => Flag::UpstreamTimeout,
        Reason::NoDescriptors | Reason::NoPorts | Reason::NoMemory => Flag::Overloaded,
        Reason::Draining => Flag::Draining,
        Reason::TooManyConnections
        | Reason::TooManyFromClient
        | Reason::TooManyRequests
        | Reason::TooManyRequestsOfClient
        | Reason::UpstreamShare
        | Reason::SendBufferFull
        | Reason::TooManyTunnels
        | Reason::TooManyTunnelsOfClient
        | Reason::SelfTestBusy
        | Reason::TooManyStreams
        | Reason::Http2Flood
        | Reason::TooFast
        | Reason::TooManyLogins
        | Reason::TooManyLookUps => Flag::Limited,
        Reason::ClientGone => Flag::ClientGone,
        Reason::TunnelIdle => Flag::Idle,
        Reason::Internal => Flag::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_flag_and_every_flag_a_reason() {
        for flag in Flag::ALL {
            assert!(flag.sentence().ends_with('.'));
            assert!(flag.letters().bytes().all(|b| b.is_ascii_uppercase()));
            assert!(Reason::ALL.iter().any(|reason| reason.flag() == *flag), "{flag:?}");
        }
        let mut letters: Vec<_> = Flag::ALL.iter().map(|flag| flag.letters()).collect();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), Flag::ALL.len());
    }

    #[test]
    fn server_faults_are_never_the_clients() {
        for reason in Reason::ALL.iter().filter(|reason| matches!(reason.code(), 502 | 504)) {
            assert!(reason.flag().letters().starts_with('U'), "{}", reason.word());
        }
    }
}
