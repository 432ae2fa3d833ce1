//! Response flags: the reasons in a few groups. Letters that Envoy has keep Envoy's meaning; letters
//! of the gateway's own are none that Envoy has.

use super::Reason;

macro_rules! flags {
    ($($(#[doc = $doc:literal])+ $flag:ident => $letters:literal, $origin:ident;)+) => {
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

            /// Whose letters they are.
            #[must_use]
            pub const fn origin(self) -> Origin {
                match self { $(Self::$flag => Origin::$origin,)+ }
            }

            /// What it means, one sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$flag => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

/// Whose letters a flag has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// Envoy's, with Envoy's meaning.
    Envoy,
    /// The gateway's own.
    Gateway,
}

flags! {
    /// No route takes it.
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
    /// A limit on what clients hold at once is reached.
    Limited => "CL", Gateway;
    /// A client asks more often than it may.
    RateLimited => "RL", Envoy;
    /// A size limit is exceeded.
    TooLarge => "BL", Gateway;
    /// The access rules deny it.
    Denied => "AC", Gateway;
    /// Nobody has logged in.
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
        // All that Envoy documents for %RESPONSE_FLAGS%.
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
