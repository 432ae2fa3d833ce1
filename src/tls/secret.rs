//! The secret that gateways share: read from its file, and what is derived from it.
//!
//! In: the bytes of a file, with one secret or several. Out: keys, each for one purpose, by HKDF
//! with SHA-256 (RFC 5869). The bytes themselves are not kept. Never: shown, logged or compared
//! with anything but by a keyed hash.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::rand;

use crate::base64;
use crate::config::BYTE_ORDER_MARK;

/// Shortest secret, in bytes: as much as what is derived from it.
const MIN_SECRET: usize = 32;

/// Largest file, in bytes, and most secrets in it. A rotation needs two.
const MAX_SECRET_FILE: usize = 16 * 1024;
const MAX_SECRETS: usize = 8;

/// Different bytes that a random secret has at least: 32 random bytes have fewer than this once in
/// 10^14.
const MIN_DISTINCT_BYTES: usize = 16;

/// Sets what is derived here apart from what others derive from the same bytes.
const SALT: &[u8] = b"app-gateway shared secret 1";

/// One secret or several; the first is used for everything new, all for what is already there.
#[derive(Clone)]
pub struct SharedSecrets(Vec<Prk>);

/// Reason a file of secrets cannot be used. Holds numbers only, and no text of the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SecretError {
    /// Larger than a file of secrets can be.
    #[error("it is larger than {MAX_SECRET_FILE} bytes")]
    TooLarge,
    /// Nothing but comments.
    #[error("there is no secret in it")]
    Empty,
    /// More secrets than a rotation needs.
    #[error("there are {count} secrets in it; {MAX_SECRETS} are the most")]
    TooMany {
        /// Number of secrets.
        count: usize,
    },
    /// A line in another encoding.
    #[error("line {line} is neither base64 nor hexadecimal digits")]
    NotText {
        /// Number of the line, from 1.
        line: usize,
    },
    /// Too few bytes.
    #[error("{at} has {length} bytes; {MIN_SECRET} are the least")]
    TooShort {
        /// Its line.
        at: At,
        /// Its length in bytes.
        length: usize,
    },
    /// Too few different bytes.
    #[error("{at} is not random")]
    NotRandom {
        /// Its line.
        at: At,
    },
}

/// Number of a line, from 1; `None` for a file that is one secret.
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
    /// Reads the contents of a file: lines of base64 or hexadecimal digits, empty ones and comments
    /// (`#`) aside; or, if it is no text, one secret of raw bytes. What could be both is taken for
    /// hexadecimal digits.
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
            return judged(bytes, None).map(|prk| Self(vec![prk]));
        }
        let bytes = unmarked;
        let lines = bytes.split(|byte| *byte == b'\n').enumerate();
        let lines = lines.map(|(index, line)| (index + 1, line.trim_ascii()));
        let mut all = Vec::new();
        for (number, line) in lines.filter(|(_, l)| !l.is_empty() && !l.starts_with(b"#")) {
            let secret = from_hex(line)
                .or_else(|| base64::decode(line))
                .ok_or(SecretError::NotText { line: number })?;
            all.push(judged(&secret, Some(number))?);
        }
        match all.len() {
            0 => Err(SecretError::Empty),
            1..=MAX_SECRETS => Ok(Self(all)),
            count => Err(SecretError::TooMany { count }),
        }
    }

    /// A new secret, as a line for such a file.
    ///
    /// # Errors
    ///
    /// If the system has no random numbers.
    pub fn random_line() -> Result<String, String> {
        Ok(base64::encode(&random()?))
    }

    /// The key of the first secret for a purpose.
    #[must_use]
    pub fn key(&self, purpose: &str, of: &[&[u8]]) -> [u8; 32] {
        self.keys(purpose, of).next().unwrap_or_default()
    }

    /// The keys of all secrets for a purpose, the first secret's first. `of`: what else tells keys
    /// apart; each part has a fixed length.
    pub fn keys<'a>(
        &'a self,
        purpose: &'a str,
        of: &'a [&'a [u8]],
    ) -> impl Iterator<Item = [u8; 32]> + 'a {
        self.0.iter().map(move |secret| expand(secret, purpose, of))
    }
}

/// 32 random bytes.
///
/// # Errors
///
/// If the system has none.
pub(super) fn random() -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| "the system has no random numbers".to_owned())?;
    Ok(bytes)
}

/// A key for a purpose from one that is already random.
pub(super) fn derived(from: &[u8; 32], purpose: &str, of: &[&[u8]]) -> [u8; 32] {
    expand(&Prk::new_less_safe(HKDF_SHA256, from), purpose, of)
}

fn expand(secret: &Prk, purpose: &str, of: &[&[u8]]) -> [u8; 32] {
    let mut parts = vec![purpose.as_bytes(), &[0]];
    parts.extend(of);
    let mut key = [0; 32];
    // Cannot fail: HKDF gives up to 255 times as much.
    let filled = secret.expand(&parts, HKDF_SHA256).and_then(|okm| okm.fill(&mut key));
    debug_assert!(filled.is_ok());
    key
}

/// `line`: the number of its line; `None` if it is the whole file.
fn judged(secret: &[u8], line: Option<usize>) -> Result<Prk, SecretError> {
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
    fn one_secret_may_be_written_in_three_ways() {
        let hex = crate::units::display_hex(&BYTES);
        let text = base64::encode(&BYTES);
        assert_eq!(key(&BYTES), key(hex.as_bytes()));
        assert_eq!(key(&BYTES), key(hex.to_uppercase().as_bytes()));
        assert_eq!(key(&BYTES), key(text.as_bytes()));
        assert_eq!(key(&BYTES), key(format!("\u{feff}{text}\n").as_bytes()));
        assert_eq!(key(&BYTES), key(format!("# of both sites\r\n\r\n  {text}\r\n").as_bytes()));
    }

    #[test]
    fn the_first_is_for_what_is_new() {
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
    fn what_is_no_secret_is_refused_and_not_repeated() {
        let many = format!("{}\n", base64::encode(&BYTES)).repeat(9);
        for (text, said) in [
            ("", "there is no secret in it"),
            ("# only a comment\n", "there is no secret in it"),
            ("correct horse battery staple!", "line 1 is neither base64 nor hexadecimal digits"),
            ("\nc2hvcnQ=", "line 2 has 5 bytes; 32 are the least"),
            (&"0".repeat(64), "line 1 is not random"),
            (many.as_str(), "there are 9 secrets in it; 8 are the most"),
        ] {
            assert_eq!(SharedSecrets::parse(text.as_bytes()).unwrap_err().to_string(), said);
        }
        let said = |bytes: &[u8]| SharedSecrets::parse(bytes).unwrap_err().to_string();
        assert_eq!(said(&[0xff; 31]), "it has 31 bytes; 32 are the least");
        assert_eq!(said(&[0xff; 32]), "it is not random");
        assert!(SharedSecrets::parse(&vec![b'\n'; MAX_SECRET_FILE + 1]).is_err());
        assert_eq!(format!("{:?}", SharedSecrets::parse(&BYTES).unwrap()), "1 secrets");
    }
}
