//! Health checks of endpoints. They run on the control runtime, never on a data worker.

use std::fmt;
use std::future::poll_fn;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout_at};

use crate::message::{Framing, Reason, ResponseHead};
use crate::net::WorkerLocal;
use crate::net::proxy_protocol::v2;

use super::connect::{ConnectError, blame, connect_tcp, tls_handshake};
use super::exchange::{BodyStep, Exchange, ResponseHeadPoll};
use super::{Endpoint, PooledConn, Stream};

/// Bytes of an answer's body that are looked at.
const MAX_BODY: usize = 64 * 1024;

/// Settings of the health checks of an upstream.
#[derive(Clone, Debug)]
pub struct HealthCheck {
    /// Kind of probe.
    pub kind: CheckKind,
    /// Port of the probe; `None`: the endpoint's.
    pub port: Option<u16>,
    /// The probe uses plain HTTP, even if the endpoint speaks TLS.
    pub plain: bool,
    /// Time between two checks.
    pub interval: Duration,
    /// Timeout of one probe.
    pub timeout: Duration,
    /// Good ones in a row until an endpoint is up.
    pub rise: u32,
    /// Failures in a row that mark the endpoint down.
    pub fall: u32,
    /// State assumed before the first probe.
    pub initially_up: bool,
    /// The probe begins with a PROXY protocol header of type LOCAL.
    pub announces: bool,
}

/// Kind of probe: TCP, TLS or HTTP.
#[derive(Clone, Debug)]
pub enum CheckKind {
    /// A TCP connection.
    Tcp,
    /// A TLS handshake too, if it is an `https` endpoint.
    Tls,
    /// An answer to a GET.
    Http(HttpCheck),
}

/// A GET, and which answers to it are good.
#[derive(Clone, Debug)]
pub struct HttpCheck {
    /// Path and query.
    pub path: String,
    /// `Host`; `None`: the endpoint's host and the port of the probe.
    pub host: Option<String>,
    /// Statuses that are good, first and last of each range.
    pub status: Vec<(u16, u16)>,
    /// Text that the beginning of the body must contain.
    pub body: String,
}

/// Failure of a health check.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{word}: {detail}")]
pub struct CheckFault {
    /// The kind of it.
    pub word: FaultKind,
    /// Detail of the failure, for people.
    pub detail: String,
}

/// Kinds of faults, as in the metric.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FaultKind {
    /// The name has no address.
    Unresolved,
    /// No connection.
    Connect,
    /// No time left.
    Timeout,
    /// The certificate, or the handshake.
    Tls,
    /// No answer, or one that is not HTTP.
    Answer,
    /// An answer with another status.
    Status,
    /// An answer without the text.
    Body,
    /// The gateway itself could not ask.
    Internal,
}

impl FaultKind {
    /// Metric labels of all kinds, after the label of a successful check.
    pub const RESULTS: &'static [&'static str] = &[
        "good",
        "unresolved",
        "connect",
        "timeout",
        "tls",
        "answer",
        "status",
        "body",
        "internal",
    ];

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Answer => "answer",
            Self::Status => "status",
            Self::Body => "body",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Runs one probe.
///
/// # Errors
///
/// [`CheckFault`], the failure found. One with [`FaultKind::Internal`] says nothing about the
/// endpoint.
///
/// # Cancellation
///
/// Dropping the future closes the connection.
pub async fn ask(
    endpoint: &Endpoint,
    check: &HealthCheck,
    local: &WorkerLocal,
) -> Result<(), CheckFault> {
    let deadline = Instant::now() + check.timeout;
    let failed = |ConnectError { reason, detail, .. }| fault(reason, detail);
    let mut tcp = connect_tcp(endpoint, check.port, None, check.timeout).await.map_err(failed)?;
    if check.announces {
        let mut header = Vec::new();
        v2::announce_own(&mut header);
        // It always fits into an empty socket.
        let sent = tcp.write_all(&header).await;
        sent.map_err(|error| fault(blame(&error, Reason::UpstreamConnect), error.to_string()))?;
    }
    if matches!(check.kind, CheckKind::Tcp) {
        return Ok(());
    }
    let stream = if check.plain {
        Stream::Plain(tcp)
    } else {
        tls_handshake(endpoint, tcp, (deadline, check.timeout)).await.map_err(failed)?
    };
    let CheckKind::Http(get) = &check.kind else { return Ok(()) };
    let host = match (&get.host, check.port) {
        (Some(host), _) => host.clone(),
        (None, None) => endpoint.label.to_string(),
        (None, Some(port)) => endpoint.at(port),
    };
    match timeout_at(deadline, exchange(&host, get, stream, local)).await {
        Ok(result) => result,
        Err(_) => Err(fault(
            Reason::UpstreamConnectTimeout,
            format!("no whole answer within {:?}", check.timeout),
        )),
    }
}

