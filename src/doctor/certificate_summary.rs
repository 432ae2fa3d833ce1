//! One-line summary of a certificate that a server presented.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::addr::HostPattern;
use crate::base64;
use crate::tls::client::pin_of;

/// Days before its end at which a certificate is worth a warning.
pub const WARN_DAYS: i64 = 21;

/// Summary of a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateSummary {
    /// Subject alternative names: host names and addresses.
    pub names: Vec<String>,
    /// Common name of its subject, which counts only without other names, and only for a
    /// certificate that `ca-file` lists itself.
    pub common_name: Option<String>,
    /// SHA-256 of its public key, as `pin` has it.
    pub pin: Option<String>,
    /// Issuer, in short form.
    pub issuer: String,
    /// Subject and issuer are the same.
    pub self_signed: bool,
    /// Days it still has; negative if it is over.
    pub days: i64,
    /// Certificates in the chain, its own included.
    pub chain: usize,
}

impl CertificateSummary {
    /// Reads the first of a chain; `None` if it is none or damaged.
    #[must_use]
    pub fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let der = chain.first()?;
        let (_, leaf) = X509Certificate::from_der(der).ok()?;
        let mut names = Vec::new();
        if let Ok(Some(extension)) = leaf.subject_alternative_name() {
            for name in &extension.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => names.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        let issuer = leaf.issuer();
        let short = issuer.iter_common_name().chain(issuer.iter_organization()).next();
        let common_name = leaf.subject().iter_common_name().next();
        Some(Self {
            names,
            common_name: common_name.and_then(|name| name.as_str().ok()).map(str::to_owned),
            pin: pin_of(der).map(|pin| format!("sha256/{}", base64::encode(&pin))),
            issuer: short
                .and_then(|name| name.as_str().ok())
                .map_or_else(|| issuer.to_string(), str::to_owned),
            self_signed: issuer.as_raw() == leaf.subject().as_raw(),
            days: (leaf.validity().not_after.timestamp() - now()).div_euclid(86_400),
            chain: chain.len(),
        })
    }

    /// Subject, issuer and validity.
    #[must_use]
    pub fn line(&self) -> String {
        let by = if self.self_signed {
            "self-signed".to_owned()
        } else {
            format!("issued by {}", self.issuer)
        };
        format!("for {}, {by}, {}", self.named(), self.time())
    }

    /// Whether it is for `host`.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let same = |name: &String| {
            name.eq_ignore_ascii_case(host)
                || HostPattern::parse(name).is_ok_and(|pattern| pattern.covers(host))
        };
        self.names.iter().any(same) || self.names.is_empty() && self.common_name.iter().any(same)
    }

    /// The names, the first few of them.
    #[must_use]
    pub fn named(&self) -> String {
        match self.names.len() {
            0 => "no name".to_owned(),
            1..=3 => self.names.join(", "),
            more => {
                let first: Vec<_> = self.names.iter().take(2).map(String::as_str).collect();
                format!("{} and {} more", first.join(", "), more - 2)
            }
        }
    }

    /// Remaining validity.
    #[must_use]
    pub fn time(&self) -> String {
        match self.days {
            days if days < 0 => format!("expired {} ago", count(-days)),
            days => format!("{} left", count(days)),
        }
    }
}

fn count(days: i64) -> String {
    if days == 1 { "1 day".to_owned() } else { format!("{days} days") }
}

fn address(bytes: &[u8]) -> Option<String> {
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(ip.to_string())
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs().cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_for_whom_and_how_long() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params =
            rcgen::CertificateParams::new(vec!["a.test".to_owned(), "127.0.0.1".to_owned()])
                .unwrap();
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let made = params.self_signed(&key).unwrap();
        let shown = CertificateSummary::of(&[made.der().clone()]).unwrap();
        assert_eq!(shown.names, ["a.test", "127.0.0.1"]);
        assert!(shown.self_signed && shown.days < -1000);
        assert!(shown.line().starts_with("for a.test, 127.0.0.1, self-signed, expired "));
        assert!(shown.covers("A.test") && !shown.covers("b.test"));
        assert!(shown.pin.unwrap().starts_with("sha256/"));
        assert_eq!(CertificateSummary::of(&[]), None);
        assert_eq!(CertificateSummary::of(&[CertificateDer::from(vec![1, 2, 3])]), None);
    }
}
