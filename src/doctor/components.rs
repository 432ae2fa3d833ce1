//! Checks of the components behind the gateway: TCP, TLS, and the health path.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustls::ClientConfig;
use tokio::io::AsyncWriteExt as _;

use crate::config::{self, CheckKind, Config, Endpoint, Tcp, UpstreamId, Verify};
use crate::net::proxy_protocol::v2;
use crate::tls::{self, certificate, client};
use crate::upstream::Stream;

use super::RowCheck;
use super::certificate_summary::{CertificateSummary, WARN_DAYS};
use super::http_probe::{BodyWanted, ProbeAnswer, ask};
use super::probe::{
    CertificateDoubt, ExpectedIdentity, ProbeError, TimeBudget, TlsProbe, connect, secure, shown,
};
use super::row::{DoctorRow, RowGroup};

const REQUIREMENT: &str = "connectivity 6-9";

/// Why a stand-by is only warned of.
const STANDBY: &str = "a stand-by, which may be down on purpose";

/// A check for each endpoint.
pub(super) fn checks(config: &Config) -> Vec<RowCheck> {
    let mut checks: Vec<RowCheck> = Vec::new();
    for (id, upstream) in config.upstreams.iter().enumerate() {
        let settings = trust(&upstream.verify);
        for (index, endpoint) in upstream.endpoints.iter().enumerate() {
            let one = EndpointProbe::new(config, upstream, (index, endpoint), settings.clone());
            let budget = config.doctor.timeout;
            checks.push(Box::pin(async move { vec![one.check(TimeBudget::new(budget)).await] }));
        }
        for (index, endpoint) in upstream.endpoints.iter().enumerate() {
            for (port, place) in same_ports(config, UpstreamId(id), endpoint.port) {
                let (who, host) = (upstream.name.clone(), endpoint.host.clone());
                let budget = config.doctor.timeout;
                checks.push(Box::pin(async move {
                    let row = same_port(&who, (&host, port, &place), TimeBudget::new(budget)).await;
                    vec![if index > 0 { row.excused(STANDBY) } else { row }]
                }));
            }
        }
    }
    checks
}

/// Ports besides its own that connections are passed on to at an endpoint, because clients came to
/// them, and where they are written.
fn same_ports(config: &Config, upstream: UpstreamId, own: u16) -> BTreeMap<u16, String> {
    let leads =
        |tcp: &&Tcp| tcp.routes.iter().any(|route| route.same_port && route.upstream == upstream);
    let listeners = config.tcp.iter().filter(leads).flat_map(|tcp| &tcp.listeners);
    let others = listeners.filter(|listener| listener.listen.port() != own);
    others.map(|one| (one.listen.port(), config.sources.locate(one.place))).collect()
}

/// Checks the port only, because the endpoint itself is checked for health. A server that expects
/// the PROXY protocol treats a connection without a byte as a probe.
async fn same_port(
    who: &str,
    (host, port, place): (&str, u16, &str),
    budget: TimeBudget,
) -> DoctorRow {
    let target = config::DoctorTarget { place: None, host: host.to_owned(), port };
    let row = DoctorRow::new(RowGroup::Components, REQUIREMENT, who, target.label());
    match connect(host, port, budget).await {
        Ok(_) => row.good("connected"),
        Err(trouble) => {
            let key = format!("`listen` ({place})");
            row.failed(trouble.to_string(), trouble.next(who, port, &key))
        }
    }
}

/// TLS settings that verify so.
fn trust(verify: &Verify) -> Result<Arc<ClientConfig>, String> {
    let trust = match verify {
        Verify::System => client::UpstreamTrust::System,
        Verify::Ca { file, .. } => client::UpstreamTrust::Authorities(
            certificate::read_authorities(file).map_err(|e| e.to_string())?,
        ),
        Verify::Pin(pins) => client::UpstreamTrust::Pins(pins.clone()),
        Verify::None { .. } => client::UpstreamTrust::Nothing,
    };
    client::config(trust, &tls::provider())
}

/// One endpoint to look at.
struct EndpointProbe {
    upstream: String,
    host: String,
    port: u16,
    label: String,
    /// Not the first: it may be down on purpose.
    standby: bool,
    tls: Option<Result<ExpectedIdentity, String>>,
    how: String,
    unverified: bool,
    /// Connections begin with a header (PROXY protocol).
    announces: bool,
    /// The configured health path, if any.
    asked: Option<HealthPath>,
    place: String,
}

/// A path that says whether it is well.
struct HealthPath {
    path: String,
    /// `Host`; `None`: the endpoint's own.
    host: Option<String>,
    /// Configuration key of the path.
    key: String,
    /// Statuses that checks take for good, first and last of each range; `None`: not said.
    good: Option<Vec<(u16, u16)>>,
}

