//! PROXY protocol on listeners behind a balancer.
//!
//! The address of the peer decides whether a header is expected: a listed balancer must send one,
//! and no other peer may. The first bytes of a connection are never used to guess.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::addr::ClientAddr;
use crate::config::{ProxyProtocol, UnlistedPeers};
use crate::message::Reason;
use crate::net::Timer;
use crate::net::proxy_protocol::{Header, HeaderSource, ReceiveError, Tlv, receive};
use crate::telemetry::ListenerMetrics;
use crate::telemetry::line::{Key, LineWriter};
use crate::telemetry::listeners::ProxyHeaderResult;

use super::accept::AdmittedConn;
use super::handshake::until;

/// Maximum length of a unique connection id (PROXY protocol section 2.2.5), in bytes.
const MAX_UNIQUE_ID: usize = 128;

/// Kind of a TCP peer, by the settings of the listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PeerKind {
    /// A client that connects directly.
    Client,
    /// A listed balancer, which names the client in a PROXY header.
    Balancer,
    /// A peer that may not connect directly.
    Unlisted,
}

impl PeerKind {
    /// Kind of `peer`; without settings every peer is a client.
    pub(crate) fn classify(peer: ClientAddr, settings: Option<&ProxyProtocol>) -> Self {
        let Some(settings) = settings else { return Self::Client };
        let ip = peer.ip();
        match settings.unlisted {
            _ if settings.from.iter().any(|network| network.contains(&ip)) => Self::Balancer,
            UnlistedPeers::Refuse => Self::Unlisted,
            UnlistedPeers::Direct => Self::Client,
        }
    }
}

/// PROXY protocol header of a connection.
#[derive(Debug)]
pub(crate) struct ProxyHeader {
    /// Address of the balancer, which is the TCP peer.
    peer: SocketAddr,
    origin: HeaderSource,
    /// Unique connection id given by the balancer.
    id: Option<Box<[u8]>>,
}

impl ProxyHeader {
    /// Address of the client. Without a proxied address it is the balancer.
    pub(crate) fn client(&self) -> ClientAddr {
        match self.origin {
            // Canonicalise IPv4-mapped addresses, as for direct connections.
            HeaderSource::Proxied { source, .. } => {
                ClientAddr(SocketAddr::new(source.ip().to_canonical(), source.port()))
            }
            HeaderSource::Local | HeaderSource::Unknown => ClientAddr(self.peer),
        }
    }

    /// Address that the client connected to, if the header has it.
    pub(crate) fn destination(&self) -> Option<SocketAddr> {
        match self.origin {
            HeaderSource::Proxied { destination, .. } => Some(destination),
            HeaderSource::Local | HeaderSource::Unknown => None,
        }
    }

    /// Whether the header names a client other than the balancer.
    fn is_proxied(&self) -> bool {
        matches!(self.origin, HeaderSource::Proxied { .. })
    }

    /// Whether a failed handshake is the normal end of a health check by the balancer.
    pub(crate) fn is_health_check_end(&self, failed: &io::Error) -> bool {
        let gone = [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe];
        self.origin == HeaderSource::Local && gone.contains(&failed.kind())
    }

    fn counted(&self) -> ProxyHeaderResult {
        match self.origin {
            HeaderSource::Proxied { .. } => ProxyHeaderResult::Proxied,
            HeaderSource::Local => ProxyHeaderResult::Local,
            HeaderSource::Unknown => ProxyHeaderResult::Unknown,
        }
    }

    /// Writes the fields of the header to a log line.
    pub(crate) fn write_fields(&self, line: &mut impl LineWriter) {
        line.address(Key::Peer, self.peer);
        line.text(Key::ProxyProtocol, self.counted().word().as_bytes());
        if let Some(id) = &self.id {
            line.text(Key::PeerId, id);
        }
    }
}

/// Reason why the connection of a balancer is not served.
pub(crate) enum BalancerError {
    /// A health check by the balancer, which has closed the connection.
    Probe,
    /// The connection is rejected. Has the header, if it was read, and a detail for the access log.
    Refused(Option<Box<ProxyHeader>>, Reason, Option<String>),
}

