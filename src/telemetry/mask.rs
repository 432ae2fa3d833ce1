//! Masks secrets in a query string, for logs.

use std::borrow::Cow;

/// Parameters whose values are credentials or stand in for them.
///
/// `hub.verify_token` is Messenger's webhook secret, `sig` Viber's signature, `sid` a Socket.IO session,
/// which whoever has it can read; the others are what components and their clients are known to put
/// into URLs.
const SECRET: &[&str] = &[
    "hub.verify_token",
    "sig",
    "sid",
    "signature",
    "token",
    "access_token",
    "auth_token",
    "id_token",
    "refresh_token",
    "code",
    "password",
    "passwd",
    "pwd",
    "secret",
    "client_secret",
    "api_key",
    "apikey",
    "key",
];

/// What is masked: what always is, and what the operator adds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mask {
    more: Vec<String>,
}

impl Mask {
    /// With further names of parameters.
    #[must_use]
    pub fn new(more: &[String]) -> Self {
        Self { more: more.to_vec() }
    }

    /// The target or URL with the values of secret parameters replaced by `***`.
    ///
    /// Names are compared percent-decoded and in any case, so that `si%67=` is masked as well.
    #[must_use]
    pub fn masked<'a>(&self, target: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(mark) = memchr::memchr(b'?', target) else { return Cow::Borrowed(target) };
        let (path, query) = target.split_at(mark + 1);
        let mut parameters = query.split(|b| *b == b'&');
        if !parameters.any(|parameter| self.secret(parameter).is_some()) {
            return Cow::Borrowed(target);
        }
        let mut out = Vec::with_capacity(target.len());
        out.extend_from_slice(path);
        for (index, parameter) in query.split(|b| *b == b'&').enumerate() {
            if index > 0 {
                out.push(b'&');
            }
            match self.secret(parameter) {
                Some(name) => {
                    out.extend_from_slice(name);
                    out.extend_from_slice(b"=***");
                }
                None => out.extend_from_slice(parameter),
            }
        }
        Cow::Owned(out)
    }

    /// The name of a parameter whose value is a secret, as it is written.
    fn secret<'a>(&self, parameter: &'a [u8]) -> Option<&'a [u8]> {
        let name = parameter.get(..memchr::memchr(b'=', parameter)?)?;
        let decoded = decoded(name);
        let is = |secret: &str| decoded.eq_ignore_ascii_case(secret.as_bytes());
        let known = SECRET.iter().any(|secret| is(secret));
        (known || self.more.iter().any(|secret| is(secret))).then_some(name)
    }
}

/// Percent-decodes; malformed escapes stay as they are.
fn decoded(name: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', name).is_none() {
        return Cow::Borrowed(name);
    }
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (mut out, mut rest) = (Vec::with_capacity(name.len()), name);
    while let [first, tail @ ..] = rest {
        let escape = match rest {
            [b'%', high, low, ..] => digit(*high).zip(digit(*low)),
            _ => None,
        };
        if let Some((high, low)) = escape {
            out.push(high << 4 | low);
            rest = rest.get(3..).unwrap_or_default();
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(target: &str) -> String {
        let masked = Mask::new(&["Session".to_owned()]).masked(target.as_bytes()).into_owned();
        String::from_utf8(masked).unwrap()
    }

    #[test]
    fn masks_secrets_and_nothing_else() {
        for (target, expected) in [
            ("/a?b=c", "/a?b=c"),
            (
                "/ccm/webhook?hub.mode=subscribe&hub.verify_token=s3cr3t&hub.challenge=1",
                "/ccm/webhook?hub.mode=subscribe&hub.verify_token=***&hub.challenge=1",
            ),
            ("/r?SI%67=abc", "/r?SI%67=***"),
            ("/sig=abc", "/sig=abc"),
            ("/a?sig", "/a?sig"),
            ("/a?x=1&&token=a=b&", "/a?x=1&&token=***&"),
            ("https://a.example/?token=b", "https://a.example/?token=***"),
        ] {
            assert_eq!(masked(target), expected);
        }
    }

    #[test]
    fn masks_what_the_operator_adds() {
        assert_eq!(masked("/a?session=1&sessions=2"), "/a?session=***&sessions=2");
    }
}
