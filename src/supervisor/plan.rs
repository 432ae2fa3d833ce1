//! Dry run of a reload (`app-gateway plan`): the effects of a configuration directory on the
//! running gateway.
//!
//! A plan compiles the configuration like a reload. It then evaluates every open tunnel and the
//! most recent requests against the new configuration, on a blocking thread. It never binds a
//! socket, resolves a name or changes a metric.

use std::collections::{HashMap, hash_map};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::admin::report::{ItemDiff, OpenCounts, Plan, ReplayedRequests, RerouteGroup};
use crate::config::{self, RejectedConfig, Span};
use crate::forward::PROFILE_LABEL;
use crate::generation::passthrough::{PassthroughConn, ReloadVerdict};
use crate::generation::virtual_server::{ProxyTarget, RouteAction, RouteQuery, TunnelInfo};
use crate::generation::{self, Generation, ListenerService, RouteDecision, VirtualServer};
use crate::message::Reason;
use crate::telemetry::Metrics;
use crate::telemetry::mask::QueryMask;
use crate::telemetry::recent::RecentRequest;
use crate::tls::{ClientAuth, ServerTls};

use super::changes::{self, ConfigDifference};
use super::config_source::ConfigSource;
use super::worker::{WorkerCommand, WorkerSnapshot};

/// Time limit for the workers to report their tunnels and recent requests.
const WORKER_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of request groups in a plan.
const MAX_KINDS: usize = 100;

/// Inputs of a plan.
pub(super) struct PlanInputs {
    pub(super) origin: ConfigSource,
    /// Directory to plan; `None` is the directory of the running gateway.
    pub(super) directory: Option<PathBuf>,
    pub(super) generation: Arc<Generation>,
    pub(super) started: changes::StartupOnly,
    pub(super) workers: Vec<UnboundedSender<WorkerCommand>>,
}

impl PlanInputs {
    /// Makes the plan.
    pub(super) async fn plan(self) -> Plan {
        let snapshot = snapshot(&self.workers).await;
        let failed =
            self.refused_plan(format!("the plan failed: {}\n", Reason::Internal.sentence()));
        tokio::task::spawn_blocking(move || self.evaluate(&snapshot)).await.unwrap_or(failed)
    }

    fn refused_plan(&self, problems: String) -> Plan {
        let config_version = &self.generation.config_version;
        let directory = self.directory.as_ref().unwrap_or(&self.origin.directory);
        Plan {
            directory: directory.display().to_string(),
            refused: true,
            problems,
            generation: config_version.number(),
            config: config_version.hash().to_owned(),
            new_config: String::new(),
            items: Vec::new(),
            kept: std::collections::BTreeMap::new(),
            open: OpenCounts::default(),
            requests: ReplayedRequests::default(),
        }
    }

    fn evaluate(self, snapshot: &WorkerSnapshot) -> Plan {
        let environment = |name: &str| (self.origin.environment)(name);
        let directory = self.directory.as_ref().unwrap_or(&self.origin.directory);
        // Metrics of its own, because a plan must not add series to those of the gateway.
        let Ok(metrics) = Metrics::new(Reason::ALL.iter().map(|reason| reason.word())) else {
            return self.refused_plan("the plan failed: two metrics have one name\n".to_owned());
        };
        let (provider, old) = (&self.origin.provider, &self.generation);
        let loaded = generation::load(directory, &environment, provider, &metrics, Some(old));
        let compiled = match loaded {
            Ok(compiled) => compiled,
            Err(RejectedConfig { sources, problems, .. }) => {
                return self.refused_plan(config::draw(&sources, &problems, false));
            }
        };
        let new = &compiled.generation;
        let problems = if compiled.warnings.is_empty() {
            String::new()
        } else {
            config::draw(&new.config.sources, &compiled.warnings, false)
        };
        let mut now = OpenNow::new(old, &snapshot.tunnels, new);
        now.add_passthrough(old, &snapshot.passthrough_conn, new);
        now.add_outdated(old, new);
        let (differences, kept) = changes::between(&self.started, old, new);
        let items = differences.into_iter().map(|difference| now.with_counts(difference)).collect();
        Plan {
            refused: false,
            new_config: new.hash(),
            items,
            kept,
            open: now.all,
            requests: rerouted(&snapshot.recent, old, new),
            ..self.refused_plan(problems)
        }
    }
}

/// Tunnels and recent requests of all workers. Workers that do not answer in time are left out.
async fn snapshot(workers: &[UnboundedSender<WorkerCommand>]) -> WorkerSnapshot {
    let (sender, mut answers) = unbounded_channel();
    for worker in workers {
        let _ = worker.send(WorkerCommand::Snapshot(sender.clone()));
    }
    drop(sender);
    let mut all = WorkerSnapshot::default();
    let gather = async {
        while let Some(mut snapshot) = answers.recv().await {
            all.tunnels.append(&mut snapshot.tunnels);
            all.passthrough_conn.append(&mut snapshot.passthrough_conn);
            all.recent.append(&mut snapshot.recent);
        }
    };
    let _ = tokio::time::timeout(WORKER_TIMEOUT, gather).await;
    all
}

