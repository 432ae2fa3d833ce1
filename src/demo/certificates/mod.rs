//! Certificates for a development machine: made when missing, renewed before they expire.
//!
//! A TLS proxy cannot be tried without certificates, and certificates in a repository get deployed.
//! So the demo makes its own, each saying in its subject what it is ([`DEVELOPMENT_ORGANIZATION`]).
//! The key of the authority is dropped once it has signed: a machine that trusts `ca.crt` trusts
//! these few certificates and nothing that could be signed later.
//!
//! In: a directory. Out: a complete, matching set in it, valid for another day at least.
//! Never: overwrites a file that is not ours, or writes a key that others may read.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

mod check;
mod files;
mod issue;

pub use crate::tls::DEVELOPMENT_ORGANIZATION;

/// Held while a set is written, so that two programs never write one set between them.
const LOCK: &str = ".development-certificates.lock";

/// One identity on disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFiles {
    /// PEM: the certificate, then its issuer.
    pub chain: PathBuf,
    /// PEM: the private key, PKCS#8.
    pub key: PathBuf,
}

/// Where the set is. Every path is absolute.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DevelopmentCertificates {
    /// The directory all of them are in.
    pub directory: PathBuf,
    /// The authority to trust. There is no key for it.
    pub ca: PathBuf,
    /// What the gateway shows to clients: ECDSA P-256.
    pub gateway: CertificateFiles,
    /// The same names for clients that know RSA only: RSA-2048.
    pub gateway_rsa: CertificateFiles,
    /// What the Hybrid Chat components show to the gateway.
    pub components: CertificateFiles,
    /// A client certificate, for listeners that ask for one.
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

/// Makes sure `directory` holds a development set that is whole and good for another day.
///
/// A set that already is one is left untouched; otherwise all of it is replaced. Blocks while
/// another program writes the same directory, and for the second or so an RSA key takes.
///
/// # Errors
///
/// [`DevelopmentCertificateError::Foreign`] if a file of the set exists and was not made here, before anything is
/// written. The rest when the directory cannot be written or a key cannot be made.
pub fn ensure(directory: &Path) -> Result<DevelopmentCertificates, DevelopmentCertificateError> {
    let directory =
        std::path::absolute(directory).map_err(DevelopmentCertificateError::file(directory))?;
    let set = DevelopmentCertificates::within(directory);
    // A good set in a directory that is read-only is still a good set, so look before locking.
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

/// Why there is no development set.
#[derive(Debug, thiserror::Error)]
pub enum DevelopmentCertificateError {
    /// Somebody else's certificate or key is where one of ours would go.
    #[error(
        "{} was not made by `app-gateway demo` and will not be overwritten: move it away or choose another directory",
        path.display()
    )]
    Foreign {
        /// The file in the way.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
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
