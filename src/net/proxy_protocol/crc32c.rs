//! CRC-32C, the checksum of version 2 (section 2.2.3; RFC 4960 appendix B).
//!
//! Headers are short and occur once per connection, so a table of 1 KiB is fast enough.

/// The Castagnoli polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < table.len() {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut value = at as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        table[at] = value;
        at += 1;
    }
    table
};

/// The checksum of the concatenated parts.
pub(super) fn checksum(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    !bytes.fold(u32::MAX, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        (crc >> 8) ^ TABLE[usize::from(low ^ byte)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 3720 appendix B.4.
    #[test]
    fn checksums_match_the_published_examples() {
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(checksum(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(checksum(&[&[0xff; 32]]), 0x62a8_ab43);
        assert_eq!(checksum(&[&ascending]), 0x46dd_794e);
        assert_eq!(checksum(&[b"1234", b"", b"56789"]), 0xe306_9283);
    }
}
