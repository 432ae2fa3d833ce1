//! Server certificates: loading from files, validation and findings.
//!
//! [`load`] turns a chain file and a key file into a [`CertifiedPair`] with
//! [`CertificateFinding`]s, each with its remedy. A fault that makes a certificate unusable is an
//! error. A fault that concerns only some clients, or will matter soon, is a warning.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::addr::HostPattern;

use super::DEVELOPMENT_ORGANIZATION;
use super::pem::{self, PemError};

/// Days before its expiry in which a certificate causes a warning.
const WARN_DAYS: i64 = 21;

/// The file that a finding refers to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FindingSubject {
    /// The certificate chain.
    Chain,
    /// The private key.
    Key,
}

/// A fault of a certificate or key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFinding {
    /// The certificate cannot be used.
    pub fatal: bool,
    /// Stable code of the form `certificate.FAULT`.
    pub code: &'static str,
    /// The file.
    pub subject: FindingSubject,
    /// Description of the fault, one line.
    pub message: String,
    /// The remedy.
    pub help: String,
}

impl CertificateFinding {
    fn fatal(
        code: &'static str,
        subject: FindingSubject,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { fatal: true, code, subject, message: message.into(), help: help.into() }
    }

    fn warning(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            fatal: false,
            code,
            subject: FindingSubject::Chain,
            message: message.into(),
            help: help.into(),
        }
    }
}

/// A certificate chain with its key, and the properties of its leaf.
#[derive(Clone, Debug)]
pub struct CertifiedPair {
    /// Chain and signing key for handshakes.
    pub key: Arc<CertifiedKey>,
    /// Host names of the certificate, wildcards included.
    pub names: Vec<HostPattern>,
    /// IP addresses of the certificate.
    pub addresses: Vec<IpAddr>,
    /// End of validity, in seconds since 1970.
    pub not_after: i64,
    /// The certificate was made by `app-gateway demo`.
    pub development: bool,
}

impl CertifiedPair {
    /// Whether the certificate is valid for `host`.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        host.parse::<IpAddr>().map_or_else(
            |_| self.names.iter().any(|name| name.covers(host)),
            |ip| self.addresses.contains(&ip.to_canonical()),
        )
    }
}

/// Loads and validates a chain and its key.
///
/// `roots` are the subjects (DER) of the CAs that clients are assumed to trust. They show whether a
/// chain is complete.
///
/// # Errors
///
/// All findings, if one of them is fatal.
pub fn load(
    chain: &Path,
    key: &Path,
    provider: &CryptoProvider,
    roots: &[Vec<u8>],
) -> Result<(CertifiedPair, Vec<CertificateFinding>), Vec<CertificateFinding>> {
    let mut findings = Vec::new();
    let chain = read_chain(chain).map_err(|finding| findings.push(finding)).ok();
    let key = read_key(key).map_err(|finding| findings.push(finding)).ok();
    let (Some(chain), Some(key)) = (chain, key) else { return Err(findings) };
    let facts = inspect(&chain, roots, &mut findings);
    // The library's message is omitted, because it is about the bytes of the key.
    let signing = provider.key_provider.load_private_key(key).map_err(|_| {
        findings.push(CertificateFinding::fatal(
            "certificate.bad-key",
            FindingSubject::Key,
            "the private key cannot be used: it is damaged, or of an unsupported kind",
            "RSA (2048 bits and more), ECDSA P-256 / P-384 / P-521 and Ed25519 keys are supported",
        ));
    });
    let (Some(facts), Ok(signing)) = (facts, signing) else { return Err(findings) };
    let certified = CertifiedKey::new(chain, signing);
    if let Err(rustls::Error::InconsistentKeys(_)) = certified.keys_match() {
        findings.push(CertificateFinding::fatal(
            "certificate.key-mismatch",
            FindingSubject::Key,
            "the private key does not belong to the certificate",
            "the first certificate in the chain file must be the one that was issued for this key",
        ));
    }
    if findings.iter().any(|finding| finding.fatal) {
        return Err(findings);
    }
    Ok((CertifiedPair { key: Arc::new(certified), ..facts }, findings))
}

