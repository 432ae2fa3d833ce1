//! TLS with a client, within the time it may take.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::net::{Ahead, Alarm};
use crate::telemetry::ListenerMetrics;
use crate::telemetry::listeners::Handshake;

/// Why there is no TLS.
pub(crate) enum NoTls {
    /// The first bytes are letters: somebody typed `http://`.
    PlainHttp(TcpStream),
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
/// [`NoTls`].
pub(crate) async fn handshake(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    alarm: &Alarm,
    metrics: &ListenerMetrics,
) -> Result<Box<TlsStream<Ahead>>, NoTls> {
    let begun = Instant::now();
    let result = shake_hands(stream, config, alarm).await;
    match &result {
        Ok(stream) => metrics.shook_hands(counted(stream), begun.elapsed()),
        // That was none.
        Err(NoTls::PlainHttp(_)) => {}
        Err(NoTls::TimedOut) => metrics.handshake_failed(Handshake::TimedOut),
        Err(NoTls::Failed(_)) => metrics.handshake_failed(Handshake::Failed),
    }
    result
}

async fn shake_hands(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    alarm: &Alarm,
) -> Result<Box<TlsStream<Ahead>>, NoTls> {
    let mut first = [0; 1];
    match until(alarm, stream.peek(&mut first)).await.ok_or(NoTls::TimedOut)? {
        Ok(1) if first.first().is_some_and(u8::is_ascii_uppercase) => {
            return Err(NoTls::PlainHttp(stream));
        }
        Ok(_) => {}
        Err(error) => return Err(NoTls::Failed(error)),
    }
    let accepting = TlsAcceptor::from(Arc::clone(config)).accept(Ahead::new(stream));
    until(alarm, accepting).await.ok_or(NoTls::TimedOut)?.map(Box::new).map_err(NoTls::Failed)
}

/// The version a finished handshake agreed on, as it is written in logs.
pub(crate) fn version(stream: &TlsStream<Ahead>) -> &'static str {
    match stream.get_ref().1.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    }
}

/// What a finished handshake is counted as.
fn counted(stream: &TlsStream<Ahead>) -> Handshake {
    let (_, session) = stream.get_ref();
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    match (session.protocol_version(), resumed) {
        (Some(ProtocolVersion::TLSv1_3), false) => Handshake::Full13,
        (Some(ProtocolVersion::TLSv1_3), true) => Handshake::Resumed13,
        (_, false) => Handshake::Full12,
        (_, true) => Handshake::Resumed12,
    }
}

/// Runs `future` until the alarm goes off.
pub(crate) async fn until<F: Future>(alarm: &Alarm, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => alarm.poll(cx).map(|()| None),
    })
    .await
}

/// Says a last thing to a client that will not be served, and closes.
pub(crate) async fn part(mut stream: TcpStream, said: &[u8], alarm: &Alarm) {
    alarm.set(Duration::from_secs(1));
    let _ = until(alarm, async {
        stream.write_all(said).await?;
        stream.shutdown().await?;
        // What it sent is read, because closing on unread bytes would reset the answer away.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}