/// Reads the PROXY header of a balancer's connection until `timer` expires, and counts the
/// connection for its client. Returns `None` for a direct connection.
///
/// # Errors
///
/// [`BalancerError`] for a health check, a bad or missing header, or too many connections.
pub(crate) async fn identify(
    stream: &mut TcpStream,
    peer: ClientAddr,
    admitted: &mut AdmittedConn,
    timer: &Timer,
    metrics: &ListenerMetrics,
) -> Result<Option<Box<ProxyHeader>>, BalancerError> {
    if !admitted.from_balancer {
        return Ok(None);
    }
    // Boxed, because every connection reserves space for this future and most listeners have no
    // balancer.
    let (via, counted) = Box::pin(header(stream, peer, timer)).await;
    metrics.balanced(counted);
    let via = Box::new(via?);
    if via.is_proxied()
        && let Err(reason) = admitted.pass_to(via.client(), metrics)
    {
        return Err(BalancerError::Refused(Some(via), reason, None));
    }
    Ok(Some(via))
}

/// Reads the header until `timer` expires. Also returns the result for the metrics.
async fn header(
    stream: &mut TcpStream,
    peer: ClientAddr,
    timer: &Timer,
) -> (Result<ProxyHeader, BalancerError>, ProxyHeaderResult) {
    let refused = |reason, detail: String| Err(BalancerError::Refused(None, reason, Some(detail)));
    let Some(received) = until(timer, receive(stream)).await else {
        let detail = "no complete PROXY protocol header in time".to_owned();
        return (refused(Reason::BalancerTimeout, detail), ProxyHeaderResult::TimedOut);
    };
    let header = match received {
        Ok(header) => header,
        Err(ReceiveError::Nothing) => return (Err(BalancerError::Probe), ProxyHeaderResult::Probe),
        Err(ReceiveError::Io(error)) => {
            return (refused(Reason::ClientGone, error.to_string()), ProxyHeaderResult::Broken);
        }
        Err(wrong @ (ReceiveError::Malformed(_) | ReceiveError::Cut(_))) => {
            return (
                refused(Reason::BalancerHeader, wrong.to_string()),
                ProxyHeaderResult::Malformed,
            );
        }
    };
    let via = via(peer, &header);
    let counted = via.counted();
    // A balancer's health check sends LOCAL and then closes the connection or stays silent.
    if via.origin == HeaderSource::Local
        && !matches!(until(timer, stream.peek(&mut [0])).await, Some(Ok(1)))
    {
        return (Err(BalancerError::Probe), counted);
    }
    (Ok(via), counted)
}

fn via(peer: ClientAddr, header: &Header) -> ProxyHeader {
    let id = header.tlv(Tlv::UniqueId).filter(|id| (1..=MAX_UNIQUE_ID).contains(&id.len()));
    let origin = match header.origin {
        // Version 1 has no LOCAL. A health check names the balancer's own address (section 2.1).
        HeaderSource::Proxied { source, .. } if source == peer.0 => HeaderSource::Local,
        origin => origin,
    };
    ProxyHeader { peer: peer.0, origin, id: id.map(Box::from) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_networks_match_ipv4_mapped_addresses_too() {
        let peer = |text: &str| ClientAddr(text.parse().unwrap());
        let from = vec!["10.0.0.0/24".parse().unwrap(), "2001:db8::5/128".parse().unwrap()];
        let mut settings = ProxyProtocol { from, unlisted: UnlistedPeers::Refuse };
        for listed in ["10.0.0.9:1", "[::ffff:10.0.0.9]:1", "[2001:db8::5]:1"] {
            assert_eq!(
                PeerKind::classify(peer(listed), Some(&settings)),
                PeerKind::Balancer,
                "{listed}"
            );
        }
        for other in ["10.0.1.9:1", "[::ffff:10.0.1.9]:1", "[2001:db8::6]:1"] {
            assert_eq!(
                PeerKind::classify(peer(other), Some(&settings)),
                PeerKind::Unlisted,
                "{other}"
            );
        }
        settings.unlisted = UnlistedPeers::Direct;
        assert_eq!(PeerKind::classify(peer("10.0.1.9:1"), Some(&settings)), PeerKind::Client);
        assert_eq!(PeerKind::classify(peer("10.0.0.9:1"), Some(&settings)), PeerKind::Balancer);
        assert_eq!(PeerKind::classify(peer("10.0.0.9:1"), None), PeerKind::Client);
    }
}
