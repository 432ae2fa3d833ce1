//! Certificates for a development machine, issued when missing and renewed before they expire.
//!
//! A TLS proxy needs certificates even for a trial, and certificates kept in a repository end up in
//! production. Therefore the demo issues its own, each marked in its subject
//! ([`DEVELOPMENT_ORGANIZATION`]). The key of the authority is dropped after signing: a machine
//! that trusts `ca.crt` trusts these few certificates and nothing signed later.
//!
//! The result is a complete, matching set in a directory, valid for at least another day. Files of
//! others are never overwritten, and no key is readable by other users.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

mod check;
mod files;
mod issue;

pub use crate::tls::DEVELOPMENT_ORGANIZATION;

/// Lock file, held while a set is written, so that two programs never write to one set at once.
const LOCK: &str = ".development-certificates.lock";

/// One identity on disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFiles {
    /// PEM: the certificate, then its issuer.
    pub chain: PathBuf,
    /// PEM: the private key, PKCS#8.
    pub key: PathBuf,
}

/// Locations of the set. Every path is absolute.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DevelopmentCertificates {
    /// The directory all of them are in.
    pub directory: PathBuf,
    /// The authority to trust. There is no key for it.
    pub ca: PathBuf,
    /// Certificate and key of the gateway: ECDSA P-256.
    pub gateway: CertificateFiles,
    /// The same names, for clients that support only RSA: RSA-2048.
    pub gateway_rsa: CertificateFiles,
    /// Certificate and key of the Hybrid Chat components.
    pub components: CertificateFiles,
    /// A client certificate, for listeners that request one.
    pub client: CertificateFiles,
}

impl DevelopmentCertificates {
    fn within(directory: PathBuf) -> Self {
        let pair = |name: &str| CertificateFiles {
            chain: directory.join(format!("{name}.crt")),
            key: directory.join(format!("{name}.key")),
        };
        Self {
            ca: directory.join("ca.crt"),
            gateway: pair("gateway"),
            gateway_rsa: pair("gateway-rsa"),
            components: pair("components"),
            client: pair("client"),
            directory,
        }
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let pairs = [&self.gateway, &self.gateway_rsa, &self.components, &self.client];
        let pairs = pairs.into_iter().flat_map(|pair| [&*pair.chain, &*pair.key]);
        std::iter::once(&*self.ca).chain(pairs)
    }
}

/// Ensures that `directory` contains a complete development set that is valid for another day.
///
/// A complete set is left untouched; otherwise all of it is replaced. Blocks while another program
/// writes the same directory, and for about a second to generate an RSA key.
///
/// # Errors
///
/// [`DevelopmentCertificateError::Foreign`] if a file of the set exists and was not made here, before anything is
/// written. The rest when the directory cannot be written or a key cannot be made.
pub fn ensure(directory: &Path) -> Result<DevelopmentCertificates, DevelopmentCertificateError> {
    let directory =
        std::path::absolute(directory).map_err(DevelopmentCertificateError::file(directory))?;
    let set = DevelopmentCertificates::within(directory);
    // A good set may be in a read-only directory, so check before locking.
    if check::is_good(&set) {
        return Ok(set);
    }
    fs::create_dir_all(&set.directory)
        .map_err(DevelopmentCertificateError::file(&set.directory))?;
    let lock = set.directory.join(LOCK);
    let held = File::create(&lock).map_err(DevelopmentCertificateError::file(&lock))?;
    held.lock().map_err(DevelopmentCertificateError::file(&lock))?;
    if !check::is_good(&set) {
        for path in set.paths() {
            files::refuse_foreign(path)?;
        }
        issue::issue(&set)?;
    }
    Ok(set)
}

/// The reason why there is no development set.
#[derive(Debug, thiserror::Error)]
pub enum DevelopmentCertificateError {
    /// The path of one of our files holds a certificate or key of another origin.
    #[error(
        "{} was not made by `app-gateway demo` and will not be overwritten: move it away or choose another directory",
        path.display()
    )]
    Foreign {
        /// The existing file.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// A key or certificate could not be made.
    #[error("cannot make a development certificate")]
    Issue(#[from] rcgen::Error),
}

impl DevelopmentCertificateError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

#[cfg(test)]
mod tests;
