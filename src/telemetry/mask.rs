//! Masking of secrets in request targets and URLs for logs: credentials before a host, values of
//! secret parameters in query and path, and path segments listed in the configuration.

mod path;

use std::borrow::Cow;

use path::MaskPattern;

/// Replacement for a secret.
const STARS: &[u8] = b"***";

/// Limit for rounds of percent-decoding of a name; no known parser decodes more often.
const MAX_DECODED: usize = 3;

/// Names of parameters that contain credentials or tokens, by length; `-` also matches `_`.
///
/// `hub.verify_token` is Messenger's webhook secret, `sig` Viber's signature, and `sid` a Socket.IO
/// session, which can be read by anyone who knows the id. The others occur in URLs of known
/// components, clients, clouds and login systems.
const fn secrets(length: usize) -> &'static [&'static str] {
    match length {
        3 => &["sig", "sid", "jwt", "otp", "pwd", "key", "sas"],
        4 => &["auth", "code", "pass", "hmac", "totp"],
        5 => &["token"],
        6 => &["secret", "apikey", "ticket", "passwd", "bearer"],
        7 => &["api_key", "session"],
        8 => &["password", "id_token", "passcode"],
        9 => &["signature", "assertion", "sessionid", "authtoken"],
        10 => &["auth_token", "access_key", "session_id", "credential", "jsessionid", "passphrase"],
        11 => &["credentials", "private_key", "accesstoken", "secret_key"],
        12 => &["access_token", "samlresponse", "clientsecret"],
        13 => {
            &["client_secret", "refresh_token", "private_token", "code_verifier", "session_token"]
        }
        14 => &["security_token", "secret_api_key"],
        15 => &["x_amz_signature"],
        16 => &["hub.verify_token", "x_amz_credential", "client_assertion", "x_goog_signature"],
        17 => &["x_goog_credential"],
        20 => &["x_amz_security_token"],
        21 => &["x_goog_security_token"],
        _ => &[],
    }
}

/// Parameters and path segments to mask: a fixed list, and additions from the configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct QueryMask {
    /// Additional names of parameters.
    more: Vec<String>,
    /// Patterns of paths with secret segments.
    paths: Vec<MaskPattern>,
}

impl QueryMask {
    /// Creates a mask with additional names of parameters, and path patterns as in `mask-path`.
    #[must_use]
    pub fn new(more: &[String], paths: &[String]) -> Self {
        let paths = paths.iter().map(|pattern| MaskPattern::new(pattern)).collect();
        Self { more: more.to_vec(), paths }
    }

    /// Returns the target or URL with its secrets replaced by `***`.
    ///
    /// Names are compared percent-decoded and without case, so that `si%67=` is masked as well; so
    /// are `sig[]=` and `user[password]=`, and parameters after a `;`.
    #[must_use]
    pub fn masked<'a>(&self, target: &'a [u8]) -> Cow<'a, [u8]> {
        if self.paths.is_empty() && memchr::memchr3(b'?', b'@', b';', target).is_none() {
            return Cow::Borrowed(target);
        }
        let Parts { before, userinfo, authority, path, query } = Parts::of(target);
        let path_has_secrets = !self.paths.is_empty() || self.has_secret(path);
        if userinfo.is_empty() && !path_has_secrets && !self.has_secret(query) {
            return Cow::Borrowed(target);
        }
        let mut out = Vec::with_capacity(target.len() + STARS.len());
        out.extend_from_slice(before);
        if !userinfo.is_empty() {
            out.extend_from_slice(STARS);
            out.push(b'@');
        }
        out.extend_from_slice(authority);
        if path_has_secrets {
            for (slash, segment) in path::masked(path, &self.paths) {
                if slash {
                    out.push(b'/');
                }
                match segment {
                    Some(segment) => self.mask_parameters(segment, &mut out),
                    None => out.extend_from_slice(STARS),
                }
            }
        } else {
            out.extend_from_slice(path);
        }
        self.mask_parameters(query, &mut out);
        Cow::Owned(out)
    }

    fn has_secret(&self, text: &[u8]) -> bool {
        if memchr::memchr(b'=', text).is_none() {
            return false;
        }
        let mut parameters = text.split(|byte| is_separator(*byte));
        parameters.any(|parameter| self.secret(parameter).is_some())
    }

    /// Appends `text` with the values of secret parameters masked.
    fn mask_parameters(&self, text: &[u8], out: &mut Vec<u8>) {
        for part in text.split_inclusive(|byte| is_separator(*byte)) {
            let (parameter, separator) = match part.split_last() {
                Some((last, parameter)) if is_separator(*last) => (parameter, Some(*last)),
                _ => (part, None),
            };
            match self.secret(parameter) {
                Some(name) => {
                    out.extend_from_slice(name);
                    out.push(b'=');
                    out.extend_from_slice(STARS);
                }
                None => out.extend_from_slice(parameter),
            }
            out.extend(separator);
        }
    }

    /// Name, as written, of a parameter whose value is a secret or contains one.
    fn secret<'a>(&self, parameter: &'a [u8]) -> Option<&'a [u8]> {
        let (name, value) = parameter.split_at(memchr::memchr(b'=', parameter)?);
        let is_secret = self.is_secret_name(&decoded(name)) || self.holds_secret(value.get(1..)?);
        is_secret.then_some(name)
    }

    /// Returns `true` if a decoded name is secret, or a part of it as in `user[password]`.
    fn is_secret_name(&self, name: &[u8]) -> bool {
        let is_one = |name: &[u8]| {
            secrets(name.len()).iter().any(|secret| is_same(name, secret))
                || self.more.iter().any(|secret| is_same(name, secret))
        };
        is_one(name)
            || (memchr::memchr3(b'[', b']', b'.', name).is_some()
                && name.split(|byte| matches!(byte, b'[' | b']' | b'.')).any(is_one))
    }

    /// Returns `true` if a value is a URL or query with a secret parameter.
    fn holds_secret(&self, value: &[u8]) -> bool {
        // A parameter has an equals sign, perhaps percent-encoded, perhaps more than once.
        if memchr::memchr2(b'=', b'%', value).is_none() {
            return false;
        }
        let value = decoded(value);
        let mut parameters = value.split(|byte| is_separator(*byte));
        parameters.any(|parameter| {
            let name = memchr::memchr(b'=', parameter).and_then(|at| parameter.get(..at));
            name.is_some_and(|name| self.is_secret_name(name))
        })
    }
}

