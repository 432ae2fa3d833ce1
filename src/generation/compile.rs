//! Compiles a checked configuration into a [`Generation`].

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, OnceLock};

use http::Method;
use rustls::crypto::CryptoProvider;

use crate::config::problem::{Problem, Severity, Span};
use crate::config::{
    self, ClientCertificates, Config, ListenerMode, Profile, ResponseHeader, UpstreamId,
};
use crate::message::forward::ResponseEdits;
use crate::message::path::Oddities;
use crate::net::quota::Quota;
use crate::route::{RouteRule, RouteTable};
use crate::telemetry::socketio::{self, SocketIoMetrics};
use crate::telemetry::{LabelLimits, Metrics, UpstreamMetrics};
use crate::tls::tickets::TicketScope;
use crate::tls::{CertifiedPair, ServerTls, certificate, server};
use crate::upstream::Upstream;

use super::drift::ConfigDigest;
use super::prefix::{denied_without, prefixes, strip_prefix, without};
use super::shared::SharedKeys;
use super::virtual_server::{
    CompiledRoute, ListenerLabels, ListenerService, ProxyTarget, RouteAction, RouteStats,
    VirtualServer,
};
use super::{
    CertificateStatus, ConfigVersion, Generation, GenerationGuard, SelfTestServer, certificates,
    config_version, forward_proxy, passthrough, series, shared, upstreams,
};

/// A compiled configuration with its warnings.
pub struct Compiled {
    /// The generation, ready to serve.
    pub generation: Generation,
    /// Warnings, such as certificates that expire soon and chains that look incomplete.
    pub warnings: Vec<Problem>,
}

/// Compiles a configuration: loads certificates, prepares TLS, builds the route tables. Blocks on
/// the file system.
///
/// State of `previous` is carried over: unchanged endpoints keep their addresses and TLS sessions,
/// listeners keep their ticket keys.
///
/// # Errors
///
/// The configuration, with every problem found in it.
pub fn compile(
    config: Config,
    provider: &Arc<CryptoProvider>,
    metrics: &Arc<Metrics>,
    previous: Option<&Generation>,
) -> Result<Compiled, Box<(Config, Vec<Problem>)>> {
    let (mut generation, mut problems) =
        build(config, provider, metrics, (previous, Purpose::Serve));
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(Box::new((generation.config, problems)));
    }
    generation.contents = config_version::read(generation.files());
    problems.extend(compute_digest(&generation));
    Ok(Compiled { generation, warnings: problems })
}

/// Purpose of a generation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    /// To serve clients.
    Serve,
    /// To explain decisions; invalid parts are left out and TLS is not set up.
    Explain,
}

/// Compiles the valid parts of a configuration and returns them with the problems found. If one of
/// these is an error, the generation must not serve.
pub(super) fn build(
    config: Config,
    provider: &Arc<CryptoProvider>,
    metrics: &Arc<Metrics>,
    (previous, purpose): (Option<&Generation>, Purpose),
) -> (Generation, Vec<Problem>) {
    let mut problems = Vec::new();
    let loaded = certificates::load_all(&config, provider, &mut problems);
    let shared = shared::load(&config, previous, &mut problems);
    for profile in &config.profiles {
        certificates::judge(profile, &config, &loaded, &mut problems);
    }
    let upstreams: Vec<_> = config
        .upstreams
        .iter()
        .map(|u| Arc::new(upstreams::compile(u, provider, (previous, &shared), &mut problems)))
        .collect();
    let names = metrics.allot(config.gateway.metrics_limit);
    let counted: Vec<_> =
        upstreams.iter().map(|u| (Arc::clone(u), names.upstream(&u.name))).collect();
    let mut virtual_servers = Vec::new();
    let config_version = Arc::<ConfigVersion>::default();
    let digest = Arc::<OnceLock<ConfigDigest>>::default();
    let guard = GenerationGuard::new(&metrics.generations_alive);
    let compiler = Compiler {
        loaded: &loaded,
        upstreams: &counted,
        provider,
        names: &names,
        shared: &shared,
        config_version: &config_version,
        digest: &digest,
        guard: &guard,
        adds_trace_context: config.gateway.trace_context,
        tracks_socketio: config.gateway.socket_io_tracking,
        purpose,
        http2_send_buffers: config.gateway.http2_send_buffers,
    };
    for profile in &config.profiles {
        let requests = open_requests(profile, previous);
        for listener in &profile.listeners {
            let virtual_server =
                compiler.virtual_server(profile, listener, &requests, &mut problems);
            virtual_servers.extend(virtual_server.map(Arc::new));
        }
    }
    let passthrough_conn = passthrough::PassthroughInputs {
        upstreams: &counted,
        names: &names,
        config_version: &config_version,
        guard: &guard,
    };
    let passthrough_listeners: Vec<_> = config
        .tcp
        .iter()
        .flat_map(|tcp| passthrough::compile(tcp, &passthrough_conn))
        .map(Arc::new)
        .collect();
    let certificates = config.certificates.iter().zip(&loaded).flat_map(|(certificate, pairs)| {
        let one = |(index, pair): (usize, &CertifiedPair)| CertificateStatus {
            name: certificate.name.clone(),
            pair: index,
            not_after: pair.not_after,
        };
        pairs.iter().enumerate().map(one).collect::<Vec<_>>()
    });
    let certificates = certificates.collect();
    problems.extend(series::over_limit(&names, config.gateway.metrics_limit));
    let inputs = forward_proxy::ForwardInputs {
        config: &config,
        loaded: &loaded,
        provider,
        previous,
        config_version: &config_version,
        shared: &shared,
        purpose,
    };
    let forward_proxy = config
        .forward
        .as_ref()
        .and_then(|forward| forward_proxy::compile(forward, &inputs, &mut problems))
        .map(Arc::new);
    let generation = Generation {
        config,
        virtual_servers,
        passthrough_listeners,
        upstreams,
        forward_proxy,
        contents: config_version::FileHashes::new(),
        config_version,
        shared,
        digest,
        _alive: guard,
        names,
        certificates,
    };
    (generation, problems)
}