impl HealthPath {
    /// The path from `[doctor.health]`, or from the gateway's own health check of the same port.
    fn of(config: &Config, upstream: &config::Upstream) -> Option<Self> {
        let named = config.doctor.health.iter().find(|(of, _)| *of == upstream.name);
        if let Some((name, path)) = named {
            let key = format!("`{name}` in [doctor.health]");
            return Some(Self { path: path.clone(), host: None, key, good: None });
        }
        let check = upstream.check.as_ref().filter(|one| one.port.is_none() && !one.plain)?;
        let CheckKind::Http { path, host, status, .. } = &check.kind else { return None };
        let key = format!("`path` in [upstream.{}.check]", upstream.name);
        let good = Some(status.clone());
        Some(Self { path: path.clone(), host: host.clone(), key, good })
    }
}

impl EndpointProbe {
    fn new(
        config: &Config,
        upstream: &config::Upstream,
        (index, endpoint): (usize, &Endpoint),
        settings: Result<Arc<ClientConfig>, String>,
    ) -> Self {
        let name = upstream.server_name.clone().unwrap_or_else(|| endpoint.host.clone());
        let label =
            config::DoctorTarget { place: None, host: endpoint.host.clone(), port: endpoint.port };
        let file = |path: &Path| {
            path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
        };
        let how = match &upstream.verify {
            Verify::System => "verified by the system's CAs".to_owned(),
            Verify::Ca { file: path, .. } => format!("verified by {}", file(path)),
            Verify::Pin(_) => "verified by its pinned key".to_owned(),
            Verify::None { .. } => "NOT VERIFIED".to_owned(),
        };
        Self {
            upstream: upstream.name.clone(),
            host: endpoint.host.clone(),
            port: endpoint.port,
            label: label.label(),
            standby: index > 0,
            tls: endpoint.tls.then(|| settings.map(|settings| ExpectedIdentity { settings, name })),
            how,
            unverified: matches!(upstream.verify, Verify::None { .. }),
            announces: upstream.announces,
            asked: HealthPath::of(config, upstream),
            place: config.sources.locate(endpoint.place),
        }
    }

    fn path(&self) -> &str {
        self.asked.as_ref().map_or("/", |asked| &asked.path)
    }

    async fn check(&self, budget: TimeBudget) -> DoctorRow {
        let row = DoctorRow::new(
            RowGroup::Components,
            REQUIREMENT,
            self.upstream.clone(),
            self.label.clone(),
        );
        let began = Instant::now();
        let row = match self.look(budget).await {
            Ok((secured, answer)) => self.judge(row, secured.as_ref(), &answer, began),
            Err(trouble) => self.explain(row, trouble, budget).await,
        };
        if self.standby { row.excused(STANDBY) } else { row }
    }

    async fn look(
        &self,
        budget: TimeBudget,
    ) -> Result<(Option<TlsProbe>, ProbeAnswer), ProbeError> {
        let mut tcp = connect(&self.host, self.port, budget).await?;
        if self.announces {
            let mut own = Vec::new();
            v2::announce_own(&mut own);
            // A connection that is closed already fails in the next step.
            let _ = tcp.write_all(&own).await;
        }
        let (mut stream, secured) = match &self.tls {
            None => (Stream::Plain(tcp), None),
            Some(Err(words)) => return Err(ProbeError::Tls(words.clone())),
            Some(Ok(proof)) => {
                let (stream, secured) = secure(tcp, proof, budget).await?;
                (stream, Some(secured))
            }
        };
        let line = format!("GET {}", self.path());
        let host = self.asked.as_ref().and_then(|asked| asked.host.as_deref());
        let host = host.unwrap_or(&self.label);
        let answer = ask(&mut stream, &line, host, BodyWanted::Head, budget).await?;
        Ok((secured, answer))
    }

    fn judge(
        &self,
        row: DoctorRow,
        secured: Option<&TlsProbe>,
        answer: &ProbeAnswer,
        began: Instant,
    ) -> DoctorRow {
        let shown = secured.and_then(|secured| secured.shown.as_ref());
        let tls = match secured {
            None => "no TLS".to_owned(),
            Some(secured) => {
                let left = shown.map_or(String::new(), |shown| format!(", {}", shown.time()));
                format!("{} {}{left}", secured.version, self.how)
            }
        };
        let path = self.path();
        let took = began.elapsed().as_millis();
        let found = format!("{tls}; GET {path} {}, {took} ms", answer.status);
        let row = DoctorRow { clock_ahead_ms: answer.clock_ahead_ms, ..row };
        if let Some(next) = self.unwell(answer.status) {
            return row.failed(found, next);
        }
        let who = &self.upstream;
        match shown {
            _ if self.unverified => row.warning(
                found,
                format!("name its certificate or CA with `ca-file` in [upstream.{who}]: without it, any server can pretend to be {who}"),
            ),
            Some(shown) if shown.days < WARN_DAYS => {
                row.warning(found, format!("renew the certificate of {who}"))
            }
            _ => row.good(found),
        }
    }

