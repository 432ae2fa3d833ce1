//! Compiles `[upstream.NAME]` into an [`Upstream`].

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;

use crate::config::problem::Problem;
use crate::config::{self, Verify};
use crate::net::quota::QuotaLimits;
use crate::tls::{certificate, client};
use crate::upstream::eject::{EjectPolicy, FailureKind};
use crate::upstream::ring::HashRing;
use crate::upstream::sticky_cookie::StickyCookie;
use crate::upstream::tier::FailoverPolicy;
use crate::upstream::{
    AdminState, BalanceMethod, BalancePolicy, Endpoint, EndpointRole, HealthCheck, Upstream,
    UpstreamLimits, check,
};

use super::Generation;
use super::compile::error;
use super::shared::SharedKeys;

/// Compiles an upstream. State is carried over from `previous`; the key of the sticky cookie is
/// derived from `shared`.
pub(super) fn compile(
    config: &config::Upstream,
    provider: &Arc<CryptoProvider>,
    (previous, shared): (Option<&Generation>, &SharedKeys),
    problems: &mut Vec<Problem>,
) -> Upstream {
    let uses_tls = config.endpoints.iter().any(|endpoint| endpoint.tls);
    let before = previous
        .and_then(|previous| previous.upstreams.iter().find(|before| *before.name == config.name));
    let upstream_state =
        before.map_or_else(Arc::default, |before| Arc::clone(&before.upstream_state));
    let check = config.check.as_ref().map(|check| Arc::new(compiled_check(check)));
    let tls = if uses_tls { trust(config, provider, problems) } else { None };
    let inputs = EndpointInputs { config, tls: tls.as_ref(), before, check: check.as_deref() };
    let endpoints: Vec<_> =
        config.endpoints.iter().map(|one| inputs.endpoint(one, problems)).collect();
    let ranks = config.endpoints.iter().zip(&endpoints).map(|(config, endpoint)| EndpointRole {
        backup: config.backup,
        weight: config.weight,
        duty: match config.duty {
            config::AdminState::Up => AdminState::Up,
            config::AdminState::Drain => AdminState::Drain,
            config::AdminState::Maintenance => AdminState::Maintenance,
        },
        number: upstream_state.sessions.number(&endpoint.label),
    });
    Upstream {
        name: config.name.as_str().into(),
        ranks: ranks.collect(),
        policy: BalancePolicy { cookie: cookie(config, &endpoints, shared), ..policy(config) },
        upstream_state,
        endpoints,
        announces: config.announces,
        check: check.clone(),
        limits: UpstreamLimits {
            connect: config.connect_timeout,
            first_byte: config.first_byte_timeout,
            idle: config.idle_timeout,
            keep_alive: config.keep_alive,
            max_idle: config.max_idle,
            max_connecting: config.max_connecting,
            connections: QuotaLimits {
                total: config.max_connections,
                per_client: match config.client_share {
                    100 => usize::MAX,
                    share => (config.max_connections * share).div_ceil(100),
                },
            },
            queue_timeout: config.queue_timeout,
        },
    }
}

/// The internal upstream of a self-test. It has no address, because the self-test runs in this
/// process. `idle` is how long a self-test connection may be silent.
pub(super) fn self_test(idle: Duration) -> Upstream {
    const NAME: &str = "self-test";
    const SELF_TEST_TIMEOUT: Duration = Duration::from_mins(1);
    let endpoint = Endpoint { label: NAME.into(), ..Endpoint::new(String::new(), 0, None, 0) };
    Upstream {
        name: NAME.into(),
        endpoints: vec![Arc::new(endpoint)],
        ranks: vec![EndpointRole { backup: false, weight: 1, duty: AdminState::Up, number: 0 }],
        policy: BalancePolicy {
            balance: BalanceMethod::First,
            slow_start: Duration::ZERO,
            eject: EjectPolicy {
                failure_kinds: Vec::new(),
                statuses: Vec::new(),
                count: u32::MAX,
                window: Duration::ZERO,
                base_time: Duration::ZERO,
                max_time: Duration::ZERO,
                max_percent: 0,
            },
            failover: None,
            sticky: false,
            cookie: None,
            retries_per_second: 0,
        },
        upstream_state: Arc::default(),
        announces: false,
        check: None,
        limits: UpstreamLimits {
            connect: SELF_TEST_TIMEOUT,
            first_byte: idle + SELF_TEST_TIMEOUT,
            idle: idle + SELF_TEST_TIMEOUT,
            keep_alive: Duration::ZERO,
            max_idle: 0,
            max_connecting: usize::MAX,
            connections: QuotaLimits { total: usize::MAX, per_client: usize::MAX },
            queue_timeout: Duration::ZERO,
        },
    }
}

/// Shared inputs for compiling the endpoints of one upstream.
struct EndpointInputs<'a> {
    config: &'a config::Upstream,
    tls: Option<&'a (Arc<ClientConfig>, u64)>,
    before: Option<&'a Arc<Upstream>>,
    check: Option<&'a HealthCheck>,
}

