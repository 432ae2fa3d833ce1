//! A connection to an endpoint: TCP, and TLS if the endpoint wants it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::message::Reason;
use crate::net::dial::race;
use crate::net::tunnel::TunnelStream;
use crate::net::{CheckedAddr, DialError, Io, ReadAhead, Shortage, dial};

use super::Endpoint;

/// An open connection to an endpoint.
pub enum Stream {
    /// With TLS. Boxed: a TLS session is a kilobyte.
    Tls(Box<TlsStream<ReadAhead>>),
    /// Without.
    Plain(TcpStream),
    /// A connection to another component of this process.
    Within(DuplexStream),
}

impl Stream {
    /// Turns read-ahead off (`true`) or on (`false`).
    pub fn set_frugal(&mut self, is_frugal: bool) {
        if let Self::Tls(stream) = self {
            stream.get_mut().0.set_frugal(is_frugal);
        }
    }

    /// Whether the other side has sent bytes or closed, read from the socket: the runtime notices
    /// it only when the worker waits for events again.
    #[must_use]
    pub fn has_input(&self) -> bool {
        let socket = match self {
            Self::Tls(stream) => stream.get_ref().0.socket(),
            Self::Plain(stream) => stream,
            Self::Within(_) => return false,
        };
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let nothing = matches!(recv(socket, &mut [0; 1], flags), Err(Errno::AGAIN | Errno::INTR));
        !nothing
    }
}

impl Io for Stream {}

impl TunnelStream for Stream {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Tls(_) | Self::Within(_) => None,
            Self::Plain(stream) => Some(stream),
        }
    }
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[error("{endpoint}: {detail}")]
pub struct ConnectError {
    /// The word for it.
    pub reason: Reason,
    /// The endpoint's label.
    pub endpoint: String,
    /// Error message of the socket or of TLS.
    pub detail: String,
}

/// Connects to `endpoint` within `budget`, TLS included. `key` selects one of several addresses,
/// otherwise they are used in turn. `first` is sent before all other bytes, and fits into an empty
/// send buffer.
///
/// # Errors
///
/// [`ConnectError`], whose reason tells unresolved names, refusals, time-outs and TLS failures
/// apart.
///
/// # Cancellation
///
/// Dropping the future closes the socket.
pub async fn connect(
    endpoint: &Endpoint,
    key: Option<u32>,
    budget: Duration,
    first: &[u8],
) -> Result<Stream, ConnectError> {
    let deadline = Instant::now() + budget;
    let mut tcp = connect_tcp(endpoint, None, key, budget).await?;
    if !first.is_empty() {
        let sent = tcp.write_all(first).await;
        sent.map_err(|error| {
            let reason = blame(&error, Reason::UpstreamConnect);
            failed(endpoint, reason, error.to_string())
        })?;
    }
    tls_handshake(endpoint, tcp, (deadline, budget)).await
}

/// Connects to `endpoint` over TCP within `budget`, without TLS. `port` replaces its own port, if
/// given; `key` selects one of several addresses, otherwise they are used in turn. A failure
/// schedules an early look-up of the name.
///
/// # Errors
///
/// [`ConnectError`], whose reason tells unresolved names, refusals and time-outs apart.
///
/// # Cancellation
///
/// Dropping the future closes the socket.
pub async fn connect_tcp(
    endpoint: &Endpoint,
    port: Option<u16>,
    key: Option<u32>,
    budget: Duration,
) -> Result<TcpStream, ConnectError> {
    let mut addresses = endpoint.addresses.load_full();
    if let Some(port) = port.filter(|port| *port != endpoint.port) {
        addresses = Arc::new(addresses.iter().map(|address| address.at(port)).collect());
    }
    let dialled = match addresses.as_slice() {
        [] | [_] => dial(&addresses, budget).await,
        // Boxed: it is rare, and every request has room for this future.
        several => Box::pin(dial_several(endpoint, several, key, budget)).await,
    };
    dialled.map_err(|error| {
        let reason = dial_error(&error);
        if !reason.is_shortage() {
            endpoint.rotation.mark_stale();
        }
        failed(endpoint, reason, error.to_string())
    })
}

/// Connects to the first of several addresses that answers: a dead one costs a quarter of a second,
/// once.
async fn dial_several(
    endpoint: &Endpoint,
    addresses: &[CheckedAddr],
    key: Option<u32>,
    budget: Duration,
) -> Result<TcpStream, DialError> {
    let order = endpoint.rotation.order(addresses, key);
    let (tcp, to) = race(&order, budget).await?;
    endpoint.rotation.connected(addresses, &order, to.ip());
    Ok(tcp)
}

/// Completes the TLS handshake with `endpoint` by `deadline`, if the endpoint uses TLS. `budget` is
/// the whole connect timeout, for the error message.
///
/// # Errors
///
/// [`ConnectError`], whose reason distinguishes time-outs from TLS failures.
///
/// # Cancellation
///
/// Dropping the future closes the socket.
pub async fn tls_handshake(
    endpoint: &Endpoint,
    tcp: TcpStream,
    (deadline, budget): (Instant, Duration),
) -> Result<Stream, ConnectError> {
    let Some((config, name)) = &endpoint.tls else { return Ok(Stream::Plain(tcp)) };
    let handshake = TlsConnector::from(config.clone()).connect(name.clone(), ReadAhead::new(tcp));
    match timeout_at(deadline, handshake).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            let reason = blame(&error, Reason::UpstreamTls);
            Err(failed(endpoint, reason, handshake_error(&error)))
        }
        Err(_) => Err(failed(
            endpoint,
            Reason::UpstreamConnectTimeout,
            format!("no TLS handshake within {budget:?}"),
        )),
    }
}

