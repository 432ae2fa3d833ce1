//! Public names of sessions. The id of a session is a credential, because anyone with the id can
//! read the chat; logs and reports use a hash of it.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

/// The first 64 bits of the SHA-256 of a session id. It is the same on every gateway, so log lines
/// of several gateways can be matched. The id cannot be recovered, because 120 of its bits are
/// random.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionKey(u64);

impl SessionKey {
    /// The key of a session id.
    #[must_use]
    pub fn of(sid: &[u8]) -> Self {
        let digest = digest(&SHA256, sid);
        Self(digest.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first)))
    }

    /// Parses the format of its `Display`: 16 hexadecimal digits.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_beginning_of_the_sha256() {
        let key = SessionKey::of(b"lv_VI97HAXpY6yYWAAAC");
        assert_eq!(key.to_string(), "64df2b1453cb93bf");
        assert_eq!(SessionKey::read("64df2b1453cb93bf"), Some(key));
        for no in ["", "lv_VI97HAXpY6yYWAAAC", "64df2b1453cb93b", "+4df2b1453cb93bf"] {
            assert_eq!(SessionKey::read(no), None, "{no}");
        }
    }
}
