//! Opens a connection (name, TCP, TLS) within one time budget, and explains failures.
//!
//! A successful probe returns a [`Stream`]. It sends no application data.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::net::{CheckedAddr, DialError, ReadAhead, Shortage, dial};
use crate::tls::{self, client};
use crate::upstream::{Endpoint, Stream, resolve};

use super::certificate_summary::CertificateSummary;

/// The time a check has.
#[derive(Clone, Copy, Debug)]
pub struct TimeBudget {
    /// When it is over.
    pub deadline: Instant,
    /// The whole budget.
    pub total: Duration,
}

impl TimeBudget {
    /// Begins now.
    #[must_use]
    pub fn new(total: Duration) -> Self {
        Self { deadline: Instant::now() + total, total }
    }

    /// Waits for `step`, called `name`, as long as there is time.
    ///
    /// # Errors
    ///
    /// [`ProbeError::TimedOut`].
    pub async fn wait<T>(
        self,
        name: &'static str,
        step: impl Future<Output = T>,
    ) -> Result<T, ProbeError> {
        timeout_at(self.deadline, step)
            .await
            .map_err(|_| ProbeError::TimedOut { step: name, after: self.total })
    }
}

/// Reason why a server was not reached, or was not the expected one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ProbeError {
    /// The name has no address; the resolver's words.
    Unresolved(String),
    /// The connection was refused.
    Refused,
    /// Time ran out.
    TimedOut {
        /// While waiting for this.
        step: &'static str,
        /// After so long.
        after: Duration,
    },
    /// The system's words.
    Unreachable(String),
    /// This host lacks a descriptor, port or memory; the system's words.
    Shortage(String),
    /// The other side hung up.
    Closed {
        /// While waiting for this.
        step: &'static str,
    },
    /// Another protocol was spoken.
    NotThat {
        /// The expected protocol.
        expected: &'static str,
        /// The received bytes, in printable form.
        came: String,
    },
    /// The certificate was not accepted.
    Certificate(CertificateDoubt),
    /// TLS failed in another way; the library's words.
    Tls(String),
}

/// Fault of a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CertificateDoubt {
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYet,
    /// The certificate is for other names.
    Name,
    /// The issuer is not trusted.
    Issuer,
    /// The key is not a pinned one.
    Pin,
    /// The library's words.
    Other(String),
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::TimedOut { step, after } => write!(f, "no {step} within {after:?}"),
            Self::Unresolved(words) | Self::Unreachable(words) | Self::Tls(words) => {
                f.write_str(words)
            }
            Self::Shortage(words) => write!(f, "this host cannot connect anywhere: {words}"),
            Self::Closed { step } => write!(f, "closed the connection instead of {step}"),
            Self::NotThat { expected, came } => write!(f, "does not speak {expected}: {came}"),
            Self::Certificate(doubt) => match doubt {
                CertificateDoubt::Expired => f.write_str("its certificate has expired"),
                CertificateDoubt::NotYet => f.write_str("its certificate is not valid yet"),
                CertificateDoubt::Name => f.write_str("its certificate is for another name"),
                CertificateDoubt::Issuer => {
                    f.write_str("its certificate is from an issuer that is not trusted")
                }
                CertificateDoubt::Pin => f.write_str("its key matches no pin"),
                CertificateDoubt::Other(words) => write!(f, "its certificate: {words}"),
            },
        }
    }
}

impl ProbeError {
    /// Advice for a failure to reach `who` on `port`; `key` is the configuration key of the
    /// address.
    #[must_use]
    pub fn next(&self, who: &str, port: u16, key: &str) -> String {
        match self {
            Self::Unresolved(_) => format!(
                "correct the name in {key}, or have it added to DNS or /etc/hosts of this host"
            ),
            Self::Refused => format!(
                "{who} does not listen on port {port}: start it, or correct the port in {key}"
            ),
            Self::TimedOut { step: "connection", .. } | Self::Unreachable(_) => format!(
                "open port {port} from this host to {who} in the firewall (`app-gateway ports` prints the request), and see that the host is up and its address in {key} right"
            ),
            Self::TimedOut { .. } | Self::Closed { .. } => format!(
                "something accepts connections on port {port} and does not answer: restart {who}, see its log, and check that no other program has the port"
            ),
            Self::NotThat { .. } => {
                format!("another program has port {port}: correct the port in {key}")
            }
            Self::Shortage(_) => "free file descriptors, local ports (`ss -s`) or memory on this host, or raise the limits of the service".to_owned(),
            Self::Certificate(CertificateDoubt::Expired) => format!("renew the certificate of {who}"),
            Self::Certificate(CertificateDoubt::NotYet) => {
                format!("set the clock of this host, or that of {who}'s authority")
            }
            Self::Certificate(_) | Self::Tls(_) => {
                format!("see what it offers: openssl s_client -connect {who}:{port}")
            }
        }
    }