/// The open requests of a profile. The counter is kept across reloads.
fn open_requests(profile: &Profile, previous: Option<&Generation>) -> Arc<Quota> {
    let mut virtual_servers = previous.into_iter().flat_map(|previous| &previous.virtual_servers);
    let before =
        virtual_servers.find(|virtual_server| virtual_server.names.profile == profile.name);
    before.map_or_else(Arc::default, |virtual_server| Arc::clone(&virtual_server.requests))
}

/// Computes the digest for drift comparison if it is configured, and returns warnings about unused
/// `ignore` patterns.
fn compute_digest(generation: &Generation) -> Vec<Problem> {
    let config = &generation.config;
    let routes = config.profiles.iter().flat_map(|profile| &profile.routes);
    let answers = routes.map(|route| &route.action).any(|a| *a == config::Action::Drift);
    match &generation.shared.secrets {
        Some(secrets) if answers || config.drift.is_some() => generation
            .digest
            .get_or_init(|| ConfigDigest::new(generation, secrets))
            .unused_patterns()
            .collect(),
        _ => Vec::new(),
    }
}

pub(super) fn error(code: &'static str, place: Span, message: String, help: &str) -> Problem {
    Problem {
        severity: Severity::Error,
        code,
        message,
        place: Some(place),
        label: "named here".to_owned(),
        related: None,
        help: Some(help.to_owned()),
    }
}

struct Compiler<'a> {
    loaded: &'a [Vec<CertifiedPair>],
    /// Upstreams with their counters.
    upstreams: &'a [(Arc<Upstream>, UpstreamMetrics)],
    provider: &'a Arc<CryptoProvider>,
    names: &'a LabelLimits,
    shared: &'a SharedKeys,
    config_version: &'a Arc<ConfigVersion>,
    digest: &'a Arc<OnceLock<ConfigDigest>>,
    guard: &'a Arc<GenerationGuard>,
    adds_trace_context: bool,
    tracks_socketio: bool,
    purpose: Purpose,
    http2_send_buffers: usize,
}