impl EndpointInputs<'_> {
    /// Compiles an endpoint. An unchanged endpoint of the previous generation is reused with its
    /// state.
    fn endpoint(&self, endpoint: &config::Endpoint, problems: &mut Vec<Problem>) -> Arc<Endpoint> {
        let name = self.config.server_name.as_ref().unwrap_or(&endpoint.host);
        let verified = match (self.tls, ServerName::try_from(name.clone())) {
            (Some((tls, _)), Ok(name)) if endpoint.tls => Some((Arc::clone(tls), name)),
            (Some(_), Err(_)) if endpoint.tls => {
                problems.push(error(
                    "upstream.server-name",
                    endpoint.place,
                    format!("`{name}` is not a name that a certificate can contain"),
                    "set `server-name` to the name in the component's certificate",
                ));
                None
            }
            _ => None,
        };
        let mut hasher = DefaultHasher::new();
        (&endpoint.host, endpoint.port, endpoint.tls, name).hash(&mut hasher);
        self.tls.map(|(_, trusted)| *trusted).hash(&mut hasher);
        let identity = hasher.finish();
        let before = || self.before.into_iter().flat_map(|before| &before.endpoints);
        if let Some(same) = before().find(|same| same.identity == identity) {
            return Arc::clone(same);
        }
        let mut new = Endpoint::new(endpoint.host.clone(), endpoint.port, verified, identity);
        // Health is kept even if the certificate settings changed, because it does not depend on
        // them.
        match before().find(|same| same.label == new.label) {
            Some(same) => new.health = Arc::clone(&same.health),
            None => new.health.assume_state(self.check.is_none_or(|check| check.initially_up)),
        }
        Arc::new(new)
    }
}

/// Sticky cookie of an upstream. The configuration checks ensure that a shared secret is set.
fn cookie(
    config: &config::Upstream,
    endpoints: &[Arc<Endpoint>],
    shared: &SharedKeys,
) -> Option<StickyCookie> {
    let (name, secrets) = (config.cookie.as_ref()?, shared.secrets.as_ref()?);
    let labels: Vec<_> = endpoints.iter().map(|endpoint| &*endpoint.label).collect();
    Some(StickyCookie::new(name, secrets.keys("seats", &[]), &config.name, &labels))
}

fn policy(config: &config::Upstream) -> BalancePolicy {
    let eject = &config.eject;
    let kinds = [
        (eject.connect, FailureKind::Connect),
        (eject.tls, FailureKind::Tls),
        (eject.reset, FailureKind::Reset),
        (eject.timeout, FailureKind::Timeout),
    ];
    let ring = |backup: bool| {
        let all = config.endpoints.iter().enumerate().filter(|(_, e)| e.backup == backup);
        let hosts: Vec<_> = all
            .map(|(index, e)| {
                let host =
                    if e.host.contains(':') { format!("[{}]", e.host) } else { e.host.clone() };
                (u16::try_from(index).unwrap_or(u16::MAX), host, e.port, e.weight)
            })
            .collect();
        HashRing::new(
            hosts.iter().map(|(index, host, port, weight)| (*index, &**host, *port, *weight)),
        )
    };
    BalancePolicy {
        balance: match config.balance {
            config::Balance::First => BalanceMethod::First,
            config::Balance::Weighted => BalanceMethod::Weighted,
            config::Balance::LeastConnections => BalanceMethod::LeastConnections,
            config::Balance::Hash => BalanceMethod::Hash([ring(false), ring(true)]),
        },
        slow_start: config.slow_start,
        eject: EjectPolicy {
            failure_kinds: kinds.into_iter().filter_map(|(on, kind)| on.then_some(kind)).collect(),
            statuses: eject.statuses.clone(),
            count: eject.count,
            window: eject.window,
            base_time: eject.base_time,
            max_time: eject.max_time,
            max_percent: eject.max_percent,
        },
        failover: config.endpoints.iter().any(|endpoint| endpoint.backup).then_some(
            FailoverPolicy {
                failures: config.failover.failures,
                failback_after: config.failover.failback_after,
            },
        ),
        sticky: config.sticky,
        cookie: None,
        retries_per_second: config.retries_per_second,
    }
}

fn compiled_check(config: &config::HealthCheck) -> HealthCheck {
    let kind = match &config.kind {
        config::CheckKind::Tcp => check::CheckKind::Tcp,
        config::CheckKind::Tls => check::CheckKind::Tls,
        config::CheckKind::Http { path, host, status, body } => {
            check::CheckKind::Http(check::HttpCheck {
                path: path.clone(),
                host: host.clone(),
                status: status.clone(),
                body: body.clone(),
            })
        }
    };
    HealthCheck {
        kind,
        port: config.port,
        plain: config.plain,
        interval: config.interval,
        timeout: config.timeout,
        rise: config.rise,
        fall: config.fall,
        initially_up: config.initially_up,
        announces: config.announces,
    }
}

/// TLS settings for an upstream, and a hash of its trust settings, file contents included.
fn trust(
    config: &config::Upstream,
    provider: &Arc<CryptoProvider>,
    problems: &mut Vec<Problem>,
) -> Option<(Arc<ClientConfig>, u64)> {
    let mut hasher = DefaultHasher::new();
    let (trust, place) = match &config.verify {
        Verify::System => {
            "system".hash(&mut hasher);
            (client::UpstreamTrust::System, config.place)
        }
        Verify::Pin(pins) => {
            pins.hash(&mut hasher);
            (client::UpstreamTrust::Pins(pins.clone()), config.place)
        }
        Verify::None { place } => {
            "none".hash(&mut hasher);
            (client::UpstreamTrust::Nothing, *place)
        }
        Verify::Ca { file, place } => match certificate::read_authorities(file) {
            Ok(authorities) => {
                for authority in &authorities {
                    authority.as_ref().hash(&mut hasher);
                }
                (client::UpstreamTrust::Authorities(authorities), *place)
            }
            Err(wrong) => {
                problems.push(error(
                    "upstream.ca-file",
                    *place,
                    wrong.to_string(),
                    wrong.help().unwrap_or(
                        "the file must be PEM, with the component's certificate or that of the CA that issued it",
                    ),
                ));
                return None;
            }
        },
    };
    let built = client::config(trust, provider).map_err(|message| {
        problems.push(error(
            "upstream.trust",
            place,
            message,
            "name the component's CA with `ca-file`, or its key with `pin`",
        ));
    });
    Some((built.ok()?, hasher.finish()))
}
