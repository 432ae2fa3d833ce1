//! Contents of files that may hold secrets: private keys, certificate chains and CA files (which
//! people concatenate with keys), password files, credentials, shared secrets.
//!
//! No text of a [`SecretFile`] can reach a log line, a report or an error.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::read;

/// Largest file read, in bytes. The CA bundle of a Linux distribution has a quarter of a MiB.
const MAX_FILE_SIZE: u64 = 16 << 20;

/// The byte order mark in UTF-8, which Windows editors put before the text.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The bytes of a file that may hold secrets. They cannot be formatted, compared or copied; parsers
/// take them with [`SecretFile::expose`], and report errors of types that have no room for text.
///
/// ```compile_fail
/// fn show(file: &app_gateway::config::SecretFile) -> String {
///     format!("{file:?}")
/// }
/// ```
///
/// ```compile_fail
/// fn show(file: &app_gateway::config::SecretFile) -> String {
///     format!("{file}")
/// }
/// ```
pub struct SecretFile(Vec<u8>);

impl SecretFile {
    /// Reads a file of up to 16 MiB. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// The reason in words, without the path and without a byte of the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes))
            .map_err(|error: io::Error| read::reason(&error))?;
        if bytes.len() as u64 > MAX_FILE_SIZE {
            return Err("it is larger than 16 MiB".to_owned());
        }
        Ok(Self(bytes))
    }

    /// The bytes, for a parser.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The text without a byte order mark, for a parser.
    ///
    /// # Errors
    ///
    /// The encoding is not UTF-8.
    pub fn expose_text(&self) -> Result<&str, &'static str> {
        if self.0.starts_with(b"\xff\xfe") || self.0.starts_with(b"\xfe\xff") {
            return Err("it is text in UTF-16: save it as UTF-8");
        }
        let bytes = self.0.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.0);
        std::str::from_utf8(bytes).map_err(|_| "it is not text in UTF-8")
    }
}

impl From<Vec<u8>> for SecretFile {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_file_and_says_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        assert_eq!(SecretFile::read(&path).err().unwrap(), "it does not exist");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(SecretFile::read(&path).ok().unwrap().expose(), b"abc");
        File::options().write(true).open(&path).unwrap().set_len(MAX_FILE_SIZE + 1).unwrap();
        assert_eq!(SecretFile::read(&path).err().unwrap(), "it is larger than 16 MiB");
    }
}
