//! Host, origin and token checks of the admin listener.
//!
//! Web pages must not be able to use the admin listener through a browser, either with a name that
//! resolves to this host (DNS rebinding) or with cross-site requests (CSRF). Users of this host
//! other than root and the gateway's own user must not be able to stop or reload the gateway.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, HeaderValue, header};

use crate::config::Config;
use crate::message::host;

/// Shortest token, in bytes.
const MIN_TOKEN_LENGTH: usize = 32;
/// Largest token file, in bytes.
const MAX_TOKEN_FILE: u64 = 4096;

/// Answer to a request whose `Host` is not this gateway's.
pub(super) const WRONG_HOST: &str = "the Host of this request is not accepted: use localhost, an address or \
    this host's name, or add the name to `hosts` in [admin]\n";

/// Response to a cross-site request.
pub(super) const WRONG_ORIGIN: &str = "this request comes from a page of another site\n";

/// Whether the `Host` of a request, if it has one, names this gateway. Browsers always send one.
pub(super) fn is_known_host(headers: &HeaderMap, config: Option<&Config>) -> bool {
    !headers.contains_key(header::HOST) || names_gateway(headers, config)
}

/// Whether the `Host` of a request names this gateway: an address, which cannot be made to lead
/// elsewhere, `localhost`, the system's name, or one of `hosts` in `[admin]`.
pub(super) fn names_gateway(headers: &HeaderMap, config: Option<&Config>) -> bool {
    let mut fields = headers.get_all(header::HOST).iter();
    let (Some(named), None) = (fields.next(), fields.next()) else { return false };
    let Some(authority) = host::parse(named.as_bytes()) else { return false };
    let name = authority.host;
    if name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok() {
        return true;
    }
    let system = rustix::system::uname();
    let configured = config.and_then(|config| config.admin.as_ref());
    let hosts = configured.map(|admin| admin.hosts.as_slice()).unwrap_or_default();
    system.nodename().to_str().is_ok_and(|system| name.eq_ignore_ascii_case(system))
        || hosts.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Whether a request comes from no page at all, or from one of this gateway.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return true };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
    let same = origin.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host));
    same && origins.next().is_none()
}

/// Checks the token of a request against `token-file`. Blocks while it reads the file.
///
/// # Errors
///
/// The reason of the rejection, in a sentence for the client. Faults of the file go to the log.
pub(super) fn check_token(
    file: Option<&PathBuf>,
    given: Option<&HeaderValue>,
) -> Result<(), String> {
    let way_out = "over TCP this needs a token (`token-file` in [admin], sent as `Authorization: Bearer TOKEN`); \
                   commands of app-gateway use the admin socket instead";
    let Some(file) = file else {
        return Err(format!("no token is configured: {way_out}"));
    };
    let token = read_token(file).map_err(|error| {
        tracing::warn!("the admin token {} cannot be used: {error}", file.display());
        "the token file cannot be used; the log has the reason".to_owned()
    })?;
    let given = given.and_then(|field| field.to_str().ok()).and_then(bearer);
    match given {
        Some(given) if verify_slices_are_equal(given.as_bytes(), token.as_bytes()).is_ok() => {
            Ok(())
        }
        Some(_) => Err("the token is wrong".to_owned()),
        None => Err(format!("no token was sent: {way_out}")),
    }
}

/// The token of an `Authorization` field (RFC 6750 section 2.1).
fn bearer(field: &str) -> Option<&str> {
    let (scheme, token) = field.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Reads the token of a file that only its owner can read.
///
/// # Errors
///
/// A sentence that contains no byte of the file.
pub(super) fn read_token(file: &Path) -> Result<String, String> {
    let there = fs::metadata(file).map_err(|error| error.to_string())?;
    if !there.is_file() || there.size() > MAX_TOKEN_FILE {
        return Err(format!("it is not a file of at most {MAX_TOKEN_FILE} bytes"));
    }
    if there.permissions().mode() & 0o077 != 0 {
        return Err("others than its owner have access to it: `chmod 600` it".to_owned());
    }
    let text = fs::read_to_string(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => "it is not text".to_owned(),
        _ => error.to_string(),
    })?;
    let token = text.trim();
    if token.len() < MIN_TOKEN_LENGTH || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "a token is one word of at least {MIN_TOKEN_LENGTH} printable characters: `app-gateway secret new FILE` makes one"
        ));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            (header::HeaderName::from_static(name), HeaderValue::from_static(value))
        });
        fields.collect()
    }

    #[test]
    fn only_names_of_this_gateway_are_answered() {
        for known in ["localhost:9145", "LOCALHOST", "127.0.0.1:9145", "[::1]:9145", "10.0.0.5"] {
            assert!(names_gateway(&headers(&[("host", known)]), None), "{known}");
        }
        for other in ["evil.example:9145", "127.0.0.1.evil.example", "localhost.evil.example", ""] {
            assert!(!names_gateway(&headers(&[("host", other)]), None), "{other}");
        }
        assert!(!names_gateway(&headers(&[("host", "localhost"), ("host", "evil.example")]), None));
        assert!(is_known_host(&headers(&[]), None) && !names_gateway(&headers(&[]), None));
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        let host = ("host", "localhost:9145");
        assert!(is_same_origin(&headers(&[host])));
        assert!(is_same_origin(&headers(&[host, ("origin", "http://localhost:9145")])));
        for origin in
            ["http://localhost:3000", "https://localhost:9145", "null", "http://evil.example"]
        {
            assert!(!is_same_origin(&headers(&[host, ("origin", origin)])), "{origin}");
        }
    }

    #[test]
    fn a_token_is_from_a_file_that_only_its_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, mode: u32, text: &str| {
            let path = dir.path().join(name);
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(mode).open(&path).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let token = "0123456789abcdef0123456789abcdef";
        let field = |text: &str| HeaderValue::from_str(text).unwrap();
        let right = field(&format!("Bearer {token}"));
        let good = write("good", 0o600, &format!("{token}\n"));
        assert_eq!(check_token(Some(&good), Some(&right)), Ok(()));
        assert!(check_token(Some(&good), Some(&field("Bearer 0123"))).is_err());
        assert!(check_token(Some(&good), Some(&field(token))).is_err());
        assert!(check_token(Some(&good), None).is_err());
        assert!(check_token(None, Some(&right)).is_err());
        for (name, mode, text) in [
            ("open", 0o640, token),
            ("short", 0o600, "0123"),
            ("two", 0o600, "0123456789abcdef 0123456789abcdef"),
        ] {
            let file = write(name, mode, text);
            assert!(check_token(Some(&file), Some(&right)).is_err(), "{name}");
        }
    }
}
