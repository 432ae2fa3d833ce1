//! TLS with a client, within the time it may take.

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

/// Why there is no TLS.
pub(crate) enum HandshakeError {
    /// The first bytes are letters: somebody typed `http://`.
    PlainHttp(TcpStream),
    /// The client asks for a server name without a certificate, and such names are refused.
    UnknownName(TcpStream, String),
    /// It took too long.
    TimedOut,
    /// What TLS or the socket said.
    Failed(io::Error),
}

/// Finishes the handshake of a connection, until the alarm goes off; `metrics` are the listener's.
///
/// Boxed: the stream is large, and moves a few times before it has found its place.
///
/// # Errors
///
/// [`HandshakeError`].
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
        // That was none.
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
    let accepting = if tls.refuses_names() {
        // Only on these listeners is the ClientHello read first: left to itself, the TLS library
        // would send `access_denied`, which says nothing about the name.
        let reading = LazyConfigAcceptor::new(Acceptor::default(), ReadAhead::new(stream));
        let reading = until(timer, reading).await.ok_or(HandshakeError::TimedOut)?;
        let hello = reading.map_err(HandshakeError::Failed)?;
        if let Some(name) = hello.client_hello().server_name().filter(|name| tls.refuses(name)) {
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

/// A finished handshake, as a later configuration judges it; `tls` is what it was made with.
pub(crate) fn finished(stream: &TlsStream<ReadAhead>, tls: &ServerTls) -> ClientHandshake {
    let presented = stream.get_ref().1.peer_certificates().is_some_and(|all| !all.is_empty());
    ClientHandshake { tls: true, verified_by: tls.client_auth.clone().filter(|_| presented) }
}

/// Refuses a client for the server name it asks for. Returns the detail for the access log.
pub(crate) async fn refuse_name(stream: TcpStream, name: &str, timer: &Timer) -> String {
    part(stream, &UNRECOGNIZED_NAME, timer).await;
    format!("no certificate for the server name {name:?}")
}

/// The version a finished handshake agreed on, as it is written in logs.
pub(crate) fn version(stream: &TlsStream<ReadAhead>) -> &'static str {
    match stream.get_ref().1.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    }
}

/// What a finished handshake is counted as.
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

/// Runs `future` until the alarm goes off.
pub(crate) async fn until<F: Future>(timer: &Timer, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => timer.poll(cx).map(|()| None),
    })
    .await
}

/// Says a last thing to a client that will not be served, and closes.
pub(crate) async fn part(mut stream: TcpStream, said: &[u8], timer: &Timer) {
    timer.set(Duration::from_secs(1));
    let _ = until(timer, async {
        stream.write_all(said).await?;
        stream.shutdown().await?;
        // What it sent is read, because closing on unread bytes would reset the answer away.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}