/// Whether a reload would close the tunnel, by the same rule that the tunnel applies after a
/// reload.
fn is_closed(tunnel: &TunnelInfo, new: &Generation) -> bool {
    let query = (&*tunnel.host, &*tunnel.target);
    let carries = |virtual_server: &Arc<VirtualServer>| {
        virtual_server.still_carries(query, &tunnel.upstream, tunnel.endpoint.as_deref())
            && virtual_server.accepts(&tunnel.handshake)
    };
    !new.replacement(&tunnel.virtual_server.load()).is_some_and(carries)
}

/// Open connections, tunnels and requests of the running gateway, by configuration item.
#[derive(Default)]
struct OpenNow {
    all: OpenCounts,
    /// Counts by the place of the route's `path` key in the files, or else of its `upstream` key.
    routes: HashMap<Span, OpenCounts>,
    /// Counts by the name of the upstream.
    upstreams: HashMap<String, OpenCounts>,
    /// Counts by the label of the listener.
    listeners: HashMap<String, OpenCounts>,
}

impl OpenNow {
    fn new(generation: &Generation, tunnels: &[TunnelInfo], new: &Generation) -> Self {
        let mut now = Self::default();
        // Tunnels are assigned by name, because an earlier generation may have opened them.
        let mut places = HashMap::new();
        for virtual_server in &generation.virtual_servers {
            let connections = gauge(&virtual_server.metrics.active);
            now.all.connections += connections;
            now.listeners.entry(virtual_server.names.listener.clone()).or_default().connections =
                connections;
            let ListenerService::Routes { routes, .. } = &virtual_server.served else { continue };
            for route in routes {
                places.insert(
                    (virtual_server.names.profile.as_str(), &*route.stats.name),
                    route.place,
                );
                // The listeners of a profile share a route's gauge.
                let hash_map::Entry::Vacant(entry) = now.routes.entry(route.place) else {
                    continue;
                };
                let requests = gauge(&route.stats.metrics.in_flight);
                entry.insert(OpenCounts { requests, ..OpenCounts::default() });
                now.all.requests += requests;
                if let RouteAction::Proxy(ProxyTarget { upstream, .. }) = &route.action {
                    now.upstreams.entry(upstream.name.to_string()).or_default().requests +=
                        requests;
                }
            }
        }
        for tunnel in tunnels {
            let closes = is_closed(tunnel, new);
            let count = |open: &mut OpenCounts| {
                open.websockets += 1;
                open.closing += u64::from(closes);
            };
            count(&mut now.all);
            count(now.upstreams.entry(tunnel.upstream.to_string()).or_default());
            count(now.listeners.entry(tunnel.names.listener.clone()).or_default());
            let name = tunnel.route.as_ref().map_or("", |route| &*route.name);
            if let Some(place) = places.get(&(tunnel.names.profile.as_str(), name)) {
                count(now.routes.entry(*place).or_default());
            }
        }
        now
    }

    /// Adds passthrough connections.
    fn add_passthrough(
        &mut self,
        generation: &Generation,
        passthrough_conn: &[PassthroughConn],
        new: &Generation,
    ) {
        let mut places = HashMap::new();
        for passthrough_listener in &generation.passthrough_listeners {
            let connections = gauge(&passthrough_listener.metrics.active);
            self.all.connections += connections;
            let label = passthrough_listener.names.listener.clone();
            self.listeners.entry(label).or_default().connections = connections;
            for route in passthrough_listener.routes() {
                places.insert(
                    (passthrough_listener.names.profile.as_str(), route.stats.name.as_str()),
                    route.place,
                );
            }
        }
        for one in passthrough_conn {
            let replacement = new.passthrough_replacement(&one.listener.load());
            let closes = replacement.is_none_or(|replacement| {
                replacement.reload_verdict(one) == ReloadVerdict::Forbidden
            });
            let count = |open: &mut OpenCounts| {
                open.passed_through += 1;
                open.passed_closing += u64::from(closes);
            };
            count(&mut self.all);
            count(self.upstreams.entry(one.upstream.to_string()).or_default());
            count(self.listeners.entry(one.names.listener.clone()).or_default());
            if let Some(place) = places.get(&(one.names.profile.as_str(), one.stats.name.as_str()))
            {
                count(self.routes.entry(*place).or_default());
            }
        }
    }

