//! TLS settings for connections to upstreams, and verification of their certificates.

use std::sync::Arc;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::listed::{self, Listed};

/// Verification of an upstream's certificate.
pub enum UpstreamTrust {
    /// By the system's root certificates; the name must match.
    System,
    /// By these certificates only, as issuers or as the upstream's own; the name must match.
    Authorities(Vec<CertificateDer<'static>>),
    /// By the SHA-256 of its public key, and nothing else.
    Pins(Vec<[u8; 32]>),
    /// No verification.
    Nothing,
}

/// Builds the TLS configuration for connections to one upstream. HTTP/1.1 only; sessions are
/// resumed.
///
/// # Errors
///
/// A message, if there is no usable root certificate.
pub fn config(
    trust: UpstreamTrust,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?;
    let algorithms = provider.signature_verification_algorithms;
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        UpstreamTrust::System => {
            Arc::new(ChainVerifier::new(system_roots()?, Listed::default(), provider)?)
        }
        UpstreamTrust::Authorities(authorities) => {
            let (roots, listed) = Listed::new(authorities)?;
            Arc::new(ChainVerifier::new(roots, listed, provider)?)
        }
        UpstreamTrust::Pins(pins) => Arc::new(PinVerifier { pins: Some(pins), algorithms }),
        UpstreamTrust::Nothing => Arc::new(PinVerifier { pins: None, algorithms }),
    };
    let mut config =
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(64);
    Ok(Arc::new(config))
}

fn system_roots() -> Result<RootCertStore, String> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let why = loaded.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!("this system has no root certificates{why}"));
    }
    Ok(roots)
}

/// Verifies chain and name, by trusted issuers or by comparison with listed certificates.
#[derive(Debug)]
struct ChainVerifier {
    /// `None` if none of the listed certificates can issue others.
    issuers: Option<Arc<WebPkiServerVerifier>>,
    listed: Listed,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ChainVerifier {
    fn new(
        roots: RootCertStore,
        listed: Listed,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let algorithms = provider.signature_verification_algorithms;
        let issuers = if roots.is_empty() {
            None
        } else {
            let builder =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            Some(builder.build().map_err(|error| error.to_string())?)
        };
        Ok(Self { issuers, listed, algorithms })
    }
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.listed.contains(leaf) {
            listed::verify_validity(leaf, now)?;
            listed::verify_name(leaf, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let issuers = self.issuers.as_ref().ok_or_else(unknown)?;
        issuers
            .verify_server_cert(leaf, intermediates, name, ocsp, now)
            .map_err(|error| listed::not_listed(leaf, error))
    }

    listed::verify_signatures!();
}

/// Compares the public key with a list of pins, or accepts any. Signatures are always verified: the
/// peer must hold the private key.
#[derive(Debug)]
struct PinVerifier {
    pins: Option<Vec<[u8; 32]>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(pins) = &self.pins {
            let pin =
                pin_of(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
            if !pins.contains(&pin) {
                return Err(Error::InvalidCertificate(
                    CertificateError::ApplicationVerificationFailure,
                ));
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    listed::verify_signatures!();
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, as in RFC 7469. `None` if the certificate is
/// damaged.
#[must_use]
pub fn pin_of(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, parsed.public_key().raw);
    digest.as_ref().try_into().ok()
}