impl Compiler<'_> {
    fn virtual_server(
        &self,
        profile: &Profile,
        listener: &config::Listener,
        requests: &Arc<Quota>,
        problems: &mut Vec<Problem>,
    ) -> Option<VirtualServer> {
        let label = listener.listen.to_string();
        let served = match listener.serve {
            ListenerMode::RedirectToHttps { port } => ListenerService::RedirectToHttps(port),
            ListenerMode::Routes => self.routes(profile, None),
            ListenerMode::Component(id) => self.routes(profile, Some(id)),
        };
        let tls = match served {
            ListenerService::RedirectToHttps(_) => None,
            ListenerService::Routes { .. } if self.purpose == Purpose::Explain => None,
            ListenerService::Routes { .. } => Some(self.tls(profile, listener, problems)?),
        };
        let edits = response_edits(&profile.response_headers);
        Some(VirtualServer {
            address: listener.listen,
            metrics: match listener.proxy_protocol {
                Some(_) => self.names.listener_for_balancers(&profile.name, &label),
                None => self.names.listener(&profile.name, &label),
            },
            proxy_protocol: listener.proxy_protocol.clone(),
            announces: served.announces(),
            names: Arc::new(ListenerLabels {
                profile: profile.name.clone(),
                listener: label,
                logs: profile.access_log,
            }),
            adds_trace_context: self.adds_trace_context,
            tracks_socketio: self.tracks_socketio,
            http2_send_buffers: self.http2_send_buffers,
            place: listener.place,
            served,
            hosts: profile.hosts.iter().map(|(host, _)| host.clone()).collect(),
            trusted: profile.trusted_proxies.clone(),
            named_by: profile.named_by,
            limits: profile.limits.clone(),
            requests: Arc::clone(requests),
            timeouts: profile.timeouts.clone(),
            edits: Arc::new(if tls.is_some() { edits } else { edits.for_plain_http() }),
            tls,
            config_version: Arc::clone(self.config_version),
            guard: Arc::clone(self.guard),
        })
    }

    fn tls(
        &self,
        profile: &Profile,
        listener: &config::Listener,
        problems: &mut Vec<Problem>,
    ) -> Option<ServerTls> {
        let (clients, place) = match &listener.client_certificates {
            ClientCertificates::Off => (None, listener.place),
            ClientCertificates::Optional { ca, place } => (Some((ca, false)), *place),
            ClientCertificates::Required { ca, place } => (Some((ca, true)), *place),
        };
        let help = "the file must be PEM, with the CA certificates that issue client certificates";
        let unusable = |message: String, help| error("listener.client-ca", place, message, help);
        let clients = match clients
            .map(|(ca, required)| certificate::read_authorities(ca).map(|cas| (cas, required)))
        {
            None => None,
            Some(Ok(clients)) => Some(clients),
            Some(Err(error)) => {
                problems.push(unusable(error.to_string(), error.help().unwrap_or(help)));
                return None;
            }
        };
        let scope = TicketScope::new(&format!("profile {}", profile.name), clients.as_ref());
        let chosen = profile.certificates.iter();
        let settings = server::TlsSettings {
            identities: chosen.filter_map(|id| self.loaded.get(id.0).cloned()).collect(),
            reject_unknown: profile.unknown_sni == config::UnknownSni::Refuse,
            http2: listener.http2,
            clients,
            tickets: self.shared.tickets(scope),
        };
        let built = server::config(settings, self.provider);
        built.map_err(|message| problems.push(unusable(message, help))).ok()
    }

    /// All routes of a profile, or those that apply on the port of one component.
    fn routes(&self, profile: &Profile, component: Option<UpstreamId>) -> ListenerService {
        let (mut rules, mut routes) = (Vec::new(), Vec::new());
        let mut shared = RouteCommon::new(profile);
        let prefixes: Vec<Option<&str>> = component.map_or(vec![None], |id| prefixes(profile, id));
        for route in &profile.routes {
            let seen = match (component, &route.action) {
                (None, _) => vec![(route.path.clone(), strip_prefix(route))],
                (Some(id), config::Action::Proxy { upstream, strip_prefix }) if *upstream == id => {
                    without(&route.path, strip_prefix.as_deref())
                        .map(|path| (path, None))
                        .into_iter()
                        .collect()
                }
                // A denial must also hold on the port of the component.
                (Some(_), config::Action::Deny) => prefixes
                    .iter()
                    .filter_map(|p| denied_without(&route.path, *p))
                    .map(|path| (path, None))
                    .collect(),
                _ => Vec::new(),
            };
            for (path, strip) in seen {
                let denies = route.action == config::Action::Deny;
                let websocket = route.websocket;
                rules.push(RouteRule { path, methods: methods(route), denies, websocket });
                routes.push(Arc::new(self.route(&mut shared, route, strip)));
            }
        }
        routes.shrink_to_fit();
        ListenerService::Routes { table: RouteTable::new(rules), routes }
    }

    fn route(
        &self,
        shared: &mut RouteCommon,
        route: &config::Route,
        strip_prefix: Option<String>,
    ) -> CompiledRoute {
        let action = match &route.action {
            config::Action::Deny => RouteAction::Deny,
            config::Action::Ready(ids) => RouteAction::Ready(
                ids.iter()
                    .filter_map(|id| self.upstreams.get(id.0))
                    .map(|(upstream, _)| Arc::clone(upstream))
                    .collect(),
            ),
            config::Action::Redirect { to, status } => {
                RouteAction::Redirect { to: to.clone(), status: *status }
            }
            config::Action::Proxy { upstream, .. } => match self.upstreams.get(upstream.0) {
                Some((upstream, counters)) => RouteAction::Proxy(ProxyTarget {
                    counters: counters.clone(),
                    first_byte: route.first_byte_timeout.unwrap_or(upstream.limits.first_byte),
                    sessions: Some(shared.sessions(self.names, route, upstream)),
                    upstream: Arc::clone(upstream),
                    strip_prefix,
                }),
                None => RouteAction::Deny,
            },
            config::Action::Drift => RouteAction::Drift(Arc::clone(self.digest)),
            config::Action::SelfTest(test) => {
                let upstream = Arc::new(upstreams::self_test(test.idle));
                let way = ProxyTarget {
                    counters: self.names.upstream(&upstream.name),
                    first_byte: upstream.limits.first_byte,
                    sessions: None,
                    upstream,
                    // The path of the self-test ends in a slash, and its resources are below it.
                    strip_prefix: route.path.as_str().strip_suffix('/').map(str::to_owned),
                };
                RouteAction::SelfTest(way, Arc::new(SelfTestServer::new(test)))
            }
        };
        // The self-test is a page of the gateway with its own security fields, which
        // `response-headers` must not weaken.
        let edited = !matches!(action, RouteAction::SelfTest(..));
        let metrics = self.names.begin(&shared.profile, &route.name);
        CompiledRoute {
            stats: Arc::new(RouteStats {
                name: Arc::clone(&route.name),
                report_only: route.report_only,
                metrics: if route.websocket { metrics.with_websockets() } else { metrics },
            }),
            place: route.place,
            action,
            max_body: if edited { route.max_body } else { SelfTestServer::LONGEST_BODY },
            websocket: route.websocket,
            retry: route.retry,
            admits: Oddities {
                encoded_slash: route.allow_encoded_slash,
                empty_segment: route.allow_empty_segments,
                parameter: route.allow_path_parameters,
            },
            passes: Arc::clone(&route.pass_request_headers),
            edits: if edited { shared.edits(&route.response_headers) } else { Arc::default() },
        }
    }
}

