//! Connections that come through a balancer: who is a balancer, and what it says about a connection
//! before its first byte (PROXY protocol).
//!
//! Who may send a header is asked before one is read: a listed balancer must, nobody else can.
//!
//! Never: guesses from the bytes whether there is a header.

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

/// Longest name of a connection that is kept (section 2.2.5), in bytes.
const MAX_UNIQUE_ID: usize = 128;

/// Who a TCP peer is to a listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PeerKind {
    /// A client that came directly.
    Client,
    /// A balancer, which says who the client is.
    Balancer,
    /// Somebody who is not to come directly.
    Stranger,
}

impl PeerKind {
    /// By the settings of the listener.
    pub(crate) fn of(peer: ClientAddr, settings: Option<&ProxyProtocol>) -> Self {
        let Some(settings) = settings else { return Self::Client };
        let ip = peer.ip();
        match settings.others {
            _ if settings.from.iter().any(|network| network.contains(&ip)) => Self::Balancer,
            UnlistedPeers::Refuse => Self::Stranger,
            UnlistedPeers::Direct => Self::Client,
        }
    }
}

/// What a balancer said about a connection.
#[derive(Debug)]
pub(crate) struct ProxyHeader {
    /// The balancer: the TCP peer.
    peer: SocketAddr,
    origin: HeaderSource,
    /// What the balancer calls the connection.
    id: Option<Box<[u8]>>,
}

impl ProxyHeader {
    /// Who the client is: the balancer itself, if it speaks for nobody.
    pub(crate) fn client(&self) -> ClientAddr {
        match self.origin {
            // As which it would have come directly, where IPv4 is never carried in IPv6.
            HeaderSource::Proxied { source, .. } => {
                ClientAddr(SocketAddr::new(source.ip().to_canonical(), source.port()))
            }
            HeaderSource::Local | HeaderSource::Unknown => ClientAddr(self.peer),
        }
    }

    /// Where the client connected to, if the balancer says so.
    pub(crate) fn destination(&self) -> Option<SocketAddr> {
        match self.origin {
            HeaderSource::Proxied { destination, .. } => Some(destination),
            HeaderSource::Local | HeaderSource::Unknown => None,
        }
    }

    /// Whether the client is somebody else than the balancer.
    fn is_for_another(&self) -> bool {
        matches!(self.origin, HeaderSource::Proxied { .. })
    }

    /// Whether a handshake that failed so only ends a check of the balancer's, which has seen enough.
    pub(crate) fn was_a_check(&self, failed: &io::Error) -> bool {
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

    /// Tells its fields of a log line.
    pub(crate) fn tell(&self, line: &mut impl LineWriter) {
        line.address(Key::Peer, self.peer);
        line.text(Key::ProxyProtocol, self.counted().word().as_bytes());
        if let Some(id) = &self.id {
            line.text(Key::PeerId, id);
        }
    }
}

/// Why a balancer's connection is not served.
pub(crate) enum BalancerError {
    /// The balancer wanted to know whether somebody is here, and has gone.
    Probe,
    /// It is refused; with what the balancer said, and for the operator what is wrong with that.
    Refused(Option<Box<ProxyHeader>>, Reason, Option<String>),
}

/// Finds out whose a connection is, and counts it as theirs; `None`: it came directly. If it is a
/// balancer's, its header is taken off, until the alarm goes off; `metrics` are the listener's.
///
/// # Errors
///
/// [`BalancerError`].
pub(crate) async fn identify(
    stream: &mut TcpStream,
    peer: ClientAddr,
    admitted: &mut AdmittedConn,
    timer: &Timer,
    metrics: &ListenerMetrics,
) -> Result<Option<Box<ProxyHeader>>, BalancerError> {
    if !admitted.is_balancers {
        return Ok(None);
    }
    // Boxed: most listeners have no balancer.
    let (via, counted) = Box::pin(header(stream, peer, timer)).await;
    metrics.balanced(counted);
    let via = Box::new(via?);
    if via.is_for_another()
        && let Err(reason) = admitted.pass_to(via.client(), metrics)
    {
        return Err(BalancerError::Refused(Some(via), reason, None));
    }
    Ok(Some(via))
}

/// Takes the header off a balancer's connection, until the alarm goes off, and says what it is
/// counted as.
async fn header(
    stream: &mut TcpStream,
    peer: ClientAddr,
    timer: &Timer,
) -> (Result<ProxyHeader, BalancerError>, ProxyHeaderResult) {
    let refused = |reason, detail: String| Err(BalancerError::Refused(None, reason, Some(detail)));
    let Some(received) = until(timer, receive(stream)).await else {
        let detail = "no whole PROXY protocol header in time".to_owned();
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
    // A health check may end with the header that says it is one, or say nothing after it.
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
        // Version 1 has no LOCAL: a check then names the balancer's own address (section 2.1).
        HeaderSource::Proxied { source, .. } if source == peer.0 => HeaderSource::Local,
        origin => origin,
    };
    ProxyHeader { peer: peer.0, origin, id: id.map(Box::from) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balancer_is_who_is_listed_however_its_address_is_carried() {
        let peer = |text: &str| ClientAddr(text.parse().unwrap());
        let from = vec!["10.0.0.0/24".parse().unwrap(), "2001:db8::5/128".parse().unwrap()];
        let mut settings = ProxyProtocol { from, others: UnlistedPeers::Refuse };
        for listed in ["10.0.0.9:1", "[::ffff:10.0.0.9]:1", "[2001:db8::5]:1"] {
            assert_eq!(PeerKind::of(peer(listed), Some(&settings)), PeerKind::Balancer, "{listed}");
        }
        for other in ["10.0.1.9:1", "[::ffff:10.0.1.9]:1", "[2001:db8::6]:1"] {
            assert_eq!(PeerKind::of(peer(other), Some(&settings)), PeerKind::Stranger, "{other}");
        }
        settings.others = UnlistedPeers::Direct;
        assert_eq!(PeerKind::of(peer("10.0.1.9:1"), Some(&settings)), PeerKind::Client);
        assert_eq!(PeerKind::of(peer("10.0.0.9:1"), Some(&settings)), PeerKind::Balancer);
        assert_eq!(PeerKind::of(peer("10.0.0.9:1"), None), PeerKind::Client);
    }
}