/// Reads the CA certificates of a PEM file.
///
/// # Errors
///
/// [`PemError`]: the file is not PEM, or contains no certificate.
pub fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    pem::certificates(path)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateFinding> {
    pem::certificates(path).map_err(|error| {
        let help = error.help().unwrap_or(
            "the file must be PEM: `-----BEGIN CERTIFICATE-----`, the certificate of the server first, then its intermediates",
        );
        let message = format!("the certificate cannot be read: {error}");
        CertificateFinding::fatal("certificate.unreadable", FindingSubject::Chain, message, help)
    })
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateFinding> {
    pem::private_key(path).map_err(|error| {
        let help = error.help().unwrap_or(
            "the file must be PEM with a PKCS#8, PKCS#1 or SEC1 key: `-----BEGIN PRIVATE KEY-----`",
        );
        let message = match error {
            PemError::Encrypted => error.to_string(),
            other => format!("the private key cannot be read: {other}"),
        };
        CertificateFinding::fatal("certificate.bad-key", FindingSubject::Key, message, help)
    })
}

/// Validates the chain and collects the properties of its leaf. `None` if the leaf is no
/// certificate. The key is a placeholder.
fn inspect(
    chain: &[CertificateDer<'static>],
    roots: &[Vec<u8>],
    findings: &mut Vec<CertificateFinding>,
) -> Option<CertifiedPair> {
    let parsed: Vec<_> = chain.iter().map(|der| X509Certificate::from_der(der)).collect();
    let mut certificates = Vec::new();
    for (index, parsed) in parsed.into_iter().enumerate() {
        match parsed {
            Ok((_, certificate)) => certificates.push(certificate),
            Err(_) => findings.push(CertificateFinding::fatal(
                "certificate.unreadable",
                FindingSubject::Chain,
                format!("certificate {} of the file is damaged", index + 1),
                "export it again from where it came from",
            )),
        }
    }
    let leaf = certificates.first()?;
    check_dates(leaf, findings);
    check_order(&certificates, roots, findings);
    let (names, addresses) = subject_names(leaf);
    if names.is_empty() && addresses.is_empty() {
        findings.push(CertificateFinding::warning(
            "certificate.no-names",
            "the certificate names no host (no subjectAltName), so no current client accepts it",
            "ask for a certificate with the public host name as a DNS subjectAltName",
        ));
    }
    let development = leaf
        .subject()
        .iter_organization()
        .any(|name| name.as_str().is_ok_and(|name| name == DEVELOPMENT_ORGANIZATION));
    Some(CertifiedPair {
        key: Arc::new(CertifiedKey::new(chain.to_vec(), Arc::new(PlaceholderKey))),
        names,
        addresses,
        not_after: leaf.validity().not_after.timestamp(),
        development,
    })
}

fn check_dates(leaf: &X509Certificate<'_>, findings: &mut Vec<CertificateFinding>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed());
    let (start, end) = (leaf.validity().not_before, leaf.validity().not_after);
    if now > end.timestamp() {
        findings.push(CertificateFinding::fatal(
            "certificate.expired",
            FindingSubject::Chain,
            format!("the certificate expired on {end}"),
            "install the renewed certificate",
        ));
    } else if now < start.timestamp() {
        findings.push(CertificateFinding::fatal(
            "certificate.not-yet-valid",
            FindingSubject::Chain,
            format!("the certificate is valid only from {start}"),
            "check this host's clock, or wait",
        ));
    } else if end.timestamp() - now < WARN_DAYS * 86_400 {
        let days = (end.timestamp() - now) / 86_400;
        findings.push(CertificateFinding::warning(
            "certificate.expires-soon",
            format!("the certificate expires in {days} days, on {end}"),
            "renew it now",
        ));
    }
}

fn check_order(
    certificates: &[X509Certificate<'_>],
    roots: &[Vec<u8>],
    findings: &mut Vec<CertificateFinding>,
) {
    for (index, pair) in certificates.windows(2).enumerate() {
        let [below, above] = pair else { continue };
        if below.issuer().as_raw() != above.subject().as_raw() {
            findings.push(CertificateFinding::fatal(
                "certificate.chain-order",
                FindingSubject::Chain,
                format!("certificate {} of the file did not issue certificate {}", index + 2, index + 1),
                format!("order the file from the server's certificate upwards; the next one must be `{}`", below.issuer()),
            ));
            return;
        }
    }
    let Some(last) = certificates.last() else { return };
    let self_issued = last.issuer().as_raw() == last.subject().as_raw();
    let known = roots.iter().any(|root| root == last.issuer().as_raw());
    if !self_issued && !known && !roots.is_empty() {
        findings.push(CertificateFinding::warning(
            "certificate.chain-incomplete",
            format!("the chain ends below `{}`, which this system does not know as a root", last.issuer()),
            "append the missing intermediate certificates; browsers may fetch them, the webhook senders' Java and PHP clients do not",
        ));
    }
}

fn subject_names(leaf: &X509Certificate<'_>) -> (Vec<HostPattern>, Vec<IpAddr>) {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    let Ok(Some(extension)) = leaf.subject_alternative_name() else { return (names, addresses) };
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => names.extend(HostPattern::parse(name)),
            GeneralName::IPAddress(bytes) => {
                if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                    addresses.push(IpAddr::from(v4));
                } else if let Ok(v6) = <[u8; 16]>::try_from(*bytes) {
                    addresses.push(IpAddr::from(v6));
                }
            }
            _ => {}
        }
    }
    (names, addresses)
}

/// Subjects (DER) of the system's root certificates, for checking whether a chain is complete.
/// Empty if they cannot be read.
#[must_use]
pub fn system_root_subjects() -> Vec<Vec<u8>> {
    let loaded = rustls_native_certs::load_native_certs();
    loaded
        .certs
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok())
        .map(|(_, certificate)| certificate.subject().as_raw().to_vec())
        .collect()
}

/// Placeholder until the real key has been loaded.
#[derive(Debug)]
struct PlaceholderKey;

impl rustls::sign::SigningKey for PlaceholderKey {
    fn choose_scheme(
        &self,
        _: &[rustls::SignatureScheme],
    ) -> Option<Box<dyn rustls::sign::Signer>> {
        None
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::Anonymous
    }
}
