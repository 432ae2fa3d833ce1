//! Through a parent proxy: CONNECT, asked of the first endpoint that answers.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use crate::addr::Destination;
use crate::generation::forward_proxy::ParentProxy;
use crate::message::forward::field;
use crate::message::scan::{HeadProgress, HeadScanner};
use crate::message::{Reason, ResponseHead};
use crate::upstream::connect::blame;
use crate::upstream::eject::CircuitState;
use crate::upstream::{Endpoint, Stream, connect};

use super::connect::{EgressConnectError, EgressStream};

/// The largest answer that is read, in bytes.
const MAX_CONNECT_RESPONSE: usize = 16 * 1024;

/// Time for which an unreachable endpoint of a parent is skipped while others are left.
const PARENT_BACKOFF: Duration = Duration::from_secs(5);

/// Separator in the detail of a refusal; the text after it, the endpoint of the parent, is for the
/// operator only.
pub(super) const AT: &str = " (at ";

/// Why a parent did not open the tunnel.
enum ParentError {
    /// It could not be asked: another endpoint may be.
    Silent(Reason, String),
    /// It has answered, and that is that.
    Refused(String),
}

/// Opens a tunnel to `destination`. Endpoints are tried in the order of preference, those that just
/// failed last; one that answers has the last word.
///
/// # Errors
///
/// [`EgressConnectError::Failed`].
pub(super) async fn open(
    parent: &ParentProxy,
    destination: &Destination,
) -> Result<EgressStream, EgressConnectError> {
    let mut last = None;
    // In full before the first is tried: one that fails is passed over from then on.
    let (shunned, fresh): (Vec<_>, Vec<_>) = parent
        .endpoints
        .iter()
        .partition(|endpoint| endpoint.health.circuit.circuit_state() == CircuitState::Open);
    for endpoint in fresh.into_iter().chain(shunned) {
        match ask(parent, endpoint, destination).await {
            Ok((stream, early)) => {
                endpoint.health.circuit.close();
                let upstream_addr = match &stream {
                    Stream::Plain(stream) => stream.peer_addr(),
                    Stream::Tls(stream) => stream.get_ref().0.socket().peer_addr(),
                    Stream::Within(_) => Err(ErrorKind::Unsupported.into()),
                };
                let parent = Some(parent.name.as_str().into());
                return Ok(EgressStream {
                    stream,
                    early,
                    upstream_addr: upstream_addr.ok(),
                    parent,
                });
            }
            Err(ParentError::Refused(said)) => {
                endpoint.health.circuit.close();
                return Err(EgressConnectError::Failed(Reason::ParentRefused, said));
            }
            Err(ParentError::Silent(reason, said)) => {
                if reason.is_shortage() {
                    last = Some((reason, said));
                    continue;
                }
                // Once per outage of a few seconds; each tunnel has its own log line.
                if endpoint.health.circuit.circuit_state() != CircuitState::Open {
                    tracing::warn!(parent = parent.name, reason = reason.word(), "{said}");
                }
                endpoint.health.circuit.open_for(PARENT_BACKOFF);
                last = Some((reason, said));
            }
        }
    }
    let (reason, said) = last.unwrap_or((Reason::Internal, "it has no endpoint".to_owned()));
    Err(EgressConnectError::Failed(reason, format!("parent `{}`: {said}", parent.name)))
}

async fn ask(
    parent: &ParentProxy,
    endpoint: &Endpoint,
    destination: &Destination,
) -> Result<(Stream, Bytes), ParentError> {
    let deadline = Instant::now() + parent.connect_timeout;
    let mut stream = connect(endpoint, None, parent.connect_timeout, &[])
        .await
        .map_err(|error| ParentError::Silent(error.reason, error.to_string()))?;
    let mut request = format!("CONNECT {destination} HTTP/1.1\r\n").into_bytes();
    field(&mut request, "Host", destination.to_string().as_bytes());
    if let Some(authorization) = &parent.authorization {
        field(&mut request, "Proxy-Authorization", authorization.reveal().as_bytes());
    }
    request.extend_from_slice(b"\r\n");
    let silent =
        |reason, said: &str| ParentError::Silent(reason, format!("{}: {said}", endpoint.label));
    let exchange = async {
        stream.write_all(&request).await?;
        stream.flush().await?;
        answer(&mut stream).await
    };
    let (head, early) = match timeout_at(deadline, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            let reason = blame(&error, Reason::UpstreamClosed);
            return Err(silent(reason, &error.to_string()));
        }
        Err(_) => {
            return Err(silent(Reason::UpstreamConnectTimeout, "no answer to CONNECT in time"));
        }
    };
    match head.status {
        200..300 => Ok((stream, early)),
        status => Err(ParentError::Refused(format!(
            "parent `{}` answered {status} {}{AT}{})",
            parent.name,
            String::from_utf8_lossy(head.phrase()),
            endpoint.label,
        ))),
    }
}

/// Reads the answer head, and any bytes after it.
async fn answer(stream: &mut Stream) -> std::io::Result<(ResponseHead, Bytes)> {
    let bad = |said: &str| std::io::Error::other(said.to_owned());
    let mut scanner = HeadScanner::default();
    let mut input = BytesMut::with_capacity(1024);
    loop {
        match scanner.scan(&input) {
            HeadProgress::Ends(end) => {
                let head = input.split_to(end).freeze();
                let head = ResponseHead::parse(&head, true)
                    .map_err(|_| bad("its answer to CONNECT is not HTTP/1.1"))?;
                return Ok((head, input.freeze()));
            }
            HeadProgress::BareLf => return Err(bad("its answer to CONNECT is not HTTP/1.1")),
            HeadProgress::Partial if input.len() > MAX_CONNECT_RESPONSE => {
                return Err(bad("its answer to CONNECT is too long"));
            }
            HeadProgress::Partial => {}
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(bad("it closed without an answer to CONNECT"));
        }
    }
}
