//! Loads the certificates of a configuration and checks them against the profiles that use them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use crate::config::problem::{Problem, Severity};
use crate::config::{Certificate, CertificateId, Config, ListenerMode, Profile, Span, is_loopback};
use crate::tls::certificate::{load, system_root_subjects};
use crate::tls::{CertificateFinding, CertifiedPair, FindingSubject};

/// Loads all certificates, indexed by [`CertificateId`]. An unusable certificate is an empty list.
pub(super) fn load_all(
    config: &Config,
    provider: &Arc<CryptoProvider>,
    problems: &mut Vec<Problem>,
) -> Vec<Vec<CertifiedPair>> {
    let roots = system_root_subjects();
    let one = |certificate: &Certificate| {
        let mut pairs = Vec::new();
        for pair in &certificate.pairs {
            let findings = match load(&pair.chain, &pair.key, provider, &roots) {
                Ok((identity, findings)) => {
                    pairs.push(identity);
                    findings
                }
                Err(findings) => findings,
            };
            problems.extend(findings.into_iter().map(|finding| {
                let place = match finding.subject {
                    FindingSubject::Chain => pair.chain_place,
                    FindingSubject::Key => pair.key_place,
                };
                problem(finding, place)
            }));
        }
        pairs
    };
    config.certificates.iter().map(one).collect()
}

fn problem(finding: CertificateFinding, place: Span) -> Problem {
    Problem {
        severity: if finding.fatal { Severity::Error } else { Severity::Warning },
        code: finding.code,
        message: finding.message,
        place: Some(place),
        label: "this file".to_owned(),
        related: None,
        help: Some(finding.help),
    }
}

/// Checks that the certificates of a profile cover its hosts and may be used on its listeners.
pub(super) fn judge(
    profile: &Profile,
    config: &Config,
    loaded: &[Vec<CertifiedPair>],
    problems: &mut Vec<Problem>,
) {
    let pairs = |id: &CertificateId| loaded.get(id.0).map(Vec::as_slice).unwrap_or_default();
    let usable = profile.certificates.iter().any(|id| !pairs(id).is_empty());
    for (host, place) in profile.hosts.iter().filter(|_| usable) {
        let covers = |identity: &CertifiedPair| {
            identity.names.contains(host) || identity.covers(host.as_str())
        };
        if !profile.certificates.iter().any(|id| pairs(id).iter().any(covers)) {
            problems.push(Problem {
                severity: Severity::Error,
                code: "certificate.host-not-covered",
                message: format!("no certificate of profile `{}` covers the host `{host}`", profile.name),
                place: Some(*place),
                label: "clients that ask for this host would be shown a certificate for another".to_owned(),
                related: None,
                help: Some("add a certificate whose subjectAltName has this host to the profile's `certificates`, or remove the host".to_owned()),
            });
        }
    }
    let exposed = profile.listeners.iter().find(|listener| {
        !matches!(listener.serve, ListenerMode::RedirectToHttps { .. })
            && !is_loopback(listener.listen.ip())
    });
    if let Some(listener) = exposed {
        let at = (listener.listen, listener.place);
        judge_exposed(&profile.certificates, at, config, loaded, problems);
    }
}

/// Rejects a development certificate, whose key is unprotected, on an address that other hosts can
/// reach.
pub fn judge_exposed(
    chosen: &[CertificateId],
    (listen, place): (SocketAddr, Span),
    config: &Config,
    loaded: &[Vec<CertifiedPair>],
    problems: &mut Vec<Problem>,
) {
    let pairs = |id: &CertificateId| loaded.get(id.0).map(Vec::as_slice).unwrap_or_default();
    let development = chosen.iter().find(|id| pairs(id).iter().any(|pair| pair.development));
    let Some(certificate) = development.and_then(|id| config.certificates.get(id.0)) else {
        return;
    };
    problems.push(Problem {
        severity: Severity::Error,
        code: "certificate.development",
        message: format!(
            "certificate `{}` is a development certificate, and `{listen}` can be reached from other hosts",
            certificate.name
        ),
        place: Some(place),
        label: "not a loopback address".to_owned(),
        related: Some((certificate.place, "made by `app-gateway demo`; its key is not protected".to_owned())),
        help: Some(loopback_help(listen.ip())),
    });
}

fn loopback_help(ip: IpAddr) -> String {
    let loopback = if ip.is_ipv4() { "127.0.0.1" } else { "[::1]" };
    format!("install your own certificate, or listen on {loopback} to try things out on this host")
}
