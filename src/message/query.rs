//! Masks secrets in a query string, for logs.

use std::borrow::Cow;

/// Parameters whose values are credentials or stand in for them.
///
/// `hub.verify_token` is Messenger's webhook secret, `sig` Viber's signature; the others are what
/// components and their clients are known to put into URLs.
const SECRET: &[&str] = &[
    "hub.verify_token",
    "sig",
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

/// The target with the values of secret parameters replaced by `***`.
///
/// Names are compared percent-decoded and in any case, so that `si%67=` is masked as well.
#[must_use]
pub fn masked(target: &str) -> Cow<'_, str> {
    let Some((path, query)) = target.split_once('?') else { return Cow::Borrowed(target) };
    if !query.split('&').any(is_secret) {
        return Cow::Borrowed(target);
    }
    let mut out = String::with_capacity(target.len());
    out.push_str(path);
    for (index, parameter) in query.split('&').enumerate() {
        out.push(if index == 0 { '?' } else { '&' });
        if is_secret(parameter) {
            out.push_str(parameter.split('=').next().unwrap_or_default());
            out.push_str("=***");
        } else {
            out.push_str(parameter);
        }
    }
    Cow::Owned(out)
}

fn is_secret(parameter: &str) -> bool {
    let Some((name, _)) = parameter.split_once('=') else { return false };
    if name.contains('%') {
        let decoded = super::path::decode(name.as_bytes());
        return SECRET.iter().any(|s| decoded.eq_ignore_ascii_case(s.as_bytes()));
    }
    SECRET.iter().any(|s| name.eq_ignore_ascii_case(s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_secrets_and_nothing_else() {
        assert_eq!(masked("/a?b=c"), "/a?b=c");
        assert_eq!(
            masked("/ccm/webhook?hub.mode=subscribe&hub.verify_token=s3cr3t&hub.challenge=1"),
            "/ccm/webhook?hub.mode=subscribe&hub.verify_token=***&hub.challenge=1"
        );
        assert_eq!(masked("/r?SI%67=abc"), "/r?SI%67=***");
        assert_eq!(masked("/sig=abc"), "/sig=abc");
        assert_eq!(masked("/a?sig"), "/a?sig");
    }
}
