//! One request of the gateway itself to an endpoint, on hyper and hyper-rustls. It runs on the
//! control runtime, never on a data worker.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{error, io};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, MaybeHttpsStream};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use crate::message::Reason;
use crate::net::http_client::{self, HttpClientError};
use crate::net::proxy_protocol::v2;

use super::Endpoint;
use super::check::{CheckFault, FaultKind, fault};
use super::connect::{ConnectError, blame, connect_tcp, failed, handshake_error};

/// Stands for the endpoint in the URI that selects TLS: its addresses and its name in the
/// certificate come from the configuration.
const ANY_HTTPS: &str = "https://endpoint";

/// Bounds of an answer.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// Largest body, in bytes.
    pub body: usize,
    /// From the first SYN to the last byte.
    pub time: Duration,
}

/// Sends `request` to `endpoint` and reads the whole answer: status and body. `announces`: as in
/// [`super::HealthCheck`].
///
/// # Errors
///
/// [`CheckFault`], also if the body is larger than the limit.
///
/// # Cancellation
///
/// Dropping the future closes the connection.
pub async fn fetch(
    endpoint: &Arc<Endpoint>,
    announces: bool,
    request: Request<Full<Bytes>>,
    limits: FetchLimits,
) -> Result<(u16, Vec<u8>), CheckFault> {
    let whole = async {
        let connector =
            EndpointConnector { endpoint: Arc::clone(endpoint), announces, time: limits.time };
        let stream = connect(connector).await?;
        let mut answer =
            http_client::send(stream, request).await.map_err(|error| unusable(&error))?;
        let mut body = Vec::new();
        answer.read_body(&mut body, limits.body).await.map_err(|error| unusable(&error))?;
        Ok((answer.head.status.as_u16(), body))
    };
    timeout(limits.time, whole).await.unwrap_or_else(|_| {
        let detail = format!("no whole answer within {:?}", limits.time);
        Err(CheckFault { word: FaultKind::Timeout, detail })
    })
}

/// Opens TCP connections to one endpoint, for hyper-rustls.
struct EndpointConnector {
    endpoint: Arc<Endpoint>,
    announces: bool,
    time: Duration,
}

impl Service<Uri> for EndpointConnector {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (endpoint, announces, time) = (Arc::clone(&self.endpoint), self.announces, self.time);
        Box::pin(async move {
            let mut tcp = connect_tcp(&endpoint, None, None, time).await?;
            if announces {
                let mut header = Vec::new();
                v2::announce_own(&mut header);
                // It always fits into an empty socket.
                tcp.write_all(&header).await.map_err(|error| {
                    let reason = blame(&error, Reason::UpstreamConnect);
                    failed(&endpoint, reason, error.to_string())
                })?;
            }
            Ok(TokioIo::new(tcp))
        })
    }
}

/// Connects, with TLS if the endpoint has it.
async fn connect(
    mut tcp: EndpointConnector,
) -> Result<MaybeHttpsStream<TokioIo<TcpStream>>, CheckFault> {
    let plain = |ConnectError { reason, detail, .. }| fault(reason, detail);
    let uri = Uri::from_static(ANY_HTTPS);
    let Some((config, name)) = &tcp.endpoint.tls else {
        return tcp.call(uri).await.map(MaybeHttpsStream::Http).map_err(plain);
    };
    let (config, name) = (Arc::clone(config), FixedServerNameResolver::new(name.clone()));
    let connected = HttpsConnector::new(tcp, config, true, Arc::new(name)).call(uri).await;
    connected.map_err(|error| match error.downcast::<ConnectError>() {
        Ok(error) => plain(*error),
        Err(error) => secure_fault(&*error),
    })
}

/// A failed handshake. hyper-rustls wraps the error of rustls' stream into one more.
fn secure_fault(error: &(dyn error::Error + Send + Sync + 'static)) -> CheckFault {
    let outer = error.downcast_ref::<io::Error>();
    let inner = outer.and_then(|error| error.get_ref()?.downcast_ref::<io::Error>());
    match inner.or(outer) {
        Some(error) => fault(blame(error, Reason::UpstreamTls), handshake_error(error)),
        None => fault(Reason::UpstreamTls, format!("TLS: {error}")),
    }
}

fn unusable(error: &HttpClientError) -> CheckFault {
    let word = match error {
        HttpClientError::Io(error) if blame(error, Reason::UpstreamBadAnswer).is_shortage() => {
            FaultKind::Internal
        }
        _ => FaultKind::Answer,
    };
    CheckFault { word, detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::ServerName;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::tls::{client, provider};
    use crate::upstream::resolve;

    /// The result of a fetch from a server that sends these bytes, and the bytes it received.
    async fn fetched(
        is_https: bool,
        said: &'static [u8],
    ) -> (Result<(u16, Vec<u8>), CheckFault>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut received = vec![0; 4096];
            let length = stream.read(&mut received).await.unwrap();
            received.truncate(length);
            let _ = stream.write_all(said).await;
            let _ = stream.shutdown().await;
            received
        };
        let config = client::config(client::UpstreamTrust::Nothing, &provider()).unwrap();
        let tls = is_https.then(|| (config, ServerName::try_from("a.test").unwrap()));
        let endpoint = Endpoint::new("127.0.0.1".to_owned(), port, tls, 0);
        resolve::refresh(&endpoint).unwrap();
        let request = Request::get("/d").header("host", "a.test").body(Full::default()).unwrap();
        let limits = FetchLimits { body: 4, time: Duration::from_secs(20) };
        let endpoint = Arc::new(endpoint);
        tokio::join!(fetch(&endpoint, !is_https, request, limits), served)
    }

    #[tokio::test]
    async fn a_plain_endpoint_is_asked_after_the_proxy_header() {
        let (answer, received) = fetched(false, b"HTTP/1.1 404 No\r\n\r\nbody").await;
        assert_eq!(answer.unwrap(), (404, b"body".to_vec()));
        assert!(received.starts_with(b"\r\n\r\n\0\r\nQUIT\n"), "{received:?}");
        let (answer, _) = fetched(false, b"HTTP/1.1 200 OK\r\n\r\nbody!").await;
        assert_eq!(answer.unwrap_err().to_string(), "answer: the answer is too long");
    }

    #[tokio::test]
    async fn a_failed_handshake_says_why() {
        for (said, expected) in [
            (&b"HTTP/1.1 400 No\r\n\r\n"[..], "tls: it does not speak TLS on this port"),
            (b"\x15\x03\x03\x00\x02\x02\x28", "tls: TLS: it refused the handshake with the alert"),
            (b"", "tls: TLS: it closed the connection during the handshake"),
        ] {
            let (answer, _) = fetched(true, said).await;
            let fault = answer.unwrap_err().to_string();
            assert!(fault.starts_with(expected), "{fault}");
        }
    }
}
