//! Checks of the forward proxy: reaches each platform through it with CONNECT, as the components
//! do, and completes a TLS handshake with the platform.
//!
//! Works with any proxy that supports CONNECT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::addr::Pattern;
use crate::config::{Config, DoctorTarget, RuleEffect};
use crate::tls::{self, client};
use crate::upstream::Stream;

use super::RowCheck;
use super::http_probe::{BodyWanted, ask};
use super::probe::{CertificateDoubt, ExpectedIdentity, ProbeError, TimeBudget, connect, secure};
use super::row::{DoctorRow, RowGroup};

/// For each platform.
pub(super) fn checks(config: &Config) -> Vec<RowCheck> {
    let Some(proxy) = proxy(config) else {
        let row = DoctorRow::new(RowGroup::Proxy, "connectivity 4-5", "forward-proxy", "");
        return vec![super::known(vec![row.not_configured("proxy = \"10.0.0.4:3128\"")])];
    };
    through(&proxy, &platforms(config), config.doctor.timeout)
}

/// The proxy the components use: the one that is named, or the gateway's own.
pub(super) fn proxy(config: &Config) -> Option<DoctorTarget> {
    let own = || {
        let mut plain = config.forward.iter().flat_map(|forward| &forward.listeners);
        let listener = plain.find(|listener| listener.certificates.is_empty())?;
        let host = match listener.listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let (host, port) = (host.to_string(), listener.listen.port());
        Some(DoctorTarget { place: Some(listener.place), host, port })
    };
    config.doctor.proxy.clone().or_else(own)
}

/// Platforms to reach through the proxy: the configured ones, or else the names that the rules
/// allow.
pub(super) fn platforms(config: &Config) -> Vec<DoctorTarget> {
    let named = config.doctor.platforms.iter().any(|target| target.place.is_some());
    let allowed = config.forward.iter().flat_map(|forward| &forward.rules);
    let allowed = allowed.filter(|rule| rule.effect == RuleEffect::Allow).flat_map(|rule| {
        let port = rule.connect_ports.first().copied().unwrap_or(443);
        rule.destinations.iter().filter_map(move |destination| match destination {
            Pattern::Exact(name) => {
                Some(DoctorTarget { place: Some(rule.place), host: name.as_str().to_owned(), port })
            }
            Pattern::Below(_) | Pattern::Net(_) => None,
        })
    });
    let mut allowed: Vec<DoctorTarget> = allowed.collect();
    if named || allowed.is_empty() {
        return config.doctor.platforms.clone();
    }
    allowed.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
    allowed.dedup_by(|a, b| (&a.host, a.port) == (&b.host, b.port));
    allowed
}

/// A check of the proxy, and one for each host that is to be reached through it.
fn through(proxy: &DoctorTarget, hosts: &[DoctorTarget], total: Duration) -> Vec<RowCheck> {
    let own = proxy.clone();
    let mut checks: Vec<RowCheck> = vec![Box::pin(async move {
        let row = DoctorRow::new(RowGroup::Proxy, "connectivity 4-5", "forward-proxy", own.label());
        vec![match connect(&own.host, own.port, TimeBudget::new(total)).await {
            Ok(_) => row.good("connected"),
            Err(trouble) => row.failed(
                trouble.to_string(),
                trouble.next("the forward proxy", own.port, "`proxy` of [doctor]"),
            ),
        }]
    })];
    for host in hosts {
        let (proxy, host) = (proxy.clone(), host.clone());
        checks.push(Box::pin(async move {
            vec![platform(&proxy, &host, TimeBudget::new(total)).await]
        }));
    }
    checks
}

async fn platform(proxy: &DoctorTarget, host: &DoctorTarget, budget: TimeBudget) -> DoctorRow {
    let name = host.host.clone();
    let row = DoctorRow::new(
        RowGroup::Proxy,
        "connectivity 4-5",
        name,
        format!("port {} by the proxy", host.port),
    );
    let Ok(mut tcp) = connect(&proxy.host, proxy.port, budget).await else {
        return row.failed("the proxy is not reached", "see the row of the proxy");
    };
    let label = host.label();
    let answer = ask(&mut tcp, &format!("CONNECT {label}"), &label, BodyWanted::Head, budget).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(trouble) => {
            return row.failed(
                format!("CONNECT: {trouble}"),
                format!("is there a forward proxy at {}? Its log says more", proxy.label()),
            );
        }
    };
    let said = format!("CONNECT answered {} {}", answer.status, answer.reason);
    let said = said.trim_end();
    match answer.status {
        200..300 => {}
        407 => {
            return row.warning(
                said,
                "the proxy requires a password, which doctor does not have: try from the component, which has one (FORWARD_PROXY_USER)",
            );
        }
        403 => {
            return row.failed(
                said,
                format!("allow {label} in the proxy's list, for the components and for this host: app-gateway explain egress {label} --client IP"),
            );
        }
        405 | 501 | 400 => {
            return row.failed(
                said,
                format!("{} is no forward proxy, or does not let CONNECT through: correct `proxy` of [doctor]", proxy.label()),
            );
        }
        _ => {
            return row.failed(
                said,
                format!("the proxy does not reach {label}: check its DNS and its connection to the internet (outbound port {})", host.port),
            );
        }
    }
    let settings = match client::config(client::UpstreamTrust::System, &tls::provider()) {
        Ok(settings) => settings,
        Err(words) => return row.warning(words, "install the package ca-certificates"),
    };
    let proof = ExpectedIdentity { settings, name: host.host.clone() };
    let (stream, secured) = match secure(tcp, &proof, budget).await {
        Ok(secured) => secured,
        Err(trouble) => return without_tls(row, &trouble),
    };
    let ahead = date(stream, host, budget).await;
    let row = DoctorRow { clock_ahead_ms: ahead, ..row };
    let issuer =
        secured.shown.map_or(String::new(), |shown| format!(", certificate by {}", shown.issuer));
    row.good(format!("tunnel open, {}{issuer}", secured.version))
}

fn without_tls(row: DoctorRow, trouble: &ProbeError) -> DoctorRow {
    let next = match trouble {
        ProbeError::Certificate(CertificateDoubt::Issuer) => {
            "a device in between intercepts TLS (inspection by a firewall?): exempt this host from it, or give its CA to the components"
        }
        ProbeError::Certificate(CertificateDoubt::Expired | CertificateDoubt::NotYet) => {
            "check the clock of this host first"
        }
        _ => {
            "the proxy opens the tunnel, but the platform does not answer: see the log of the proxy"
        }
    };
    row.failed(format!("tunnel open, then: {trouble}"), next)
}

/// Time at the platform, if its answer has a `Date`.
async fn date(mut stream: Stream, host: &DoctorTarget, budget: TimeBudget) -> Option<i64> {
    let answer = ask(&mut stream, "HEAD /", &host.host, BodyWanted::Head, budget).await;
    answer.ok()?.clock_ahead_ms
}