    /// The trouble an I/O error of a connection is.
    #[must_use]
    pub fn of(error: &io::Error, step: &'static str) -> Self {
        if let Some(error) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            return of_tls(error);
        }
        if Shortage::from_error(error).is_some() {
            return Self::Shortage(error.to_string());
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => Self::Closed { step },
            io::ErrorKind::TimedOut => Self::Unreachable("the network timed out".to_owned()),
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

fn of_tls(error: &rustls::Error) -> ProbeError {
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(bad) => ProbeError::Certificate(match bad {
            Bad::Expired | Bad::ExpiredContext { .. } => CertificateDoubt::Expired,
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => CertificateDoubt::NotYet,
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => CertificateDoubt::Name,
            Bad::UnknownIssuer => CertificateDoubt::Issuer,
            Bad::ApplicationVerificationFailure => CertificateDoubt::Pin,
            other => CertificateDoubt::Other(other.to_string()),
        }),
        rustls::Error::InvalidMessage(_) => {
            ProbeError::NotThat { expected: "TLS", came: "the answer is something else".to_owned() }
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            ProbeError::Tls("it asks for a client certificate".to_owned())
        }
        other => ProbeError::Tls(format!("TLS: {other}")),
    }
}

/// Looks a name up.
///
/// # Errors
///
/// [`ProbeError::Unresolved`], or time ran out.
pub async fn resolve(
    host: &str,
    port: u16,
    budget: TimeBudget,
) -> Result<Vec<CheckedAddr>, ProbeError> {
    let endpoint = Endpoint::new(host.to_owned(), port, None, 0);
    let lookup = tokio::task::spawn_blocking(move || {
        resolve::refresh(&endpoint).map(|()| endpoint.addresses.load().to_vec())
    });
    match budget.wait("answer of the resolver", lookup).await? {
        // Rust's own words in front of the resolver's say nothing more.
        Ok(looked) => looked.map_err(|words| {
            ProbeError::Unresolved(words.replace("failed to lookup address information: ", ""))
        }),
        Err(error) => Err(ProbeError::Unreachable(error.to_string())),
    }
}

/// A TCP connection.
///
/// # Errors
///
/// Why there is none.
pub async fn connect(host: &str, port: u16, budget: TimeBudget) -> Result<TcpStream, ProbeError> {
    let addresses = resolve(host, port, budget).await?;
    let left = budget.deadline.saturating_duration_since(Instant::now());
    dial(&addresses, left).await.map_err(|error| match error {
        DialError::NoAddress => ProbeError::Unresolved(format!("`{host}` has no address")),
        DialError::Refused(error) => ProbeError::of(&error, "connection"),
        DialError::Shortage(_, error) => ProbeError::Shortage(error.to_string()),
        DialError::TimedOut { .. } => {
            ProbeError::TimedOut { step: "connection", after: budget.total }
        }
    })
}

/// Verification of the server's identity.
#[derive(Clone)]
pub struct ExpectedIdentity {
    /// TLS settings.
    pub settings: Arc<ClientConfig>,
    /// The name in the certificate.
    pub name: String,
}

/// Result of a TLS handshake.
#[derive(Debug)]
pub struct TlsProbe {
    /// `TLS 1.3`.
    pub version: &'static str,
    /// The certificate.
    pub shown: Option<CertificateSummary>,
}

/// Does a handshake on an open connection.
///
/// # Errors
///
/// Why it failed.
pub async fn secure(
    tcp: TcpStream,
    proof: &ExpectedIdentity,
    budget: TimeBudget,
) -> Result<(Stream, TlsProbe), ProbeError> {
    let name = ServerName::try_from(proof.name.clone())
        .map_err(|_| ProbeError::Tls(format!("`{}` is not a name for TLS", proof.name)))?;
    let handshake =
        TlsConnector::from(Arc::clone(&proof.settings)).connect(name, ReadAhead::new(tcp));
    let stream = budget.wait("TLS handshake", handshake).await?;
    let stream = stream.map_err(|error| ProbeError::of(&error, "a TLS handshake"))?;
    let (_, connection) = stream.get_ref();
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    };
    let shown = connection.peer_certificates().and_then(CertificateSummary::of);
    Ok((Stream::Tls(Box::new(stream)), TlsProbe { version, shown }))
}

/// The certificate presented to a client that accepts any, for diagnosis.
pub async fn shown(
    host: &str,
    port: u16,
    name: &str,
    budget: TimeBudget,
) -> Option<CertificateSummary> {
    let settings = client::config(client::UpstreamTrust::Nothing, &tls::provider()).ok()?;
    let tcp = connect(host, port, budget).await.ok()?;
    let proof = ExpectedIdentity { settings, name: name.to_owned() };
    secure(tcp, &proof, budget).await.ok()?.1.shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn says_what_happened() {
        let budget = TimeBudget::new(Duration::from_secs(10));
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = open.local_addr().unwrap().port();
        connect("127.0.0.1", port, budget).await.unwrap();
        drop(open);
        let refused = connect("127.0.0.1", port, budget).await.unwrap_err();
        assert_eq!(refused, ProbeError::Refused);
        assert!(refused.next("sql", port, "`sql`").contains("does not listen"));
        let unknown = connect("does-not-exist.invalid", 1, budget).await.unwrap_err();
        assert!(matches!(unknown, ProbeError::Unresolved(_) | ProbeError::TimedOut { .. }));
    }

    #[tokio::test]
    async fn what_hangs_up_or_speaks_something_else_is_told_apart() {
        let settings = client::config(client::UpstreamTrust::Nothing, &tls::provider()).unwrap();
        let proof = ExpectedIdentity { settings, name: "a.test".to_owned() };
        for (said, expected) in [
            (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "does not speak TLS"),
            (&b""[..], "closed the connection"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut hello = vec![0; 64];
                let _ = stream.read(&mut hello).await;
                let _ = stream.write_all(said).await;
                let _ = stream.shutdown().await;
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            });
            let budget = TimeBudget::new(Duration::from_secs(10));
            let tcp = connect("127.0.0.1", port, budget).await.unwrap();
            let trouble = secure(tcp, &proof, budget).await.err().unwrap();
            assert!(trouble.to_string().contains(expected), "{trouble}");
            server.await.unwrap();
        }
    }
}
