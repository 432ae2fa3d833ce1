//! TLS settings of listeners, and selection of the certificate for each client.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, CipherSuite, DistinguishedName, Error, NamedGroup, ServerConfig,
    SignatureAlgorithm, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::listed::{self, Listed};
use super::tickets::SessionTickets;
use super::{CertifiedPair, ClientAuth};

/// TLS settings of a listener.
pub struct TlsSettings {
    /// Certificates in order of the configuration; the first is the default. Each has at least one
    /// pair.
    pub identities: Vec<Vec<CertifiedPair>>,
    /// Clients whose SNI is in no certificate are rejected. Otherwise they get the default
    /// certificate.
    pub reject_unknown: bool,
    /// Whether to offer HTTP/2.
    pub http2: bool,
    /// CAs of client certificates, and whether a certificate is required.
    pub clients: Option<(Vec<CertificateDer<'static>>, bool)>,
    /// Seals session tickets, so that clients can reconnect without a full handshake.
    pub tickets: Arc<SessionTickets>,
}

/// Compiled TLS settings of a listener.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// Configuration for rustls.
    pub config: Arc<ServerConfig>,
    /// Client authentication. `None` if no certificate is requested.
    pub client_auth: Option<Arc<ClientAuth>>,
    /// Server names with a certificate, if clients with another server name are rejected.
    known: Option<Arc<SniResolver>>,
}

impl ServerTls {
    /// Whether a `ClientHello` may be rejected for its server name.
    #[must_use]
    pub const fn may_reject(&self) -> bool {
        self.known.is_some()
    }

    /// Whether a client with this server name is rejected.
    #[must_use]
    pub fn rejects(&self, name: &str) -> bool {
        self.known.as_ref().is_some_and(|known| known.by_name(name).is_none())
    }
}

/// Builds the TLS settings of a listener.
///
/// TLS 1.2 and 1.3, with session tickets. Early data is disabled, because it can be replayed.
///
/// # Errors
///
/// A message, if the client CAs cannot be used.
pub fn config(settings: TlsSettings, provider: &Arc<CryptoProvider>) -> Result<ServerTls, String> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?;
    let clients = settings.clients.as_ref();
    let client_auth = clients.map(|(all, required)| ClientAuth::new(all, *required));
    let builder = match settings.clients {
        None => builder.with_no_client_auth(),
        Some((authorities, required)) => {
            let (roots, listed) = Listed::new(authorities)?;
            let issuers = if roots.is_empty() {
                None
            } else {
                let roots = Arc::new(roots);
                let all = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
                Some(all.build().map_err(|error| error.to_string())?)
            };
            let algorithms = provider.signature_verification_algorithms;
            let clients = ClientVerifier { issuers, listed, required, algorithms };
            builder.with_client_cert_verifier(Arc::new(clients))
        }
    };
    let resolver = Arc::new(SniResolver::new(settings.identities, settings.reject_unknown));
    let known = settings.reject_unknown.then(|| Arc::clone(&resolver));
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = if settings.http2 {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    } else {
        vec![b"http/1.1".to_vec()]
    };
    config.ticketer = settings.tickets;
    // Tickets work for both versions. A session table would cost memory per connection.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(ServerTls { config: Arc::new(config), client_auth, known })
}

/// Verifies client certificates, by trusted issuers or by comparison with listed certificates.
#[derive(Debug)]
struct ClientVerifier {
    /// `None` if none of the listed certificates can issue others.
    issuers: Option<Arc<dyn ClientCertVerifier>>,
    listed: Listed,
    required: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.issuers.as_ref().map_or(&[], |issuers| issuers.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.listed.contains(leaf) {
            listed::verify_validity(leaf, now)?;
            return Ok(ClientCertVerified::assertion());
        }
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let issuers = self.issuers.as_ref().ok_or_else(unknown)?;
        issuers
            .verify_client_cert(leaf, intermediates, now)
            .map_err(|error| listed::not_listed(leaf, error))
    }

    listed::verify_signatures!();
}

/// Selects a certificate by SNI, then by the signature schemes, cipher suites and curves of the
/// client.
#[derive(Debug)]
struct SniResolver {
    identities: Vec<Vec<Arc<CertifiedKey>>>,
    exact: HashMap<String, usize>,
    /// Keyed by the part after `*.`.
    wildcard: HashMap<String, usize>,
    reject_unknown: bool,
}

impl SniResolver {
    fn new(identities: Vec<Vec<CertifiedPair>>, reject_unknown: bool) -> Self {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for (index, pairs) in identities.iter().enumerate() {
            for name in pairs.iter().flat_map(|pair| &pair.names) {
                // If several certificates cover a name, the first in the configuration is used.
                match name.as_str().strip_prefix("*.") {
                    Some(suffix) => _ = wildcard.entry(suffix.to_owned()).or_insert(index),
                    None => _ = exact.entry(name.as_str().to_owned()).or_insert(index),
                }
            }
        }
        let identities = identities
            .into_iter()
            .map(|pairs| pairs.into_iter().map(|p| p.key).collect())
            .collect();
        Self { identities, exact, wildcard, reject_unknown }
    }

    fn by_name(&self, sni: &str) -> Option<usize> {
        let sni = sni.to_ascii_lowercase();
        self.exact.get(&sni).or_else(|| self.wildcard.get(sni.split_once('.')?.1)).copied()
    }
}

impl ResolvesServerCert for SniResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let index = match hello.server_name() {
            None => 0,
            Some(sni) => match self.by_name(sni) {
                Some(index) => index,
                None if self.reject_unknown => return None,
                None => 0,
            },
        };
        let pairs = self.identities.get(index)?;
        let usable = |pair: &&Arc<CertifiedKey>| {
            pair.key.choose_scheme(hello.signature_schemes()).is_some_and(|signer| {
                suits(pair.key.algorithm(), hello.cipher_suites())
                    && curve_offered(signer.scheme(), &hello)
            })
        };
        // If no pair is usable, the handshake fails in any case; the first pair gives the clearest
        // error.
        pairs.iter().find(usable).or_else(|| pairs.first()).cloned()
    }
}

/// Whether a TLS 1.2 client that verifies with this scheme supports the curve of the key. In TLS
/// 1.2 the list of groups applies to certificates too (RFC 8422 section 5.1.1); in TLS 1.3 it does
/// not.
fn curve_offered(scheme: SignatureScheme, hello: &ClientHello<'_>) -> bool {
    let curve = match scheme {
        SignatureScheme::ECDSA_NISTP256_SHA256 => NamedGroup::secp256r1,
        SignatureScheme::ECDSA_NISTP384_SHA384 => NamedGroup::secp384r1,
        SignatureScheme::ECDSA_NISTP521_SHA512 => NamedGroup::secp521r1,
        _ => return true,
    };
    let modern = |suite: &CipherSuite| suite.as_str().unwrap_or_default().starts_with("TLS13_");
    hello.cipher_suites().iter().any(modern)
        || hello.named_groups().is_none_or(|groups| groups.contains(&curve))
}

/// Whether one of the client's cipher suites works with a key of this kind. In TLS 1.3 all do; in
/// TLS 1.2 the suite names the kind.
fn suits(algorithm: SignatureAlgorithm, offered: &[CipherSuite]) -> bool {
    offered.iter().any(|suite| {
        let name = suite.as_str().unwrap_or_default();
        name.starts_with("TLS13_")
            || match algorithm {
                SignatureAlgorithm::RSA => name.starts_with("TLS_ECDHE_RSA_"),
                _ => name.starts_with("TLS_ECDHE_ECDSA_"),
            }
    })
}