    /// Advice for a status that does not indicate a healthy component.
    fn unwell(&self, status: u16) -> Option<String> {
        let (who, port, asked) = (&self.upstream, self.port, self.asked.as_ref());
        let within = |(first, last): &(u16, u16)| (*first..=*last).contains(&status);
        let good = asked.and_then(|asked| asked.good.as_ref());
        match (good.map(|ranges| ranges.iter().any(within)), status, asked) {
            (Some(true), ..) => None,
            (_, 500.., _) => Some(format!("{who} answers with an error: see its log")),
            (_, 404 | 405 | 410, Some(asked)) => Some(format!(
                "is it {who} that has port {port}? On its host: docker ps --format '{{{{.Names}}}}\\t{{{{.Ports}}}}'. If it is, correct {}",
                asked.key
            )),
            (Some(false), _, Some(asked)) => Some(format!(
                "health checks count this status as down: correct {}, or `status` beside it",
                asked.key
            )),
            _ => None,
        }
    }

    /// Advice on trusting only the presented certificate.
    fn trust_it_alone(&self, name: &str, shown: Option<&CertificateSummary>) -> String {
        let who = &self.upstream;
        let first = shown.and_then(|shown| shown.names.first().or(shown.common_name.as_ref()));
        if let (None, Some(pin)) = (first, shown.and_then(|shown| shown.pin.as_ref())) {
            return format!(
                "it names no host: if it is the right one, trust its key: pin = [\"{pin}\"] in [upstream.{who}]"
            );
        }
        let other = first.filter(|_| shown.is_some_and(|shown| !shown.covers(name)));
        let named = other.map_or(String::new(), |first| format!(" and server-name = \"{first}\""));
        // A file of its own: the one that is named may vouch for others too.
        format!(
            "if it is the right one, trust it alone: openssl s_client -connect {} </dev/null | openssl x509 > {who}.crt, and ca-file = \"{who}.crt\"{named} in [upstream.{who}]",
            self.label
        )
    }

    async fn explain(&self, row: DoctorRow, trouble: ProbeError, budget: TimeBudget) -> DoctorRow {
        let (who, port, host) = (&self.upstream, self.port, &self.host);
        let key = format!("`endpoints` ({})", self.place);
        let ProbeError::Certificate(doubt) = &trouble else {
            let next = match &trouble {
                ProbeError::NotThat { expected: "TLS", .. } => format!(
                    "if {who} speaks plain HTTP on port {port}, write `http://` in {key}; otherwise correct the port"
                ),
                ProbeError::Tls(_) if matches!(&self.tls, Some(Err(_))) => {
                    format!(
                        "correct the verification settings of [upstream.{who}]; app-gateway check reports the line"
                    )
                }
                other => other.next(who, port, &key),
            };
            return row.failed(trouble.to_string(), next);
        };
        let name = match &self.tls {
            Some(Ok(proof)) => proof.name.as_str(),
            _ => host,
        };
        let shown = shown(host, port, name, TimeBudget::new(budget.total)).await;
        let line = shown.as_ref().map_or(String::new(), |shown| format!(": {}", shown.line()));
        let next = match doubt {
            CertificateDoubt::Name
                if shown.as_ref().is_some_and(|shown| !shown.names.is_empty()) =>
            {
                let first = shown.as_ref().and_then(|shown| shown.names.first());
                format!(
                    "`{name}` was looked for; add to [upstream.{who}]: server-name = \"{}\"",
                    first.map_or("THE NAME IN THE CERTIFICATE", String::as_str)
                )
            }
            CertificateDoubt::Name | CertificateDoubt::Issuer | CertificateDoubt::Other(_) => {
                self.trust_it_alone(name, shown.as_ref())
            }
            CertificateDoubt::Pin => format!(
                "if its key was changed on purpose, change `pin` in [upstream.{who}]; if not, another server answers on {}",
                self.label
            ),
            CertificateDoubt::Expired | CertificateDoubt::NotYet => trouble.next(who, port, &key),
        };
        row.failed(format!("{trouble}{line}"), next)
    }
}
