//! Checks of the gateway itself: its files, listening addresses and certificates.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::{ServerName, UnixTime};

use crate::config::{
    Certificate, CertificateId, CertificatePair, Config, ListenerMode, Profile, TcpRoute,
};
use crate::net::listen;
use crate::tls::{self, CertifiedPair, certificate};

use super::certificate_summary::{CertificateSummary, WARN_DAYS};
use super::port_owners::{PortOwner, holders};
use super::row::{DoctorRow, RowGroup};
use super::{DoctorInputs, known};

// --- Files ------------------------------------------------------------------------------------

/// Whether `run` would take the configuration.
pub(super) fn configuration(facts: &DoctorInputs) -> DoctorRow {
    let row = DoctorRow::new(RowGroup::Configuration, "system configuration", "configuration", "");
    let warnings = match facts.warnings {
        0 => String::new(),
        1 => ", with a warning".to_owned(),
        number => format!(", with {number} warnings"),
    };
    let check = format!("app-gateway check {} has the details", facts.directory.display());
    match facts.errors {
        0 if facts.warnings == 0 => row.good("can be run"),
        0 => row.warning(format!("can be run{warnings}"), check),
        number => row.failed(format!("cannot be run: {number} wrong"), check),
    }
}

/// Whether a gateway runs.
pub(super) fn running(facts: &DoctorInputs) -> DoctorRow {
    let row = DoctorRow::new(RowGroup::Configuration, "system configuration", "gateway", "");
    match facts.pid {
        Some(pid) => row.good(format!("running, process {pid}")),
        None => row.note("not running, or does not answer commands", "start it: app-gateway run"),
    }
}

// --- Listeners --------------------------------------------------------------------------------

/// A row for each address the gateway is to listen on.
pub(super) fn listeners(config: &Config, facts: &DoctorInputs) -> super::RowCheck {
    let mut wanted = Vec::new();
    for profile in &config.profiles {
        let requirement = if config.doctor.public_profiles.contains(&profile.name) {
            "connectivity 1-2"
        } else {
            "connectivity 3"
        };
        for listener in &profile.listeners {
            let what = match listener.serve {
                ListenerMode::Routes => profile.name.clone(),
                ListenerMode::Component(id) => {
                    config.upstreams.get(id.0).map_or_else(String::new, |u| u.name.clone())
                }
                ListenerMode::RedirectToHttps { .. } => format!("{}-redirect", profile.name),
            };
            wanted.push((
                requirement,
                what,
                listener.listen,
                config.sources.locate(listener.place),
            ));
        }
    }
    for tcp in &config.tcp {
        let public = config.doctor.public_profiles.contains(&tcp.name);
        let requirement = if public { "connectivity 1-2" } else { "connectivity 3" };
        for listener in &tcp.listeners {
            let place = config.sources.locate(listener.place);
            wanted.push((requirement, tcp.name.clone(), listener.listen, place));
        }
    }
    for listener in config.forward.iter().flat_map(|forward| &forward.listeners) {
        let place = config.sources.locate(listener.place);
        wanted.push(("connectivity 4-5", "forward-proxy".to_owned(), listener.listen, place));
    }
    if let Some(admin) = &config.admin {
        wanted.push((
            "system configuration",
            "admin".to_owned(),
            admin.listen,
            config.sources.locate(admin.place),
        ));
    }
    let pid = facts.pid;
    super::blocking(move || {
        let one = |(requirement, what, address, place)| {
            listener(requirement, what, (address, place), pid)
        };
        wanted.into_iter().map(one).collect()
    })
}

