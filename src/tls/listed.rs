//! Trust in individual certificates that an operator lists in a CA file.
//!
//! Self-signed certificates are usually made with `openssl req -x509`, which sets CA:TRUE, or with
//! `openssl x509 -req`, which writes X.509 version 1. The verifier of rustls accepts neither as the
//! certificate of a peer. A certificate that is byte for byte in the file needs no issuer: it is
//! trusted for its own names, within its validity, and for nothing else. Go and curl do the same.
//!
//! A certificate that is not a CA certificate never becomes a trusted issuer.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerMisbehaved, RootCertStore,
};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Version};

/// Certificates of a CA file.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed(Vec<CertificateDer<'static>>);

impl Listed {
    /// Splits a CA file into the roots that may issue certificates, and the list of all
    /// certificates.
    ///
    /// # Errors
    ///
    /// A message with the number, from 1, of a damaged certificate.
    pub(super) fn new(
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<(RootCertStore, Self), String> {
        let mut roots = RootCertStore::empty();
        for (index, der) in certificates.iter().enumerate() {
            let damaged = || format!("certificate {} of the file is damaged", index + 1);
            let (_, certificate) = X509Certificate::from_der(der).map_err(|_| damaged())?;
            if may_issue(&certificate) {
                roots.add(der.clone()).map_err(|_| damaged())?;
            }
        }
        Ok((roots, Self(certificates)))
    }

    /// Whether this certificate is listed, byte for byte.
    pub(super) fn contains(&self, leaf: &CertificateDer<'_>) -> bool {
        self.0.iter().any(|listed| listed.as_ref() == leaf.as_ref())
    }
}

/// Whether a certificate is a CA certificate (RFC 5280 section 4.2.1.9). Version 1 has no extension
/// for it; a root of that version is self-issued.
fn may_issue(certificate: &X509Certificate<'_>) -> bool {
    if certificate.version() == X509Version::V1 {
        return certificate.subject() == certificate.issuer();
    }
    match (certificate.basic_constraints(), certificate.key_usage()) {
        (Ok(Some(constraints)), _) => constraints.value.ca,
        (Ok(None), Ok(Some(usage))) => usage.value.key_cert_sign(),
        _ => false,
    }
}

/// Checks the validity period of a certificate.
pub(super) fn verify_validity(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let certificate = parse(leaf)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    Ok(())
}

/// Checks that a certificate is for `name`. One without a subjectAltName, as `openssl req -x509`
/// makes by default, is for its common name.
pub(super) fn verify_name(leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let certificate = parse(leaf)?;
    if matches!(certificate.subject_alternative_name(), Ok(None)) {
        let wanted = name.to_str();
        let mut common = certificate.subject().iter_common_name();
        let same = common
            .any(|common| common.as_str().is_ok_and(|common| common.eq_ignore_ascii_case(&wanted)));
        return if same { Ok(()) } else { Err(CertificateError::NotValidForName.into()) };
    }
    verify_server_name(&ParsedCertificate::try_from(leaf)?, name)
}

/// Replaces the error of rustls for a certificate that is not listed by one that fits the cause.
/// For a self-signed certificate with CA:TRUE that is an unknown issuer.
pub(super) fn not_listed(leaf: &CertificateDer<'_>, error: Error) -> Error {
    let Error::InvalidCertificate(CertificateError::Other(_) | CertificateError::BadEncoding) =
        &error
    else {
        return error;
    };
    match X509Certificate::from_der(leaf) {
        Ok((_, certificate)) if certificate.subject() == certificate.issuer() => {
            CertificateError::UnknownIssuer.into()
        }
        Ok((_, certificate)) if certificate.version() == X509Version::V1 => {
            CertificateError::Other(OtherError(Arc::new(FirstVersion))).into()
        }
        _ => error,
    }
}

/// The certificate is X.509 version 1 and not self-issued.
#[derive(Debug)]
struct FirstVersion;

impl fmt::Display for FirstVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is X.509 version 1, which is trusted only if the certificate itself is listed or pinned")
    }
}

impl std::error::Error for FirstVersion {}

/// The signature methods of a rustls certificate verifier with a field `algorithms`. They accept
/// the key of any X.509 certificate, version 1 included.
macro_rules! verify_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            leaf: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            $crate::tls::listed::verify_tls12(message, leaf, signed, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            $crate::tls::listed::verify_tls13(message, leaf, signed, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}
pub(super) use verify_signatures;

/// Verifies the signature of a TLS 1.2 handshake, with the key of any X.509 certificate.
pub(super) fn verify_tls12(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if ParsedCertificate::try_from(leaf).is_ok() {
        return verify_tls12_signature(message, leaf, signed, algorithms);
    }
    let certificate = parse(leaf)?;
    let key = certificate.public_key();
    let identifier = key_algorithm(key.raw).ok_or(CertificateError::BadEncoding)?;
    let known = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let (_, candidates) = known.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    let fitting = candidates.iter().filter(|one| one.public_key_alg_id().as_ref() == identifier);
    let bits = key.subject_public_key.as_ref();
    let mut results = fitting.map(|one| one.verify_signature(bits, message, signed.signature()));
    match results.next() {
        Some(Ok(())) => Ok(HandshakeSignatureValid::assertion()),
        _ => Err(CertificateError::BadSignature.into()),
    }
}

/// Verifies the signature of a TLS 1.3 handshake, with the key of any X.509 certificate.
pub(super) fn verify_tls13(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if ParsedCertificate::try_from(leaf).is_ok() {
        return verify_tls13_signature(message, leaf, signed, algorithms);
    }
    let certificate = parse(leaf)?;
    let key = SubjectPublicKeyInfoDer::from(certificate.public_key().raw);
    verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
}

fn parse<'a>(leaf: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    let parsed = X509Certificate::from_der(leaf);
    parsed.map(|(_, certificate)| certificate).map_err(|_| CertificateError::BadEncoding.into())
}

/// Contents of the `AlgorithmIdentifier` of a `SubjectPublicKeyInfo`.
fn key_algorithm(key: &[u8]) -> Option<&[u8]> {
    sequence(sequence(key)?)
}

/// Contents of the SEQUENCE at the start of DER data.
fn sequence(der: &[u8]) -> Option<&[u8]> {
    let (&length, rest) = der.strip_prefix(&[0x30])?.split_first()?;
    if length < 0x80 {
        return rest.get(..usize::from(length));
    }
    let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
    if digits.len() > 3 {
        return None;
    }
    let length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
    rest.get(..length)
}

#[cfg(test)]
mod tests;