    /// Adds connections that may need a new TLS handshake.
    fn add_outdated(&mut self, generation: &Generation, new: &Generation) {
        for virtual_server in &generation.virtual_servers {
            let replacement = new
                .virtual_servers
                .iter()
                .find(|replacement| replacement.address == virtual_server.address);
            if replacement.is_some_and(|replacement| {
                may_need_handshake(virtual_server.tls.as_ref(), replacement.tls.as_ref())
            }) {
                self.count_outdated(
                    &virtual_server.names.listener,
                    gauge(&virtual_server.metrics.active),
                );
            }
        }
        let listeners = |generation: &Generation| {
            let all = generation
                .forward_proxy
                .iter()
                .flat_map(|forward_proxy| forward_proxy.listeners.clone());
            all.collect::<Vec<_>>()
        };
        let replacements = listeners(new);
        for listener in listeners(generation) {
            let active = generation.names().listener(PROFILE_LABEL, &listener.label).active;
            let active = gauge(&active);
            self.all.connections += active;
            self.listeners.entry(listener.label.clone()).or_default().connections = active;
            let replacement =
                replacements.iter().find(|replacement| replacement.address == listener.address);
            if replacement.is_some_and(|replacement| {
                may_need_handshake(listener.tls.as_ref(), replacement.tls.as_ref())
            }) {
                self.count_outdated(&listener.label, active);
            }
        }
    }

    fn count_outdated(&mut self, listener: &str, connections: u64) {
        self.all.outdated += connections;
        self.listeners.entry(listener.to_owned()).or_default().outdated = connections;
    }

    /// Adds the counts of its item to a difference.
    fn with_counts(&self, difference: ConfigDifference<'_>) -> ItemDiff {
        let ConfigDifference { mut change, old } = difference;
        let Some((name, item)) = old else { return change };
        let open = match &*name.kind {
            "route" => {
                let key = item.key("path").or_else(|| item.key("upstream"));
                key.and_then(|key| self.routes.get(&key.place))
            }
            "upstream" => self.upstreams.get(&*name.name),
            "listener" => self.listeners.get(&*name.name),
            _ => None,
        };
        change.open = open.copied().unwrap_or_default();
        change
    }
}

/// Whether a connected client may need a new TLS handshake.
fn may_need_handshake(before: Option<&ServerTls>, now: Option<&ServerTls>) -> bool {
    let client_auth = |tls: Option<&ServerTls>| tls.and_then(|tls| tls.client_auth.clone());
    before.is_some() != now.is_some()
        || ClientAuth::may_invalidate(client_auth(before).as_deref(), client_auth(now).as_deref())
}

fn gauge(gauge: &prometheus::IntGauge) -> u64 {
    u64::try_from(gauge.get()).unwrap_or_default()
}

/// Decides every recent request with both generations, and groups those that differ.
fn rerouted(recent: &[RecentRequest], old: &Generation, new: &Generation) -> ReplayedRequests {
    let mut kinds = HashMap::<(String, String, String, String), usize>::new();
    let mut different = 0;
    let log = &old.config.gateway.access_log;
    let mask = QueryMask::new(&log.mask, &log.mask_path);
    for seen in recent {
        let (before, after) = (describe_decision(seen, old), describe_decision(seen, new));
        if before == after {
            continue;
        }
        different += 1;
        let method = if seen.upgrade { "WS".to_owned() } else { seen.method.to_string() };
        let path = String::from_utf8_lossy(&mask.masked(seen.path())).into_owned();
        *kinds.entry((method, path, before, after)).or_default() += 1;
    }
    let kinds = kinds.into_iter();
    let mut kinds: Vec<_> = kinds
        .map(|((method, path, old, new), count)| RerouteGroup { count, method, path, old, new })
        .collect();
    kinds.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.path.cmp(&b.path)));
    kinds.truncate(MAX_KINDS);
    ReplayedRequests { looked_at: recent.len(), different, kinds }
}

/// Description of the decision of a generation about a request.
fn describe_decision(seen: &RecentRequest, generation: &Generation) -> String {
    let Some(virtual_server) = generation
        .virtual_servers
        .iter()
        .find(|virtual_server| virtual_server.address == seen.listener)
    else {
        return "no listener".to_owned();
    };
    // Over HTTP/2 a WebSocket is opened with CONNECT. Routes and upstreams see it as a GET.
    let method = if seen.upgrade { &http::Method::GET } else { &seen.method };
    let query =
        RouteQuery { host: seen.host(), target: seen.path(), method, upgrade: seen.upgrade };
    match virtual_server.decide_query(&query) {
        Ok(RouteDecision::Route(route)) => match &route.action {
            RouteAction::Proxy(ProxyTarget { upstream, strip_prefix: Some(prefix), .. }) => {
                format!("route {} to {} without {prefix}", route.stats.name, upstream.name)
            }
            RouteAction::Proxy(ProxyTarget { upstream, .. }) => {
                format!("route {} to {}", route.stats.name, upstream.name)
            }
            RouteAction::Redirect { to, status } => format!("{status} to {to}"),
            RouteAction::Deny => format!("rejected {}", Reason::RouteDenied.word()),
            RouteAction::Ready(_) => "the readiness of the gateway".to_owned(),
            RouteAction::SelfTest(..) => "the self-test".to_owned(),
            RouteAction::Drift(_) => "the drift report".to_owned(),
        },
        Ok(RouteDecision::AddSlash) => "308 to the same path with /".to_owned(),
        Ok(RouteDecision::ToHttps(port)) => format!("308 to https, port {port}"),
        Err(refusal) => format!("rejected {} {}", refusal.reason.code(), refusal.reason.word()),
    }
}