/// Words for a failed handshake, by its cause.
pub(super) fn handshake_error(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(
            rustls::CertificateError::ApplicationVerificationFailure,
        )) => "TLS: its key is none of those that `pin` lists".to_owned(),
        Some(rustls::Error::InvalidCertificate(why)) => {
            format!("TLS: its certificate was not accepted: {why}")
        }
        // The first bytes of the answer are no TLS record.
        Some(rustls::Error::InvalidMessage(_)) => {
            "it does not speak TLS on this port; if it speaks plain HTTP, write `http://`"
                .to_owned()
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("TLS: it refused the handshake with the alert {alert:?}")
        }
        _ if error.kind() == io::ErrorKind::UnexpectedEof => {
            "TLS: it closed the connection during the handshake".to_owned()
        }
        _ => format!("TLS: {error}"),
    }
}

pub(super) fn failed(endpoint: &Endpoint, reason: Reason, detail: String) -> ConnectError {
    ConnectError { reason, endpoint: endpoint.label.to_string(), detail }
}

/// The word for why there is no connection.
#[must_use]
pub fn dial_error(error: &DialError) -> Reason {
    match error {
        DialError::NoAddress => Reason::UpstreamUnresolved,
        DialError::TimedOut { .. } => Reason::UpstreamConnectTimeout,
        DialError::Shortage(shortage, _) => shortage_reason(*shortage),
        DialError::Refused(_) => Reason::UpstreamConnect,
    }
}

/// The word for an error of an upstream's socket: `theirs`, unless the gateway lacked something.
#[must_use]
pub fn blame(error: &io::Error, theirs: Reason) -> Reason {
    Shortage::from_error(error).map_or(theirs, shortage_reason)
}

const fn shortage_reason(shortage: Shortage) -> Reason {
    match shortage {
        Shortage::Descriptors => Reason::NoDescriptors,
        Shortage::Ports => Reason::NoPorts,
        Shortage::Memory => Reason::NoMemory,
    }
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
            Stream::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Within(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use rustls_pki_types::ServerName;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::tls::{client, provider};
    use crate::upstream::resolve;

    const BUDGET: Duration = Duration::from_secs(20);

    /// Reason and detail of a handshake with a peer that answers the first bytes so.
    async fn refusal(said: &'static [u8]) -> (Reason, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = vec![0; 16 * 1024];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(said).await;
            let _ = stream.shutdown().await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        });
        let config = client::config(client::UpstreamTrust::Nothing, &provider()).unwrap();
        let tls = Some((config, ServerName::try_from("a.test").unwrap()));
        let endpoint = Endpoint::new("127.0.0.1".to_owned(), port, tls, 0);
        resolve::refresh(&endpoint).unwrap();
        let error = connect(&endpoint, None, Duration::from_secs(30), b"").await.err().unwrap();
        server.await.unwrap();
        (error.reason, error.detail)
    }

    #[tokio::test]
    async fn a_peer_without_tls_is_told_from_one_that_refuses() {
        let (reason, detail) = refusal(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        assert_eq!(reason, Reason::UpstreamTls);
        assert!(detail.starts_with("it does not speak TLS on this port"), "{detail}");
        let (_, detail) = refusal(b"\x15\x03\x03\x00\x02\x02\x28").await;
        assert_eq!(detail, "TLS: it refused the handshake with the alert HandshakeFailure");
        let (_, detail) = refusal(b"").await;
        assert_eq!(detail, "TLS: it closed the connection during the handshake");
    }

    /// An endpoint with these addresses, all on one port.
    fn endpoint(addresses: &[SocketAddr]) -> Endpoint {
        let port = addresses.first().map_or(1, SocketAddr::port);
        let endpoint = Endpoint::new("app.test".to_owned(), port, None, 1);
        #[expect(clippy::disallowed_methods, reason = "a test vouches for anything")]
        let vouched = addresses.iter().copied().map(CheckedAddr::vouched).collect();
        endpoint.addresses.store(Arc::new(vouched));
        endpoint
    }

    async fn dialled(endpoint: &Endpoint, key: Option<u32>) -> IpAddr {
        let tcp = connect_tcp(endpoint, None, key, BUDGET).await.unwrap();
        tcp.peer_addr().unwrap().ip()
    }

    #[tokio::test]
    async fn a_refused_connection_asks_for_a_look_up() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let endpoint = endpoint(&[gone]);
        let error = connect_tcp(&endpoint, None, None, BUDGET).await.unwrap_err();
        assert_eq!(error.reason, Reason::UpstreamConnect);
        assert!(endpoint.rotation.take_stale());
        assert!(!endpoint.rotation.take_stale(), "once");
    }

    #[tokio::test]
    async fn several_addresses_share_the_connections_and_stand_in_for_each_other() {
        let one = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = one.local_addr().unwrap().port();
        let two = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        let all = [one.local_addr().unwrap(), two.local_addr().unwrap()];
        let endpoint = endpoint(&all);
        let mut counts = [0, 0];
        for _ in 0..10 {
            let ip = dialled(&endpoint, None).await;
            counts[usize::from(ip == all[1].ip())] += 1;
        }
        assert_eq!(counts, [5, 5]);
        assert!(!endpoint.rotation.take_stale());
        let affinity = dialled(&endpoint, Some(7)).await;
        for _ in 0..5 {
            assert_eq!(dialled(&endpoint, Some(7)).await, affinity, "the same client");
        }
        // One of the machines goes.
        let (left, gone) = if affinity == all[0].ip() { (two, one) } else { (one, two) };
        drop(gone);
        for key in [None, Some(7), None, None] {
            assert_eq!(dialled(&endpoint, key).await, left.local_addr().unwrap().ip());
        }
        assert!(endpoint.rotation.take_stale(), "its address may be another one now");
    }
}
