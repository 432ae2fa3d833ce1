//! Client authentication of a listener, compared with that of a finished handshake.
//!
//! A client authenticates once, in its handshake. A reload may then require more: a certificate
//! where none was needed, or one of another CA. Each connection keeps the settings under which its
//! client's certificate was verified, so that the change is noticed.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;

use super::ServerTls;

/// The CAs that verify client certificates, and whether a certificate is required.
#[derive(Debug, Eq, PartialEq)]
pub struct ClientAuth {
    /// SHA-256 of each CA certificate, sorted.
    authorities: Box<[[u8; 32]]>,
    required: bool,
}

impl ClientAuth {
    /// The settings of a listener with these CA certificates.
    #[must_use]
    pub fn new(authorities: &[CertificateDer<'_>], required: bool) -> Arc<Self> {
        let mut hashes: Vec<[u8; 32]> = Vec::with_capacity(authorities.len());
        for authority in authorities {
            let mut hash = [0; 32];
            hash.copy_from_slice(digest(&SHA256, authority).as_ref());
            hashes.push(hash);
        }
        hashes.sort_unstable();
        hashes.dedup();
        Arc::new(Self { authorities: hashes.into(), required })
    }

    /// Whether a finished handshake meets the current settings `now`. `verified_by`: the settings
    /// under which the client's certificate was verified, or `None` if the client presented none.
    ///
    /// An added CA invalidates nothing. When a CA is removed, all certificates verified under the
    /// larger set count as unverified, because a connection does not record which CA issued its
    /// certificate.
    #[must_use]
    pub fn accepts(now: Option<&Self>, verified_by: Option<&Self>) -> bool {
        match (now, verified_by) {
            (None, _) => true,
            (Some(now), None) => !now.required,
            (Some(now), Some(then)) => {
                then.authorities.iter().all(|one| now.authorities.binary_search(one).is_ok())
            }
        }
    }

    /// Whether a change from `before` to `now` can invalidate a handshake.
    #[must_use]
    pub fn may_invalidate(before: Option<&Self>, now: Option<&Self>) -> bool {
        let without = before.is_none_or(|before| !before.required) && !Self::accepts(now, None);
        without || before.is_some() && !Self::accepts(now, before)
    }
}

/// A client's finished handshake, as far as a later configuration may invalidate it.
#[derive(Clone, Debug, Default)]
pub struct ClientHandshake {
    /// The client speaks TLS.
    pub tls: bool,
    /// The settings under which its certificate was verified, or `None` if it presented none.
    pub verified_by: Option<Arc<ClientAuth>>,
}

impl ClientHandshake {
    /// Whether the handshake would succeed under these settings too. `None` is plain HTTP.
    #[must_use]
    pub fn is_accepted_by(&self, now: Option<&ServerTls>) -> bool {
        let client_auth = now.and_then(|tls| tls.client_auth.as_deref());
        self.tls == now.is_some() && ClientAuth::accepts(client_auth, self.verified_by.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(authorities: &[&'static [u8]], required: bool) -> Arc<ClientAuth> {
        let all: Vec<_> = authorities.iter().map(|der| CertificateDer::from(*der)).collect();
        ClientAuth::new(&all, required)
    }

    #[test]
    fn a_handshake_is_valid_for_as_long_as_it_would_succeed_again() {
        let off = None;
        let optional = Some(settings(&[b"a"], false));
        let required = Some(settings(&[b"a"], true));
        let more = Some(settings(&[b"b", b"a"], true));
        let other = Some(settings(&[b"b"], true));
        // Columns: before, now, valid without a certificate, valid with one, may invalidate.
        let cases = [
            (&off, &off, true, None, false),
            (&off, &optional, true, None, false),
            (&off, &required, false, None, true),
            (&optional, &required, false, Some(true), true),
            (&optional, &off, true, Some(true), false),
            (&required, &off, true, Some(true), false),
            (&required, &optional, true, Some(true), false),
            (&required, &more, false, Some(true), false),
            (&more, &required, false, Some(false), true),
            (&required, &other, false, Some(false), true),
        ];
        for (number, (before, now, without, with, may)) in cases.into_iter().enumerate() {
            let (before, now) = (before.as_deref(), now.as_deref());
            assert_eq!(ClientAuth::accepts(now, None), without, "{number}");
            if let Some(with) = with {
                assert_eq!(ClientAuth::accepts(now, before), with, "{number}");
            }
            assert_eq!(ClientAuth::may_invalidate(before, now), may, "{number}");
        }
    }
}
