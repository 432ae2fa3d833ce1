//! TLS handshake with a client, within a time limit.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::server::Acceptor;
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use crate::net::{ReadAhead, Timer};
use crate::telemetry::ListenerMetrics;
use crate::telemetry::listeners::HandshakeResult;
use crate::tls::{ClientHandshake, ServerTls};

use super::client_hello::UNRECOGNIZED_NAME;

/// Reason why a TLS handshake failed.
pub(crate) enum HandshakeError {
    /// The first byte is a capital letter: plain HTTP on a TLS port.
    PlainHttp(TcpStream),
    /// No certificate has the server name of the client, and such names are refused.
    UnknownName(TcpStream, String),
    /// The time limit expired.
    TimedOut,
    /// Error of the TLS library or the socket.
    Failed(io::Error),
}

/// Runs the TLS handshake of a connection until `timer` expires, and counts the result.
///
/// The stream is boxed because it is large and is moved several times.
///
/// # Errors
///
/// [`HandshakeError`] if the client does not complete a handshake.
pub(crate) async fn handshake(
    stream: TcpStream,
    tls: &ServerTls,
    timer: &Timer,
    metrics: &ListenerMetrics,
) -> Result<Box<TlsStream<ReadAhead>>, HandshakeError> {
    let begun = Instant::now();
    let result = tls_handshake(stream, tls, timer).await;
    match &result {
        Ok(stream) => metrics.handshake_done(counted(stream), begun.elapsed()),
        // Not counted, because the client did not start a handshake.
        Err(HandshakeError::PlainHttp(_)) => {}
        Err(HandshakeError::TimedOut) => metrics.handshake_failed(HandshakeResult::TimedOut),
        Err(HandshakeError::Failed(_) | HandshakeError::UnknownName(..)) => {
            metrics.handshake_failed(HandshakeResult::Failed);
        }
    }
    result
}

async fn tls_handshake(
    stream: TcpStream,
    tls: &ServerTls,
    timer: &Timer,
) -> Result<Box<TlsStream<ReadAhead>>, HandshakeError> {
    let mut first = [0; 1];
    match until(timer, stream.peek(&mut first)).await.ok_or(HandshakeError::TimedOut)? {
        Ok(1) if first.first().is_some_and(u8::is_ascii_uppercase) => {
            return Err(HandshakeError::PlainHttp(stream));
        }
        Ok(_) => {}
        Err(error) => return Err(HandshakeError::Failed(error)),
    }
    let accepting = if tls.may_reject() {
        // Reads the ClientHello first, because the TLS library would send the alert `access_denied`
        // for an unknown name and not `unrecognized_name`.
        let reading = LazyConfigAcceptor::new(Acceptor::default(), ReadAhead::new(stream));
        let reading = until(timer, reading).await.ok_or(HandshakeError::TimedOut)?;
        let hello = reading.map_err(HandshakeError::Failed)?;
        if let Some(name) = hello.client_hello().server_name().filter(|name| tls.rejects(name)) {
            let name = name.to_owned();
            return Err(HandshakeError::UnknownName(hello.io.into_socket(), name));
        }
        hello.into_stream(Arc::clone(&tls.config))
    } else {
        TlsAcceptor::from(Arc::clone(&tls.config)).accept(ReadAhead::new(stream))
    };
    until(timer, accepting)
        .await
        .ok_or(HandshakeError::TimedOut)?
        .map(Box::new)
        .map_err(HandshakeError::Failed)
}

/// Facts of a finished handshake by which later generations decide whether it is still valid. `tls`
/// is the configuration it was made with.
pub(crate) fn finished(stream: &TlsStream<ReadAhead>, tls: &ServerTls) -> ClientHandshake {
    let presented = stream.get_ref().1.peer_certificates().is_some_and(|all| !all.is_empty());
    ClientHandshake { tls: true, verified_by: tls.client_auth.clone().filter(|_| presented) }
}

/// Rejects a client with an unknown server name. Returns the detail for the access log.
pub(crate) async fn refuse_name(stream: TcpStream, name: &str, timer: &Timer) -> String {
    send_and_close(stream, &UNRECOGNIZED_NAME, timer).await;
    format!("no certificate for the server name {name:?}")
}

/// Negotiated TLS version, as written in logs.
pub(crate) fn version(stream: &TlsStream<ReadAhead>) -> &'static str {
    match stream.get_ref().1.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    }
}

/// Result of a finished handshake for the metrics.
fn counted(stream: &TlsStream<ReadAhead>) -> HandshakeResult {
    let (_, session) = stream.get_ref();
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    match (session.protocol_version(), resumed) {
        (Some(ProtocolVersion::TLSv1_3), false) => HandshakeResult::Full13,
        (Some(ProtocolVersion::TLSv1_3), true) => HandshakeResult::Resumed13,
        (_, false) => HandshakeResult::Full12,
        (_, true) => HandshakeResult::Resumed12,
    }
}

/// Runs `future` until `timer` expires; then the result is `None`.
pub(crate) async fn until<F: Future>(timer: &Timer, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => timer.poll(cx).map(|()| None),
    })
    .await
}

/// Sends a last message to a client that is not served, and closes the connection.
pub(crate) async fn send_and_close(mut stream: TcpStream, message: &[u8], timer: &Timer) {
    timer.set(Duration::from_secs(1));
    let _ = until(timer, async {
        stream.write_all(message).await?;
        stream.shutdown().await?;
        // Read the remaining input, because closing a socket with unread input resets the
        // connection and could destroy the message.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}
