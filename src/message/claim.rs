//! Request fields that a component may believe because a proxy usually sets them.
//!
//! Any client can send them. A component that believes one accepts a forged client address, path,
//! method or user. These fields are dropped unless a route forwards them by name. Fields that the
//! gateway sets itself are not listed here, because a client's version of them is never forwarded.

/// Names that begin with `X-`, without that prefix.
const EXTENSIONS: [&str; 34] = [
    // The client's address.
    "client-ip",
    "cluster-client-ip",
    "remote-ip",
    "remote-addr",
    "originating-ip",
    "proxyuser-ip",
    "azure-clientip",
    "azure-socketip",
    "appengine-user-ip",
    "envoy-external-address",
    "envoy-peer-metadata",
    // The URL.
    "forwarded",
    "original-url",
    "original-host",
    "original-to",
    "rewrite-url",
    "envoy-original-path",
    "envoy-original-host",
    "host",
    "scheme",
    "url-scheme",
    // The method.
    "http-method-override",
    "http-method",
    "method-override",
    // The client's certificate.
    "client-cert",
    "client-cert-chain",
    "client-verify",
    "client-dn",
    "client-subject-dn",
    "arr-clientcert",
    "arr-ssl",
    // The user.
    "remote-user",
    "webauth-user",
    "ms-client-principal",
];

/// Prefixes of further names, again without `X-`.
const EXTENSION_FAMILIES: [&str; 3] = ["ssl-", "tls-client-", "auth-request-"];

/// Names without the prefix `X-`.
const OTHERS: [&str; 14] = [
    // CGI turns it into `HTTP_PROXY`, which many libraries use as the proxy address ("httpoxy").
    "proxy",
    "client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "fastly-client-ip",
    "fly-client-ip",
    "proxy-client-ip",
    "wl-proxy-client-ip",
    "remote-addr",
    "remote-user",
    "client-cert",
    "client-cert-chain",
];

/// Returns `true` if a field is dropped unless a route forwards it by name. CGI and similar
/// interfaces do not distinguish `_` from `-`, so any name with `_` may stand for a field that is
/// not forwarded.
#[must_use]
pub(super) fn is_claim(name: &[u8]) -> bool {
    if has_underscore(name) {
        return true;
    }
    let is = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
    match name {
        [b'x' | b'X', b'-', rest @ ..] => is_extension(rest),
        [b'c' | b'C' | b'f' | b'F' | b'p' | b'P' | b'r' | b'R' | b't' | b'T' | b'w' | b'W', ..] => {
            OTHERS.iter().any(is)
        }
        [b's' | b'S', ..] => begins(name, "ssl-client-"),
        _ => false,
    }
}

fn is_extension(rest: &[u8]) -> bool {
    EXTENSIONS.iter().any(|known| rest.eq_ignore_ascii_case(known.as_bytes()))
        || EXTENSION_FAMILIES.iter().any(|family| begins(rest, family))
}

fn begins(name: &[u8], family: &str) -> bool {
    name.get(..family.len()).is_some_and(|start| start.eq_ignore_ascii_case(family.as_bytes()))
}

/// `name.contains(&b'_')`, eight bytes at a time, because most fields of every request are checked.
fn has_underscore(name: &[u8]) -> bool {
    let Some(last) = name.last_chunk::<8>() else { return name.contains(&b'_') };
    name.as_chunks::<8>().0.iter().chain([last]).any(|chunk| {
        let zero_if = u64::from_ne_bytes(*chunk) ^ u64::from_ne_bytes([b'_'; 8]);
        let ones = u64::from_ne_bytes([0x01; 8]);
        zero_if.wrapping_sub(ones) & !zero_if & u64::from_ne_bytes([0x80; 8]) != 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_only_a_proxy_may_say() {
        for name in [
            "X-Original-URL",
            "x-rewrite-url",
            "X-HTTP-Method-Override",
            "X-HTTP-Method",
            "X-Method-Override",
            "Proxy",
            "X-Client-Cert",
            "X-SSL-Client-Verify",
            "SSL-Client-Cert",
            "Client-Cert",
            "True-Client-IP",
            "X-Client-IP",
            "Client-IP",
            "CF-Connecting-IP",
            "X-Forwarded",
            "X-Cluster-Client-IP",
            "Fastly-Client-IP",
            "Remote-User",
            "X-Remote-User",
            "X-Auth-Request-Email",
            "api_key",
            "_",
            "a_long_name_with_many_of_them",
            "Content_Length",
            "abcdefgh_",
            "_abcdefgh",
            "abcdefghijklmno_",
        ] {
            assert!(is_claim(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn other_fields_pass() {
        for name in [
            "",
            "x",
            "x-",
            "Accept",
            "Accept-Language",
            "Content-Type",
            "Cache-Control",
            "Range",
            "Origin",
            "Authorization",
            "Sec-Fetch-Site",
            "Sec-WebSocket-Protocol",
            "X-Requested-With",
            "X-Hub-Signature-256",
            "X-Viber-Content-Signature",
            "X-Twilio-Signature",
            "X-Auth-Token",
            "X-CSRF-Token",
            "I-Twilio-Idempotency-Token",
        ] {
            assert!(!is_claim(name.as_bytes()), "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn underscores_are_found_everywhere(name in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40)) {
            proptest::prop_assert_eq!(has_underscore(&name), name.contains(&b'_'));
        }
    }
}