fn listener(
    requirement: &'static str,
    what: String,
    (address, place): (SocketAddr, String),
    running: Option<i32>,
) -> DoctorRow {
    let row = DoctorRow::new(RowGroup::Listeners, requirement, what, address.to_string());
    let error = match listen::probe(address) {
        Ok(()) if running.is_some() => {
            return row.failed(
                "free: the running gateway does not listen there",
                format!("reload {place} with `app-gateway reload`; its output gives the reason"),
            );
        }
        Ok(()) => return row.good("free"),
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => held(row, &holders(address), running, &place),
        io::ErrorKind::PermissionDenied => row.failed(
            "this user may not listen on ports below 1024",
            "run it as a service (contrib/systemd gives it CAP_NET_BIND_SERVICE), or as root",
        ),
        io::ErrorKind::AddrNotAvailable => row.failed(
            "no address of this host",
            format!("write one of its addresses (ip addr), or 0.0.0.0, at {place}"),
        ),
        _ => row.failed(error.to_string(), format!("correct the address at {place}")),
    }
}

fn held(row: DoctorRow, holders: &[PortOwner], running: Option<i32>, place: &str) -> DoctorRow {
    let ours = |holder: &PortOwner| holder.pid.is_some() && holder.pid == running;
    let other = holders.iter().find(|holder| !ours(holder));
    match other {
        None if holders.is_empty() => row.failed(
            "in use by an unknown process",
            format!("as root: ss -ltnp; end that program, or write another port at {place}"),
        ),
        None => row.good("bound by the gateway"),
        Some(PortOwner { pid: Some(pid), program }) if program == "app-gateway" => row.warning(
            format!("bound by app-gateway, process {pid}, which does not answer for this directory"),
            "a gateway that runs on another directory, or one that is draining; name its directory with -c",
        ),
        Some(PortOwner { pid: Some(pid), program }) => row.failed(
            format!("bound by another program: {program}, process {pid}"),
            format!("end it (is it Docker publishing the component itself? see docs/guide/hybrid-chat-ports.md), or write another port at {place}"),
        ),
        // Not ours to see, and the gateway runs: it is most likely its own.
        Some(_) if running.is_some() => row.note(
            "bound, by a program of another user",
            "most likely the gateway; run doctor as root to see the process",
        ),
        Some(_) => row.failed(
            "bound by a program of another user",
            format!("ss -ltnp as root shows it; end it, or write another port at {place}"),
        ),
    }
}

// --- Certificates -----------------------------------------------------------------------------

/// A row for each certificate, and one for the public name.
pub(super) fn certificates(config: &Config) -> Vec<DoctorRow> {
    let provider = tls::provider();
    let roots = certificate::system_root_subjects();
    let (mut rows, mut identities) = (Vec::new(), Vec::new());
    for (index, certificate) in config.certificates.iter().enumerate() {
        let id = CertificateId(index);
        let public = publics(config).any(|profile| profile.certificates.contains(&id));
        for (number, pair) in certificate.pairs.iter().enumerate() {
            let row = DoctorRow::new(
                RowGroup::Certificates,
                "TLS certificates",
                named(certificate, number),
                "",
            );
            match certificate::load(&pair.chain, &pair.key, &provider, &roots) {
                Ok((identity, findings)) => {
                    rows.push(judge(row, &identity, &findings, public));
                    if public {
                        identities.push(identity);
                    }
                }
                Err(findings) => rows.push(unusable(row, pair, &findings)),
            }
        }
    }
    rows.extend(config.doctor.fqdn.as_ref().map(|fqdn| covered(config, fqdn, &identities)));
    rows
}

fn publics(config: &Config) -> impl Iterator<Item = &Profile> {
    config.profiles.iter().filter(|profile| config.doctor.public_profiles.contains(&profile.name))
}

fn named(certificate: &Certificate, pair: usize) -> String {
    if certificate.pairs.len() > 1 {
        format!("{} ({})", certificate.name, pair + 1)
    } else {
        certificate.name.clone()
    }
}

fn unusable(
    row: DoctorRow,
    pair: &CertificatePair,
    findings: &[tls::CertificateFinding],
) -> DoctorRow {
    let file = pair.chain.display();
    match findings.iter().find(|finding| finding.fatal) {
        Some(finding) => row.failed(format!("{file}: {}", finding.message), finding.help.clone()),
        None => {
            row.failed(format!("{file} cannot be used"), "app-gateway check reports the reason")
        }
    }
}

