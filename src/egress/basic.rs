//! `Proxy-Authorization: Basic` (RFC 7617).

use std::fmt;

/// Longest credentials, decoded, in bytes.
const LONGEST: usize = 1024;

/// What a client says it is called, and how it proves it. Not verified.
#[derive(Clone, Eq, PartialEq)]
pub struct Basic {
    /// The user.
    pub user: String,
    /// The password, in the bytes the client sent.
    pub password: Vec<u8>,
}

impl Basic {
    /// Reads the value of the field; `None` if it is anything else.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (scheme, rest) = value.split_at_checked(5)?;
        let text = rest.strip_prefix(b" ").filter(|_| scheme.eq_ignore_ascii_case(b"basic"))?;
        let decoded = base64(text.trim_ascii())?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let (user, password) = decoded.split_at(colon);
        let user = std::str::from_utf8(user).ok()?;
        if user.is_empty() || user.chars().any(char::is_control) {
            return None;
        }
        Some(Self { user: user.to_owned(), password: password.get(1..)?.to_vec() })
    }
}

impl Basic {
    /// The value of the field, to log in with.
    #[must_use]
    pub fn to_field(&self) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let pair = [self.user.as_bytes(), b":", &self.password].concat();
        let mut field = String::from("Basic ");
        for group in pair.chunks(3) {
            let bits = group.iter().fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte));
            let bits = bits << (8 * (3 - group.len()));
            for place in 0..4 {
                let digit = DIGITS.get((bits >> (18 - 6 * place)) as usize & 63);
                let digit = digit.filter(|_| place <= group.len());
                field.push(digit.map_or('=', |digit| char::from(*digit)));
            }
        }
        field
    }
}

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Basic").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Decodes standard base64, padded or not (RFC 4648 section 4).
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = text.get(..text.len() - padding)?;
    let padded = padding == 0 || padding <= 2 && text.len().is_multiple_of(4);
    if !padded || digits.len() % 4 == 1 || digits.len() > LONGEST / 3 * 4 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let mut bits = 0_u32;
        for byte in group {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = (bits << 6) | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        out.extend(bits.to_be_bytes().into_iter().skip(1).take(group.len() - 1));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(value: &str) -> Option<(String, String)> {
        let basic = Basic::parse(value.as_bytes())?;
        Some((basic.user, String::from_utf8(basic.password).unwrap()))
    }

    #[test]
    fn reads_what_clients_send() {
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        // The example of RFC 7617 section 2.
        let value = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
        assert_eq!(read(value), pair("Aladdin", "open sesame"));
        assert_eq!(read("basic QWxhZGRpbjpvcGVuIHNlc2FtZQ"), pair("Aladdin", "open sesame"));
        assert_eq!(read("BASIC  YTo= "), pair("a", ""));
        assert_eq!(read("Basic YTpiOmM="), pair("a", "b:c"));
        assert_eq!(read("Basic dGVzdDoxMjPCow=="), pair("test", "123£"));
    }

    #[test]
    fn what_is_sent_can_be_read() {
        for (user, password) in [("Aladdin", "open sesame"), ("a", ""), ("a", "b:c"), ("ab", "c£")]
        {
            let basic = Basic { user: user.to_owned(), password: password.as_bytes().to_vec() };
            assert_eq!(Basic::parse(basic.to_field().as_bytes()), Some(basic));
        }
        let basic = Basic { user: "Aladdin".to_owned(), password: b"open sesame".to_vec() };
        assert_eq!(basic.to_field(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn refuses_everything_else() {
        for value in [
            "",
            "Basic",
            "Basic ",
            "Bearer YTpi",
            "BasicYTpi",
            "Basic YWI=",
            "Basic OmI=",
            "Basic YTpi=",
            "Basic YQ===",
            "Basic Y",
            "Basic YT pi",
            "Basic YTpi-",
            "Basic Cjpi",
        ] {
            assert_eq!(read(value), None, "{value}");
        }
        assert_eq!(read(&format!("Basic {}", "YTpi".repeat(1000))), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Basic::parse(&bytes);
            let _ = Basic::parse(&[b"Basic ", bytes.as_slice()].concat());
        }

        #[test]
        fn any_pair_comes_through(user in "[^:\\pC]{1,20}", password in proptest::collection::vec(any::<u8>(), 0..50)) {
            let basic = Basic { user, password };
            prop_assert_eq!(Basic::parse(basic.to_field().as_bytes()), Some(basic));
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let basic = Basic::parse(b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==").unwrap();
        assert!(
            !format!("{basic:?}").contains("sesame") && format!("{basic:?}").contains("Aladdin")
        );
    }
}
