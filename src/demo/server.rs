//! One listening component: accepts connections, serves TLS and HTTP/1.1, and dispatches requests.
//!
//! The product's components support only HTTP/1.1 over TLS 1.2 or 1.3, and so does this server.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::demo::certificates::CertificateFiles;
use crate::demo::components::{Component, StandInError, StandInState};
use crate::demo::echo::{self, EchoedRequest};
use crate::demo::reply::{ComponentBodyError, ComponentReply};
use crate::demo::{channels, gadgets};
use crate::tls::pem;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which is nearly always "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// State of one listener.
#[derive(Clone)]
pub(crate) struct ComponentListener {
    pub(crate) component: Component,
    pub(crate) world: Arc<StandInState>,
    pub(crate) tls: TlsAcceptor,
}

/// TLS settings of the components.
pub(crate) fn acceptor(identity: &CertificateFiles) -> Result<TlsAcceptor, StandInError> {
    let chain =
        pem::certificates(&identity.chain).map_err(|error| StandInError::Identity(error.into()))?;
    let key =
        pem::private_key(&identity.key).map_err(|error| StandInError::Identity(error.into()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| StandInError::Identity(error.into()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until the sender of `running` is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    virtual_server: Arc<ComponentListener>,
    mut running: watch::Receiver<()>,
) {
    loop {
        let accepted = tokio::select! {
            // Nothing is ever sent: a result means that the sender was dropped.
            _ = running.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let stream = KillableSocket::new(stream, running.clone());
        tokio::spawn(converse(stream, peer, virtual_server.clone()));
    }
}

/// Serves one connection. Its end is not logged.
async fn converse(
    stream: KillableSocket,
    peer: SocketAddr,
    virtual_server: Arc<ComponentListener>,
) {
    let _ = stream.socket.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, virtual_server.tls.accept(stream));
    let Ok(Ok(tls)) = handshake.await else { return };
    let sni = tls.get_ref().1.server_name().map(ToOwned::to_owned);
    let answer = service_fn(move |request| {
        let virtual_server = virtual_server.clone();
        let seen = EchoedRequest { component: virtual_server.component, peer, sni: sni.clone() };
        async move { virtual_server.answer(seen, request).await }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(tls), answer)
        .with_upgrades()
        .await;
}

impl ComponentListener {
    async fn answer(
        &self,
        seen: EchoedRequest,
        request: Request<Incoming>,
    ) -> Result<ComponentReply, ComponentBodyError> {
        let world = &self.world;
        world.count(self.component);
        let reply = match self.component {
            Component::ChatServer => world.chat.answer(seen, request).await,
            Component::FileEngine => world.files.answer(seen, request).await,
            Component::CustomerChannelManager => channels::answer(seen, request).await,
            Component::CustomerGadget | Component::AgentGadget => {
                match gadgets::page(self.component, &request) {
                    Some(page) => Ok(page),
                    None => echo::answer(seen, request).await,
                }
            }
            _ => echo::answer(seen, request).await,
        };
        reply.map(|reply| named(reply, self.component))
    }
}

/// Adds a header field that names the component, for responses whose body does not.
fn named(mut reply: ComponentReply, component: Component) -> ComponentReply {
    let name = http::HeaderValue::from_static(component.name());
    reply.headers_mut().insert("stand-in-component", name);
    reply
}

/// Converts a response of another library.
pub(crate) fn boxed<B>(reply: Response<B>) -> ComponentReply
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    reply.map(|body| body.map_err(|error| ComponentBodyError::Other(error.into())).boxed_unsync())
}

/// A socket that is closed with the stand-in, even after the Socket.IO server has taken it over.
struct KillableSocket {
    socket: TcpStream,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
}

impl KillableSocket {
    fn new(socket: TcpStream, mut running: watch::Receiver<()>) -> Self {
        let end = Box::pin(async move { while running.changed().await.is_ok() {} });
        Self { socket, end, ended: false }
    }

    fn guard(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.ended = self.ended || self.end.as_mut().poll(cx).is_ready();
        if self.ended { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl AsyncRead for KillableSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.guard(cx)?;
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for KillableSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Only reads check for the end. A task that writes also reads, and only one waker can be
        // stored.
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes));
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