/// Returns `true` for separators of parameters in a query or path.
const fn is_separator(byte: u8) -> bool {
    matches!(byte, b'?' | b'&' | b';' | b'#')
}

/// Compares a name with that of a secret: without case, `-` equals `_`.
fn is_same(name: &[u8], secret: &str) -> bool {
    let plain = |byte: &u8| if *byte == b'-' { b'_' } else { byte.to_ascii_lowercase() };
    name.len() == secret.len() && name.iter().map(plain).eq(secret.as_bytes().iter().map(plain))
}

/// Parts of a request target or URL; concatenated they are the whole, with an `@` after `userinfo`.
struct Parts<'a> {
    /// The scheme with its `//`, if present.
    before: &'a [u8],
    /// User and password.
    userinfo: &'a [u8],
    /// Host and port.
    authority: &'a [u8],
    path: &'a [u8],
    /// The query with its `?`.
    query: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(target: &'a [u8]) -> Self {
        let end = target.iter().position(|byte| matches!(byte, b'?' | b'#'));
        let (front, query) = target.split_at(end.unwrap_or(target.len()));
        if front.starts_with(b"/") {
            return Self { before: b"", userinfo: b"", authority: b"", path: front, query };
        }
        let scheme = memchr::memmem::find(front, b"://").map_or(0, |at| at + 3);
        let (before, rest) = front.split_at(scheme);
        let slash = memchr::memchr(b'/', rest).unwrap_or(rest.len());
        let at = memchr::memrchr(b'@', rest.get(..slash).unwrap_or_default());
        // A password may contain a slash; the text before the slash is then not a host and port.
        let odd = || {
            let host = rest.get(..slash).unwrap_or_default();
            // Colons inside the brackets of an IPv6 address do not precede a port.
            let host =
                memchr::memrchr(b']', host).map_or(host, |end| host.get(end..).unwrap_or_default());
            let port = memchr::memchr(b':', host).and_then(|colon| host.get(colon + 1..));
            let is_port = port.is_none_or(|port| port.iter().all(u8::is_ascii_digit));
            if is_port { None } else { memchr::memrchr(b'@', rest) }
        };
        let (userinfo, rest) = match at.or_else(odd) {
            Some(at) => {
                (rest.get(..at).unwrap_or_default(), rest.get(at + 1..).unwrap_or_default())
            }
            None => (&b""[..], rest),
        };
        let slash = memchr::memchr(b'/', rest).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(slash);
        Self { before, userinfo, authority, path, query }
    }
}

/// Percent-decodes until nothing changes, up to the limit; malformed escapes stay.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    let mut text = Cow::Borrowed(text);
    for _ in 0..MAX_DECODED {
        if memchr::memchr(b'%', &text).is_none() {
            break;
        }
        let once = decoded_once(&text);
        if once == *text {
            break;
        }
        text = Cow::Owned(once);
    }
    text
}

fn decoded_once(text: &[u8]) -> Vec<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text);
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
    out
}

#[cfg(test)]
mod tests;
