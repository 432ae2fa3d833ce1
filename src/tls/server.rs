//! The server side: which certificate a client is shown, and the settings of a listener.

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

/// What a listener wants of TLS.
pub struct TlsSettings {
    /// Identities in order; the first is the default. Each has at least one pair.
    pub identities: Vec<Vec<CertifiedPair>>,
    /// Clients whose SNI none covers are refused instead of shown the default.
    pub refuse_unknown: bool,
    /// Offer HTTP/2.
    pub http2: bool,
    /// CAs of client certificates, and whether one is demanded.
    pub clients: Option<(Vec<CertificateDer<'static>>, bool)>,
    /// Seals sessions, so that clients can come back without a full handshake.
    pub tickets: Arc<SessionTickets>,
}

/// TLS of a listener.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// What the TLS library is configured with.
    pub config: Arc<ServerConfig>,
    /// Client authentication; `None`: no certificate is asked for.
    pub client_auth: Option<Arc<ClientAuth>>,
    /// Server names with a certificate, if clients that ask for another one are refused.
    known: Option<Arc<SniResolver>>,
}

impl ServerTls {
    /// Whether the server name of a `ClientHello` may have to be refused.
    #[must_use]
    pub const fn refuses_names(&self) -> bool {
        self.known.is_some()
    }

    /// Whether a client that asks for this server name is refused.
    #[must_use]
    pub fn refuses(&self, name: &str) -> bool {
        self.known.as_ref().is_some_and(|known| known.by_name(name).is_none())
    }
}

/// Builds the TLS of a listener.
///
/// TLS 1.2 and 1.3; session tickets; no early data, which could be replayed.
///
/// # Errors
///
/// A sentence, if the client CAs cannot be used.
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
            let clients = Clients { issuers, listed, required, algorithms };
            builder.with_client_cert_verifier(Arc::new(clients))
        }
    };
    let resolver = Arc::new(SniResolver::new(settings.identities, settings.refuse_unknown));
    let known = settings.refuse_unknown.then(|| Arc::clone(&resolver));
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = if settings.http2 {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    } else {
        vec![b"http/1.1".to_vec()]
    };
    config.ticketer = settings.tickets;
    // Tickets serve both versions; a table of sessions would be memory per connection.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(ServerTls { config: Arc::new(config), client_auth, known })
}

/// Verifies certificates of clients, by issuers or by a certificate that is listed itself.
#[derive(Debug)]
struct Clients {
    /// `None`: none of the listed certificates can issue others.
    issuers: Option<Arc<dyn ClientCertVerifier>>,
    listed: Listed,
    required: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Clients {
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

/// Chooses by SNI, then by what the client can verify.
#[derive(Debug)]
struct SniResolver {
    identities: Vec<Vec<Arc<CertifiedKey>>>,
    exact: HashMap<String, usize>,
    /// Keyed by what follows `*.`.
    wildcard: HashMap<String, usize>,
    refuse_unknown: bool,
}

impl SniResolver {
    fn new(identities: Vec<Vec<CertifiedPair>>, refuse_unknown: bool) -> Self {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for (index, pairs) in identities.iter().enumerate() {
            for name in pairs.iter().flat_map(|pair| &pair.names) {
                // The first identity in the configuration that covers a name is shown for it.
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
        Self { identities, exact, wildcard, refuse_unknown }
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
                None if self.refuse_unknown => return None,
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
        // None usable: the handshake fails either way, and fails clearest on the first.
        pairs.iter().find(usable).or_else(|| pairs.first()).cloned()
    }
}

/// Whether a TLS 1.2 client that would verify with this scheme takes the key's curve: there its list
/// of groups speaks for certificates too (RFC 8422 section 5.1.1). TLS 1.3 tells the two apart.
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

/// Whether a cipher suite the client offers goes with a key of this kind. In TLS 1.3 all do; in
/// 1.2 the suite names the kind.
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
