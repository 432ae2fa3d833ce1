//! Request ids, which connect the response that a client received with the line in the access log.

use std::cell::Cell;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

/// Id of one request: 32 hexadecimal digits, or the id that a trusted proxy sent.
#[derive(Clone, Copy)]
pub(crate) struct RequestId {
    text: [u8; Self::MAX_LEN],
    length: u8,
}

impl RequestId {
    const MAX_LEN: usize = 64;

    pub(crate) fn as_str(&self) -> &str {
        let text = self.text.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }

    /// The 32 digits of a generated id.
    pub(crate) fn digits(&self) -> [u8; 32] {
        self.text.first_chunk().copied().unwrap_or([b'0'; 32])
    }

    /// Accepts the id of a trusted proxy if it is short and safe in logs and header fields.
    pub(crate) fn from_proxy(text: &[u8]) -> Option<Self> {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:=+/".contains(b);
        if text.is_empty() || text.len() > Self::MAX_LEN || !text.iter().all(plain) {
            return None;
        }
        let mut id = Self { text: [0; Self::MAX_LEN], length: u8::try_from(text.len()).ok()? };
        id.text.get_mut(..text.len())?.copy_from_slice(text);
        Some(id)
    }
}

/// Generator of request ids. They are unique but not secret.
pub(crate) struct RequestIds {
    seed: u64,
    count: Cell<u64>,
}

impl RequestIds {
    pub(crate) fn new() -> Self {
        let mut seed = [0; 8];
        // If the system has no random numbers, ids are still unique within the worker.
        let _ = SystemRandom::new().fill(&mut seed);
        Self { seed: u64::from_ne_bytes(seed), count: Cell::new(0) }
    }

    pub(crate) fn next(&self) -> RequestId {
        let count = self.count.get();
        self.count.set(count.wrapping_add(1));
        let halves =
            [mixed(self.seed.wrapping_add(count)), mixed(self.seed.rotate_left(32) ^ count)];
        let mut id = RequestId { text: [0; RequestId::MAX_LEN], length: 32 };
        for (index, digit) in id.text.iter_mut().take(32).enumerate() {
            let half = halves[index / 16];
            *digit = b"0123456789abcdef"[(half >> (60 - 4 * (index % 16)) & 15) as usize];
        }
        id
    }

    /// Span id for trace context. It changes with each call of [`RequestIds::next`].
    pub(crate) fn span(&self) -> u64 {
        mixed(self.seed.rotate_left(16) ^ self.count.get())
    }
}

/// The finalizer of splitmix64: a bijection, so different counts give different ids.
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_are_hexadecimal() {
        let ids = RequestIds::new();
        let (a, b) = (ids.next(), ids.next());
        assert_ne!(a.as_str(), b.as_str());
        assert!(a.as_str().len() == 32 && a.as_str().bytes().all(|b| b.is_ascii_hexdigit()));
    }

    #[test]
    fn foreign_ids_are_taken_only_if_harmless() {
        assert_eq!(RequestId::from_proxy(b"abc-1").unwrap().as_str(), "abc-1");
        for bad in [&b""[..], b"a b", b"a\"b", &[b'a'; 65]] {
            assert!(RequestId::from_proxy(bad).is_none());
        }
    }
}
