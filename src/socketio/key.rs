//! What a session is called where others may read it. Its id is a credential: whoever has it can
//! read the chat.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

/// The first 64 bits of the SHA-256 of a session's id: the same in every gateway, so that lines of
/// two of them can be compared, and no way back to the id, of which 120 bits are random.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionKey(u64);

impl SessionKey {
    /// Of a session's id.
    #[must_use]
    pub fn of(sid: &[u8]) -> Self {
        let digest = digest(&SHA256, sid);
        Self(digest.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first)))
    }

    /// Reads what [`SessionKey`] shows: 16 hexadecimal digits.
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
    fn is_what_sha256sum_begins_with() {
        let key = SessionKey::of(b"lv_VI97HAXpY6yYWAAAC");
        assert_eq!(key.to_string(), "64df2b1453cb93bf");
        assert_eq!(SessionKey::read("64df2b1453cb93bf"), Some(key));
        for no in ["", "lv_VI97HAXpY6yYWAAAC", "64df2b1453cb93b", "+4df2b1453cb93bf"] {
            assert_eq!(SessionKey::read(no), None, "{no}");
        }
    }
}