/// The failure to connect, as a fault.
pub(super) fn fault(reason: Reason, detail: String) -> CheckFault {
    let word = match reason {
        Reason::UpstreamUnresolved => FaultKind::Unresolved,
        Reason::UpstreamConnectTimeout => FaultKind::Timeout,
        Reason::UpstreamTls => FaultKind::Tls,
        reason if reason.is_shortage() => FaultKind::Internal,
        _ => FaultKind::Connect,
    };
    CheckFault { word, detail }
}

/// An answer that cannot be used, or could not be received.
fn unusable(reason: Reason) -> CheckFault {
    let word = if reason.is_shortage() { FaultKind::Internal } else { FaultKind::Answer };
    CheckFault { word, detail: reason.sentence().to_owned() }
}

/// Sends the GET and judges the answer.
async fn exchange(
    host: &str,
    get: &HttpCheck,
    stream: Stream,
    local: &WorkerLocal,
) -> Result<(), CheckFault> {
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: app-gateway-check\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        get.path
    );
    let (mut exchange, head) = begin(stream, head, local).await.map_err(unusable)?;
    if !get.status.iter().any(|(first, last)| (*first..=*last).contains(&head.status)) {
        let detail = format!("GET {} was answered with status {}", get.path, head.status);
        return Err(CheckFault { word: FaultKind::Status, detail });
    }
    if get.body.is_empty() {
        return Ok(());
    }
    let mut body = Vec::new();
    loop {
        let mut keep = |_: &mut std::task::Context<'_>, data: &[u8]| {
            let room = MAX_BODY.saturating_sub(body.len());
            body.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        };
        let step = poll_fn(|cx| exchange.poll_body(cx, local, &mut keep)).await;
        if memchr::memmem::find(&body, get.body.as_bytes()).is_some() {
            return Ok(());
        }
        match step {
            Ok(BodyStep::Some) if body.len() < MAX_BODY => {}
            Ok(_) => {
                let detail = format!("the answer to GET {} lacks {:?}", get.path, get.body);
                return Err(CheckFault { word: FaultKind::Body, detail });
            }
            Err(reason) => return Err(unusable(reason)),
        }
    }
}

/// Sends a request without a body and waits for the head of the answer.
async fn begin(
    stream: Stream,
    head: String,
    local: &WorkerLocal,
) -> Result<(Exchange, ResponseHead), Reason> {
    let connection = PooledConn { stream, reused: false, seat: None, ends: None };
    let mut exchange = Exchange::begin(connection, head.into_bytes(), Framing::None, false)
        .map_err(|failure| failure.reason)?;
    let head = poll_fn(|cx| {
        let _ = exchange.poll_flush(cx);
        loop {
            match std::task::ready!(exchange.poll_head(cx, local)) {
                Ok(ResponseHeadPoll::Interim(_)) => {}
                Ok(ResponseHeadPoll::Final(head)) => return std::task::Poll::Ready(Ok(head)),
                Err(failure) => return std::task::Poll::Ready(Err(failure)),
            }
        }
    });
    let head = head.await.map_err(|failure| failure.reason)?;
    Ok((exchange, head))
}

#[cfg(test)]
mod tests;
