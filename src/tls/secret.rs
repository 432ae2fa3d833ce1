//! Shared secrets of several gateways, and keys derived from them.
//!
//! [`SharedSecrets`] is read from the bytes of a file with one or more secrets. Each derived key
//! has one purpose (HKDF with SHA-256, RFC 5869). The secrets themselves are not kept. They are
//! never displayed or logged, and compared only by a keyed hash.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::rand;

use crate::base64;
use crate::config::BYTE_ORDER_MARK;

/// Shortest secret, in bytes: the length of the keys derived from it.
const MIN_SECRET: usize = 32;

/// Largest file, in bytes, and largest number of secrets in it. A rotation needs two.
const MAX_SECRET_FILE: usize = 16 * 1024;
const MAX_SECRETS: usize = 8;

/// Smallest number of distinct bytes in a random secret. 32 random bytes have fewer once in 10^14.
const MIN_DISTINCT_BYTES: usize = 16;

/// Separates keys of this program from keys that other programs derive from the same bytes.
const SALT: &[u8] = b"app-gateway shared secret 1";

/// One or more secrets. The first creates new keys, all verify existing data.
#[derive(Clone)]
pub struct SharedSecrets(Vec<Prk>);

/// Reason a file of secrets cannot be used. Contains numbers only, and no text of the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SecretError {
    /// The file is too large.
    #[error("it is larger than {MAX_SECRET_FILE} bytes")]
    TooLarge,
    /// The file has no secret.
    #[error("there is no secret in it")]
    Empty,
    /// The file has too many secrets.
    #[error("there are {count} secrets in it; at most {MAX_SECRETS} are allowed")]
    TooMany {
        /// Number of secrets.
        count: usize,
    },
    /// A line is in another encoding.
    #[error("line {line} is neither base64 nor hexadecimal digits")]
    NotText {
        /// Number of the line, from 1.
        line: usize,
    },
    /// A secret is too short.
    #[error("{at} has {length} bytes; at least {MIN_SECRET} are required")]
    TooShort {
        /// Location of the secret.
        at: At,
        /// Length of the secret, in bytes.
        length: usize,
    },
    /// A secret has too few distinct bytes.
    #[error("{at} is not random")]
    NotRandom {
        /// Location of the secret.
        at: At,
    },
}

/// Location of a secret: the number of its line, from 1, or `None` for a file that is one secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct At(Option<usize>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(line) => write!(f, "line {line}"),
            None => f.write_str("it"),
        }
    }
}

impl fmt::Debug for SharedSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl SharedSecrets {
    /// Parses the contents of a file. A text file has one secret per line, in base64 or hexadecimal
    /// digits; empty lines and comments (`#`) are skipped. Any other file is one secret of raw
    /// bytes. A line that could be both encodings is parsed as hexadecimal digits.
    ///
    /// # Errors
    ///
    /// [`SecretError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SecretError> {
        if bytes.len() > MAX_SECRET_FILE {
            return Err(SecretError::TooLarge);
        }
        let unmarked = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        let text = unmarked.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace());
        if !text {
            return check(bytes, None).map(|prk| Self(vec![prk]));
        }
        let bytes = unmarked;
        let lines = bytes.split(|byte| *byte == b'\n').enumerate();
        let lines = lines.map(|(index, line)| (index + 1, line.trim_ascii()));
        let mut all = Vec::new();
        for (number, line) in lines.filter(|(_, l)| !l.is_empty() && !l.starts_with(b"#")) {
            let secret = from_hex(line)
                .or_else(|| base64::decode(line))
                .ok_or(SecretError::NotText { line: number })?;
            all.push(check(&secret, Some(number))?);
        }
        match all.len() {
            0 => Err(SecretError::Empty),
            1..=MAX_SECRETS => Ok(Self(all)),
            count => Err(SecretError::TooMany { count }),
        }
    }

    /// Generates a new secret, as a line for such a file.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn random_line() -> Result<String, String> {
        Ok(base64::encode(&random()?))
    }

    /// Derives a key for a purpose from the first secret. For `context` see [`Self::keys`].
    #[must_use]
    pub fn key(&self, purpose: &str, context: &[&[u8]]) -> [u8; 32] {
        self.keys(purpose, context).next().unwrap_or_default()
    }

    /// Derives a key for a purpose from each secret, the first secret's first. `context` further
    /// distinguishes keys; each of its parts has a fixed length.
    pub fn keys<'a>(
        &'a self,
        purpose: &'a str,
        context: &'a [&'a [u8]],
    ) -> impl Iterator<Item = [u8; 32]> + 'a {
        self.0.iter().map(move |secret| expand(secret, purpose, context))
    }
}