fn judge(
    row: DoctorRow,
    identity: &CertifiedPair,
    findings: &[tls::CertificateFinding],
    public: bool,
) -> DoctorRow {
    let chain = &identity.key.cert;
    let Some(shown) = CertificateSummary::of(chain) else {
        return row.failed("no certificate", "install it again");
    };
    let length = match shown.chain {
        1 => "no intermediates".to_owned(),
        2 => "1 intermediate".to_owned(),
        more => format!("{} intermediates", more - 1),
    };
    let found = format!("{}, {length}", shown.line());
    if let Some(finding) = findings.first() {
        return row.warning(format!("{found}; {}", finding.message), finding.help.clone());
    }
    if shown.days < WARN_DAYS {
        return row.warning(found, "renew it now");
    }
    if identity.development {
        return row.warning(
            format!("{found}; made by app-gateway demo"),
            "good for trying things out on this host; get one for your site before others use it",
        );
    }
    if public && !trusted(identity) {
        return row.warning(
            format!("{found}; not issued by a CA that this system trusts"),
            "Facebook, Viber and Twilio refuse it: use a certificate of a public CA, with its intermediates in the file",
        );
    }
    row.good(found)
}

/// Whether a client with this system's CAs accepts it.
fn trusted(identity: &CertifiedPair) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider()).build();
    let name = identity.names.first().map(|name| name.as_str().replacen('*', "any", 1));
    let name = name.and_then(|name| ServerName::try_from(name).ok());
    let name = name.or_else(|| identity.addresses.first().map(|ip| ServerName::from(*ip)));
    let (Ok(verifier), Some(name), [leaf, above @ ..]) = (verifier, name, &identity.key.cert[..])
    else {
        return false;
    };
    verifier.verify_server_cert(leaf, above, &name, &[], UnixTime::now()).is_ok()
}

/// Checks that clients using the public name get a certificate that covers it, from this gateway or
/// from the upstream of a passthrough route.
fn covered(config: &Config, fqdn: &str, identities: &[CertifiedPair]) -> DoctorRow {
    let row = DoctorRow::new(RowGroup::Certificates, "TLS certificates", "fqdn-covered", fqdn);
    if identities.iter().any(|identity| identity.covers(fqdn)) {
        return row.good("covered by a certificate of a public profile");
    }
    let tables = config.tcp.iter().filter(|tcp| config.doctor.public_profiles.contains(&tcp.name));
    let takes = |route: &&TcpRoute| {
        let names = &route.server_names;
        names.is_empty() || names.iter().any(|name| name.covers(fqdn))
    };
    if let Some(route) = tables.clone().find_map(|tcp| tcp.routes.iter().find(takes)) {
        let upstream = config.upstreams.get(route.upstream.0).map_or("", |u| u.name.as_str());
        return row.good(format!(
            "passed through to {upstream}; run doctor on its gateways to check their certificates"
        ));
    }
    match (publics(config).next(), tables.into_iter().next()) {
        (None, Some(tcp)) => row.failed(
            "matched by no route of a public profile",
            format!("add it to `server-names` of a route of [tcp.{}]", tcp.name),
        ),
        _ => row.failed(
            "covered by no certificate of a public profile",
            format!("get a certificate with {fqdn} among its subjectAltNames, and give it to the public profile"),
        ),
    }
}

/// The rows of the certificates, off the thread that waits for answers.
pub(super) fn certificate_check(config: &Arc<Config>) -> super::RowCheck {
    let config = Arc::clone(config);
    super::blocking(move || certificates(&config))
}

/// The rows of the files.
pub(super) fn files(facts: &DoctorInputs) -> super::RowCheck {
    known(vec![configuration(facts), running(facts)])
}
