//! `Proxy-Authorization: Basic` (RFC 7617).

use std::fmt;

use crate::base64;

/// Longest credentials, decoded, in bytes.
const MAX_CREDENTIALS: usize = 1024;

/// User name and password of HTTP Basic authentication, not verified.
#[derive(Clone, Eq, PartialEq)]
pub struct BasicCredentials {
    /// The user.
    pub user: String,
    /// The password, in the bytes the client sent.
    pub password: Vec<u8>,
}

impl BasicCredentials {
    /// Parses the value of the field. `None` if it is anything else.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (scheme, rest) = value.split_at_checked(5)?;
        let text = rest.strip_prefix(b" ").filter(|_| scheme.eq_ignore_ascii_case(b"basic"))?;
        let text = text.trim_ascii();
        let digits = text.iter().rev().skip_while(|byte| **byte == b'=').count();
        if digits > MAX_CREDENTIALS / 3 * 4 {
            return None;
        }
        let decoded = base64::decode(text)?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let (user, password) = decoded.split_at(colon);
        let user = std::str::from_utf8(user).ok()?;
        if user.is_empty() || user.chars().any(char::is_control) {
            return None;
        }
        Some(Self { user: user.to_owned(), password: password.get(1..)?.to_vec() })
    }
}

impl BasicCredentials {
    /// Formats the value of the field.
    #[must_use]
    pub fn to_field(&self) -> String {
        let pair = [self.user.as_bytes(), b":", &self.password].concat();
        format!("Basic {}", base64::encode(&pair))
    }
}

impl fmt::Debug for BasicCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Basic").field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(value: &str) -> Option<(String, String)> {
        let basic = BasicCredentials::parse(value.as_bytes())?;
        Some((basic.user, String::from_utf8(basic.password).unwrap()))
    }

    #[test]
    fn credentials_of_clients_are_parsed() {
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
    fn formatted_credentials_can_be_parsed() {
        for (user, password) in [("Aladdin", "open sesame"), ("a", ""), ("a", "b:c"), ("ab", "c£")]
        {
            let basic =
                BasicCredentials { user: user.to_owned(), password: password.as_bytes().to_vec() };
            assert_eq!(BasicCredentials::parse(basic.to_field().as_bytes()), Some(basic));
        }
        let basic =
            BasicCredentials { user: "Aladdin".to_owned(), password: b"open sesame".to_vec() };
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
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = BasicCredentials::parse(&bytes);
            let _ = BasicCredentials::parse(&[b"Basic ", bytes.as_slice()].concat());
        }

        #[test]
        fn any_credentials_can_be_formatted_and_parsed(user in "[^:\\pC]{1,20}", password in proptest::collection::vec(any::<u8>(), 0..50)) {
            let basic = BasicCredentials { user, password };
            prop_assert_eq!(BasicCredentials::parse(basic.to_field().as_bytes()), Some(basic));
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let basic = BasicCredentials::parse(b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==").unwrap();
        assert!(
            !format!("{basic:?}").contains("sesame") && format!("{basic:?}").contains("Aladdin")
        );
    }
}
