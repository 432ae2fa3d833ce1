//! Writes one file of the set atomically, and distinguishes our files from those of others.
//!
//! A private key has no field for an organization, so every file starts with a line of text that
//! marks it as ours. PEM readers skip text before `-----BEGIN`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{DEVELOPMENT_ORGANIZATION, DevelopmentCertificateError};

/// Permissions of a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum FileReaders {
    Anyone,
    Owner,
}

/// Replaces `path` with `pem`: readers see the old file or the new one, never half of one.
pub(super) fn write(
    path: &Path,
    pem: &str,
    readers: FileReaders,
) -> Result<(), DevelopmentCertificateError> {
    let text = format!("# {DEVELOPMENT_ORGANIZATION}: never deploy, never commit\n{pem}");
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    replace(&new, path, &text, readers).map_err(DevelopmentCertificateError::file(path))
}

fn replace(new: &Path, path: &Path, text: &str, readers: FileReaders) -> io::Result<()> {
    // A leftover file may have wider permissions, and `mode` applies only to a file that is
    // created.
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = match readers {
        FileReaders::Anyone => 0o644,
        FileReaders::Owner => 0o600,
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)
}

/// Refuses if `path` holds something that was not made here. Missing and empty files are fine.
pub(super) fn refuse_foreign(path: &Path) -> Result<(), DevelopmentCertificateError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(DevelopmentCertificateError::file(path)(error)),
        Ok(bytes) => bytes,
    };
    let marked = bytes
        .strip_prefix(b"# ")
        .is_some_and(|rest| rest.starts_with(DEVELOPMENT_ORGANIZATION.as_bytes()));
    if bytes.is_empty() || marked || certificate_is_ours(&bytes) {
        Ok(())
    } else {
        Err(DevelopmentCertificateError::Foreign { path: path.to_owned() })
    }
}

fn certificate_is_ours(pem: &[u8]) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return false };
    let mut organizations = certificate.subject().iter_organization();
    organizations.any(|name| name.as_str() == Ok(DEVELOPMENT_ORGANIZATION))
}
