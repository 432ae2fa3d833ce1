//! Parser for PEM files as they occur in practice: with a byte order mark, Windows line ends,
//! indentation, or text around the sections (RFC 7468 allows the last).
//!
//! It reads certificates or a private key from a [`SecretFile`]. Errors describe the form of the
//! file and never contain its bytes, because the file may be a private key.

use std::path::Path;

use rustls_pki_types::pem::{PemObject as _, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{BYTE_ORDER_MARK, SecretFile};

/// Reason a PEM file cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PemError {
    /// The file cannot be read, with the system's message.
    #[error("the file cannot be read: {0}")]
    Unreadable(String),
    /// The file is UTF-16.
    #[error("the file is text in UTF-16, not in UTF-8")]
    Utf16,
    /// The line ends are written as a backslash and an `n`.
    #[error("the line ends of the file are written as `\\n`")]
    EscapedLineEnds,
    /// The text of a section is on the line of its `BEGIN`.
    #[error("the lines of the PEM text are joined into one")]
    JoinedLines,
    /// The file is DER or another binary format.
    #[error("the file is binary (DER or PKCS#12), not PEM")]
    Binary,
    /// The end of a section is missing.
    #[error("section {section} of the file has no matching `-----END` line: it is cut off")]
    CutOff {
        /// Number of the section in the file, from 1.
        section: usize,
    },
    /// A section contains characters that are not base64.
    #[error("section {section} of the file is damaged: it is not base64")]
    NotBase64 {
        /// Number of the section in the file, from 1.
        section: usize,
    },
    /// The file has no `-----BEGIN` line.
    #[error("there is no `-----BEGIN` line in the file")]
    NotPem,
    /// The file is PEM, but has no section of the needed kind.
    #[error("there is no {wanted} in the file; it has {found}")]
    Missing {
        /// The needed kind.
        wanted: &'static str,
        /// The kind that the file has instead.
        found: &'static str,
    },
    /// The private key is encrypted.
    #[error("the private key is encrypted")]
    Encrypted,
}

impl PemError {
    /// The remedy.
    #[must_use]
    pub const fn help(&self) -> Option<&'static str> {
        match self {
            Self::Utf16 => Some("convert it with `iconv -f UTF-16 -t UTF-8 FILE > NEW`"),
            Self::EscapedLineEnds => Some("write real line ends: `printf '%b' \"$PEM\" > FILE`"),
            Self::JoinedLines => Some(
                "`-----BEGIN …-----` and `-----END …-----` stand on lines of their own, the base64 between them",
            ),
            Self::Binary => Some(
                "convert it: `openssl x509 -inform DER -in FILE -out NEW` or `openssl pkey -inform DER -in FILE -out NEW`; PKCS#12 with `openssl pkcs12 -in FILE -nodes -out NEW`",
            ),
            Self::CutOff { .. } | Self::NotBase64 { .. } => {
                Some("copy the file again from where it came from")
            }
            Self::Encrypted => Some(
                "decrypt it with `openssl pkey -in KEY -out NEW` and protect the file by its permissions",
            ),
            Self::Unreadable(_) | Self::NotPem | Self::Missing { .. } => None,
        }
    }
}

/// Reads all certificates of a file, of which there must be at least one.
///
/// # Errors
///
/// [`PemError`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    certificates_of(&read(path)?)
}

fn certificates_of(file: &SecretFile) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let all = sections(file)?;
    let kinds: Vec<_> = all.iter().map(|(kind, _)| *kind).collect();
    let chain: Vec<_> = all
        .into_iter()
        .filter(|(kind, _)| *kind == SectionKind::Certificate)
        .map(|(_, der)| CertificateDer::from(der))
        .collect();
    if chain.is_empty() {
        let found = name(file, &kinds);
        return Err(PemError::Missing { wanted: "certificate", found });
    }
    Ok(chain)
}

/// Reads the first private key of a file: PKCS#8, PKCS#1 or SEC1.
///
/// # Errors
///
/// [`PemError`].
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    private_key_of(&read(path)?)
}

fn private_key_of(file: &SecretFile) -> Result<PrivateKeyDer<'static>, PemError> {
    // The traditional encryption of OpenSSL adds a header field before the base64; an encrypted
    // PKCS#8 key has its own label.
    if memchr::memmem::find(file.expose(), b"ENCRYPTED").is_some() {
        return Err(PemError::Encrypted);
    }
    let all = sections(file)?;
    let kinds: Vec<_> = all.iter().map(|(kind, _)| *kind).collect();
    let mut keys = all.into_iter().filter_map(|(kind, der)| PrivateKeyDer::from_pem(kind, der));
    keys.next()
        .ok_or_else(|| PemError::Missing { wanted: "private key", found: name(file, &kinds) })
}

fn read(path: &Path) -> Result<SecretFile, PemError> {
    SecretFile::read(path).map_err(PemError::Unreadable)
}

/// All sections of known kinds in the file.
fn sections(file: &SecretFile) -> Result<Vec<(SectionKind, Vec<u8>)>, PemError> {
    let text = plain(file.expose())?;
    let mut all = Vec::new();
    for found in <(SectionKind, Vec<u8>)>::pem_slice_iter(&text) {
        let section = all.len() + 1;
        // The library's errors quote the line with the fault, so they are not passed on.
        all.push(found.map_err(|error| match error {
            rustls_pki_types::pem::Error::IllegalSectionStart { .. } => PemError::JoinedLines,
            rustls_pki_types::pem::Error::Base64Decode(_) => PemError::NotBase64 { section },
            _ => PemError::CutOff { section },
        })?);
    }
    if all.is_empty() && memchr::memmem::find(&text, b"-----BEGIN").is_none() {
        return Err(PemError::NotPem);
    }
    Ok(all)
}