/// Generates 32 random bytes.
///
/// # Errors
///
/// The system has no random numbers.
pub(super) fn random() -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| "the system has no random numbers".to_owned())?;
    Ok(bytes)
}

/// Derives a key for a purpose from a random key.
pub(super) fn derived(from: &[u8; 32], purpose: &str, context: &[&[u8]]) -> [u8; 32] {
    expand(&Prk::new_less_safe(HKDF_SHA256, from), purpose, context)
}

fn expand(secret: &Prk, purpose: &str, context: &[&[u8]]) -> [u8; 32] {
    let mut parts = vec![purpose.as_bytes(), &[0]];
    parts.extend(context);
    let mut key = [0; 32];
    // Cannot fail: HKDF provides up to 255 times as much.
    let filled = secret.expand(&parts, HKDF_SHA256).and_then(|okm| okm.fill(&mut key));
    debug_assert!(filled.is_ok());
    key
}

/// Checks the quality of a secret. `line` is the number of its line, or `None` for the whole file.
fn check(secret: &[u8], line: Option<usize>) -> Result<Prk, SecretError> {
    if secret.len() < MIN_SECRET {
        return Err(SecretError::TooShort { at: At(line), length: secret.len() });
    }
    let mut seen = [false; 256];
    for byte in secret {
        seen[usize::from(*byte)] = true;
    }
    if seen.iter().filter(|seen| **seen).count() < MIN_DISTINCT_BYTES {
        return Err(SecretError::NotRandom { at: At(line) });
    }
    Ok(Salt::new(HKDF_SHA256, SALT).extract(secret))
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.chunks_exact(2).map(|pair| match *pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: [u8; 32] = *b"\x01\x82\x03\x84\x05\x86\x07\x88\x09\x8a\x0b\x8c\x0d\x8e\x0f\x90\x11\x92\x13\x94\x15\x96\x17\x98\x19\x9a\x1b\x9c\x1d\x9e\x1f\xa0";

    fn key(bytes: &[u8]) -> [u8; 32] {
        SharedSecrets::parse(bytes).unwrap().key("test", &[])
    }

    #[test]
    fn a_secret_may_have_three_encodings() {
        let hex = crate::units::display_hex(&BYTES);
        let text = base64::encode(&BYTES);
        assert_eq!(key(&BYTES), key(hex.as_bytes()));
        assert_eq!(key(&BYTES), key(hex.to_uppercase().as_bytes()));
        assert_eq!(key(&BYTES), key(text.as_bytes()));
        assert_eq!(key(&BYTES), key(format!("\u{feff}{text}\n").as_bytes()));
        assert_eq!(key(&BYTES), key(format!("# of both gateways\r\n\r\n  {text}\r\n").as_bytes()));
    }

    #[test]
    fn the_first_secret_creates_new_keys() {
        let (one, two) =
            (SharedSecrets::random_line().unwrap(), SharedSecrets::random_line().unwrap());
        let both = SharedSecrets::parse(format!("{one}\n{two}\n").as_bytes()).unwrap();
        assert_eq!(both.key("x", &[]), key_of(&one, "x"));
        assert_eq!(both.keys("x", &[]).collect::<Vec<_>>(), [key_of(&one, "x"), key_of(&two, "x")]);
        assert_ne!(both.key("x", &[]), both.key("y", &[]));
        assert_ne!(both.key("x", &[&[1]]), both.key("x", &[&[2]]));
    }

    fn key_of(line: &str, purpose: &str) -> [u8; 32] {
        SharedSecrets::parse(line.as_bytes()).unwrap().key(purpose, &[])
    }

    #[test]
    fn invalid_secrets_are_rejected_and_not_quoted() {
        let many = format!("{}\n", base64::encode(&BYTES)).repeat(9);
        for (text, said) in [
            ("", "there is no secret in it"),
            ("# only a comment\n", "there is no secret in it"),
            ("correct horse battery staple!", "line 1 is neither base64 nor hexadecimal digits"),
            ("\nc2hvcnQ=", "line 2 has 5 bytes; at least 32 are required"),
            (&"0".repeat(64), "line 1 is not random"),
            (many.as_str(), "there are 9 secrets in it; at most 8 are allowed"),
        ] {
            assert_eq!(SharedSecrets::parse(text.as_bytes()).unwrap_err().to_string(), said);
        }
        let said = |bytes: &[u8]| SharedSecrets::parse(bytes).unwrap_err().to_string();
        assert_eq!(said(&[0xff; 31]), "it has 31 bytes; at least 32 are required");
        assert_eq!(said(&[0xff; 32]), "it is not random");
        assert!(SharedSecrets::parse(&vec![b'\n'; MAX_SECRET_FILE + 1]).is_err());
        assert_eq!(format!("{:?}", SharedSecrets::parse(&BYTES).unwrap()), "1 secrets");
    }
}
