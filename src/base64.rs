//! Base64 with the standard alphabet (RFC 4648 section 4), as clients and operators write it.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, PAD};

const PADDED: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, PAD.with_decode_allow_trailing_bits(true));
const UNPADDED: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, NO_PAD.with_decode_allow_trailing_bits(true));

/// Encodes `bytes`, with padding.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    PADDED.encode(bytes)
}

/// Decodes text with all of its padding or none; `None` if it is not base64. Excess bits at the end
/// are ignored.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if text.ends_with(b"=") { PADDED.decode(text).ok() } else { UNPADDED.decode(text).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_examples_of_rfc_4648() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text.as_bytes()).unwrap(), bytes.as_bytes());
            assert_eq!(decode(text.trim_end_matches('=').as_bytes()).unwrap(), bytes.as_bytes());
        }
        for bad in ["Z", "Zg=", "Zg===", "Z-==", "Zm9v=", "=", "Zg==Zg=="] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