/// The text without byte order marks and indentation.
fn plain(bytes: &[u8]) -> Result<Vec<u8>, PemError> {
    let has = |needle: &[u8]| memchr::memmem::find(bytes, needle).is_some();
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || has(b"-\0-\0-\0") {
        return Err(PemError::Utf16);
    }
    // A SEQUENCE of more than 127 bytes, the start of every certificate, key and PKCS#12 file.
    if matches!(bytes, [0x30, 0x81..=0x84, ..]) {
        return Err(PemError::Binary);
    }
    if has(b"-----\\n") || has(b"-----\\r\\n") {
        return Err(PemError::EscapedLineEnds);
    }
    let mut text = Vec::with_capacity(bytes.len() + 1);
    for line in bytes.split(|byte| matches!(byte, b'\n' | b'\r')) {
        // Concatenated files may each begin with a byte order mark.
        let line = line.trim_ascii();
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line).trim_ascii();
        if line.starts_with(b"-----BEGIN") && !line.ends_with(b"-----")
            || line.starts_with(b"-----BEGIN") && has_end(line)
        {
            return Err(PemError::JoinedLines);
        }
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    Ok(text)
}

fn has_end(line: &[u8]) -> bool {
    memchr::memmem::find(line, b"-----END").is_some()
}

/// Describes the contents of a file, in words from a closed list.
fn name(file: &SecretFile, kinds: &[SectionKind]) -> &'static str {
    match kinds.first() {
        Some(SectionKind::Certificate) => "certificates only",
        Some(SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey) => {
            "a private key only"
        }
        Some(SectionKind::Csr) => "a certificate request (CSR)",
        Some(SectionKind::PublicKey) => "a public key",
        Some(SectionKind::Crl) => "a revocation list",
        None if memchr::memmem::find(file.expose(), b"OPENSSH PRIVATE KEY").is_some() => {
            "a private key in the format of OpenSSH"
        }
        None if memchr::memmem::find(file.expose(), b"TRUSTED CERTIFICATE").is_some() => {
            "a certificate in the trusted format of OpenSSL"
        }
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let params = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn file(text: impl Into<Vec<u8>>) -> SecretFile {
        SecretFile::from(text.into())
    }

    fn marked(text: &str) -> String {
        format!("\u{feff}{text}")
    }

    #[test]
    fn common_variants_of_pem_are_accepted() {
        let (certificate, key) = pair();
        let der = certificates_of(&file(certificate.as_str())).unwrap();
        for (case, text) in [
            ("byte order mark", marked(&certificate)),
            ("Windows", certificate.replace('\n', "\r\n")),
            ("old Mac", certificate.replace('\n', "\r")),
            ("both", marked(&certificate.replace('\n', "\r\n"))),
            ("text before", format!("subject=CN = a.test\n\nBag Attributes\n{certificate}")),
            ("indented", format!("    {}", certificate.replace('\n', " \n    "))),
            ("with its key", format!("{key}{certificate}")),
            ("no end of line", certificate.trim_end().to_owned()),
        ] {
            assert_eq!(certificates_of(&file(text)).as_ref(), Ok(&der), "{case}");
        }
        let two = format!("{}{}", marked(&certificate), marked(&certificate));
        assert_eq!(certificates_of(&file(two)).unwrap().len(), 2);
        let plain = private_key_of(&file(key.as_str())).unwrap();
        for text in [marked(&key), key.replace('\n', "\r\n"), format!("{certificate}{key}")] {
            assert_eq!(private_key_of(&file(text)).unwrap().secret_der(), plain.secret_der());
        }
    }

    #[test]
    fn errors_describe_the_form_of_the_file() {
        let (certificate, key) = pair();
        let wide = |text: &str, mark: &[u8], swap: bool| {
            let units = text.encode_utf16();
            let bytes = units.flat_map(|u| if swap { u.to_be_bytes() } else { u.to_le_bytes() });
            mark.iter().copied().chain(bytes).collect::<Vec<u8>>()
        };
        let der = certificates_of(&file(certificate.as_str())).unwrap()[0].to_vec();
        let cut = certificate.split_at(certificate.len() / 2).0;
        let missing = |found| PemError::Missing { wanted: "certificate", found };
        for (bytes, expected) in [
            (wide(&certificate, b"\xff\xfe", false), PemError::Utf16),
            (wide(&certificate, b"\xfe\xff", true), PemError::Utf16),
            (wide(&certificate, b"", false), PemError::Utf16),
            (der, PemError::Binary),
            (certificate.replace('\n', "\\n").into(), PemError::EscapedLineEnds),
            (certificate.replace('\n', " ").into(), PemError::JoinedLines),
            (certificate.replace('\n', "").into(), PemError::JoinedLines),
            (cut.into(), PemError::CutOff { section: 1 }),
            (certificate.replace("MI", "!!").into(), PemError::NotBase64 { section: 1 }),
            (b"hello".to_vec(), PemError::NotPem),
            (Vec::new(), PemError::NotPem),
            (key.clone().into(), missing("a private key only")),
        ] {
            assert_eq!(certificates_of(&file(bytes)).unwrap_err(), expected);
        }
        let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
        assert_eq!(private_key_of(&file(encrypted)).unwrap_err(), PemError::Encrypted);
        let swapped = private_key_of(&file(certificate)).unwrap_err();
        let found = "certificates only";
        assert_eq!(swapped, PemError::Missing { wanted: "private key", found });
    }
}
