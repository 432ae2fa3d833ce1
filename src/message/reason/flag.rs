//! Response flags: short codes for groups of reasons. A code that Envoy has keeps Envoy's meaning;
//! the gateway's own codes do not exist in Envoy.

use super::Reason;

macro_rules! flags {
    ($($(#[doc = $doc:literal])+ $flag:ident => $letters:literal, $origin:ident;)+) => {
        /// Group of reasons, as a short code in the log.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum Flag {
            $($(#[doc = $doc])+ $flag,)+
        }

        impl Flag {
            /// All flags.
            pub const ALL: &'static [Self] = &[$(Self::$flag,)+];

            /// The stable letters.
            #[must_use]
            pub const fn letters(self) -> &'static str {
                match self { $(Self::$flag => $letters,)+ }
            }

            /// Origin of the letters.
            #[must_use]
            pub const fn origin(self) -> Origin {
                match self { $(Self::$flag => Origin::$origin,)+ }
            }

            /// Meaning in one sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$flag => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

/// Origin of a flag's letters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// Envoy, with the same meaning.
    Envoy,
    /// The gateway.
    Gateway,
}

flags! {
    /// No route matches.
    NoRoute => "NR", Envoy;
    /// The upstream's name could not be resolved.
    UpstreamUnresolved => "DF", Envoy;
    /// No endpoint of the upstream is usable.
    UpstreamUnhealthy => "UH", Envoy;
    /// The upstream has as many connections as it may have.
    UpstreamOverflow => "UO", Envoy;
    /// The upstream could not be connected to.
    UpstreamFailure => "UF", Envoy;
    /// The upstream closed the connection.
    UpstreamClosed => "UC", Envoy;
    /// The upstream took too long.
    UpstreamTimeout => "UT", Envoy;
    /// The upstream's answer breaks the protocol.
    UpstreamProtocol => "UPE", Envoy;
    /// The client went away.
    ClientGone => "DC", Envoy;
    /// The client took too long.
    ClientTimeout => "CT", Gateway;
    /// The client breaks the protocol.
    ClientProtocol => "DPE", Envoy;
    /// A limit on concurrent use by clients is reached.
    Limited => "CL", Gateway;
    /// A client sends requests more often than allowed.
    RateLimited => "RL", Envoy;
    /// A size limit is exceeded.
    TooLarge => "BL", Gateway;
    /// The access rules deny it.
    Denied => "AC", Gateway;
    /// The client has not authenticated.
    Unknown => "AD", Gateway;
    /// A tunnel was silent for too long.
    Idle => "SI", Envoy;
    /// The gateway drains.
    Draining => "HD", Gateway;
    /// The gateway is overloaded.
    Overloaded => "OM", Envoy;
    /// A fault in the gateway.
    Internal => "IE", Gateway;
}

impl Flag {
    /// Flag for the word that describes the end of a tunnel; `None` after a normal end.
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

/// Flag of a reason. The match is exhaustive, so a reason without a flag does not compile.
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
        Reason::UpstreamUnresolved => Flag::UpstreamUnresolved,
        Reason::UpstreamDown | Reason::SessionLost => Flag::UpstreamUnhealthy,
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
        | Reason::TooManyLookUps => Flag::Limited,
        Reason::TooFast | Reason::Http2Flood | Reason::TooManyLogins => Flag::RateLimited,
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
    fn letters_of_envoy_are_the_gateways_only_with_the_same_meaning() {
        // All flags that Envoy documents for %RESPONSE_FLAGS%.
        let envoys = "UH UF UO NR URX NC DT DC LH UT LR UR UC DI FI RL UAEX RLSE IH SI DPE UPE UMSDR RFCF NFCF OM \
            DF DO DR UDO";
        for flag in Flag::ALL {
            let known = envoys.split(' ').any(|letters| letters == flag.letters());
            assert_eq!(known, flag.origin() == Origin::Envoy, "{}", flag.letters());
        }
    }

    #[test]
    fn server_faults_are_never_the_clients() {
        for reason in Reason::ALL.iter().filter(|reason| matches!(reason.code(), 502 | 504)) {
            let letters = reason.flag().letters();
            assert!(letters.starts_with('U') || letters == "DF", "{}", reason.word());
        }
    }
}