/// State shared by the routes of one listener, so that equal parts are allocated once.
struct RouteCommon {
    profile: Arc<str>,
    edits: Option<(Arc<[ResponseHeader]>, Arc<ResponseEdits>)>,
    /// Socket.IO counters, by upstream.
    sessions: HashMap<Arc<str>, Arc<LazyLock<SocketIoMetrics, socketio::MakeCounters>>>,
}

impl RouteCommon {
    fn new(profile: &Profile) -> Self {
        Self { profile: profile.name.as_str().into(), edits: None, sessions: HashMap::new() }
    }

    /// Response edits of a route. Reuses those of the previous route if the configured lists are
    /// equal.
    fn edits(&mut self, list: &Arc<[ResponseHeader]>) -> Arc<ResponseEdits> {
        if let Some((known, edits)) = &self.edits
            && known == list
        {
            return Arc::clone(edits);
        }
        let edits = Arc::new(response_edits(list));
        self.edits = Some((Arc::clone(list), Arc::clone(&edits)));
        edits
    }

    fn sessions(
        &mut self,
        names: &LabelLimits,
        route: &config::Route,
        upstream: &Upstream,
    ) -> Arc<socketio::SocketIoLabels> {
        let metrics = self.sessions.entry(Arc::clone(&upstream.name)).or_insert_with(|| {
            Arc::new(LazyLock::new(Box::new(names.socketio(&self.profile, &upstream.name))))
        });
        Arc::new(socketio::SocketIoLabels {
            profile: Arc::clone(&self.profile),
            route: Arc::clone(&route.name),
            upstream: Arc::clone(&upstream.name),
            metrics: Arc::clone(metrics),
        })
    }
}

fn response_edits(list: &[ResponseHeader]) -> ResponseEdits {
    ResponseEdits::new(list.iter().map(|header| (header.name.clone(), header.value.clone())))
}

/// Methods that a route accepts; empty for any.
fn methods(route: &config::Route) -> Vec<Method> {
    match route.action {
        config::Action::SelfTest(_) => vec![Method::GET, Method::POST],
        _ => route.methods.clone(),
    }
}
