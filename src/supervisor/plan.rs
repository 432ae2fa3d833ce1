//! What a directory would change, told without changing anything: `app-gateway plan`.
//!
//! The same steps as a reload, up to the point where sockets would be bound; then every open tunnel
//! and the latest requests are judged by the new configuration, on a thread that may block.
//!
//! In: a directory, and what the workers have open. Out: a [`Plan`]. Never: binds, looks up a name,
//! or touches a metric.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::admin::report::{Change, Open, Plan, Requests, Rerouted};
use crate::config::{self, Refused};
use crate::generation::site::{Action, Asked, Carried};
use crate::generation::{self, Decision, Generation, Route, Served, Site};
use crate::message::Reason;
use crate::telemetry::Metrics;
use crate::telemetry::recent::Seen;

use super::changes::{self, Difference};
use super::reload::Origin;
use super::worker::{Census, Command};

/// How long workers may take to say what they have open.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most kinds of requests that are told.
const KINDS: usize = 100;

/// Everything that a plan is made from.
pub(super) struct Planning {
    pub(super) origin: Origin,
    /// In place of the origin's own.
    pub(super) directory: Option<PathBuf>,
    pub(super) generation: Arc<Generation>,
    pub(super) started: changes::Fixed,
    pub(super) workers: Vec<UnboundedSender<Command>>,
}

impl Planning {
    /// Makes the plan.
    pub(super) async fn plan(self) -> Plan {
        let census = census(&self.workers).await;
        let failed = self.empty(format!("the plan failed: {}\n", Reason::Internal.sentence()));
        tokio::task::spawn_blocking(move || self.judge(&census)).await.unwrap_or(failed)
    }

    fn empty(&self, problems: String) -> Plan {
        let edition = &self.generation.edition;
        let directory = self.directory.as_ref().unwrap_or(&self.origin.directory);
        Plan {
            directory: directory.display().to_string(),
            refused: true,
            problems,
            generation: edition.number(),
            config: edition.hash().to_owned(),
            new_config: String::new(),
            items: Vec::new(),
            kept: std::collections::BTreeMap::new(),
            open: Open::default(),
            requests: Requests::default(),
        }
    }

    fn judge(self, census: &Census) -> Plan {
        let environment = |name: &str| (self.origin.environment)(name);
        let directory = self.directory.as_ref().unwrap_or(&self.origin.directory);
        // Not the running gateway's: a plan must not add routes to its metrics.
        let Ok(metrics) = Metrics::new(Reason::ALL.iter().map(|reason| reason.word())) else {
            return self.empty("the plan failed: two metrics have one name\n".to_owned());
        };
        let (provider, old) = (&self.origin.provider, &self.generation);
        let loaded = generation::load(directory, &environment, provider, &metrics, Some(old));
        let compiled = match loaded {
            Ok(compiled) => compiled,
            Err(Refused { sources, problems }) => {
                return self.empty(config::draw(&sources, &problems, false));
            }
        };
        let new = &compiled.generation;
        let problems = if compiled.warnings.is_empty() {
            String::new()
        } else {
            config::draw(&new.config.sources, &compiled.warnings, false)
        };
        let tunnels: Vec<_> =
            census.tunnels.iter().map(|tunnel| (tunnel, is_closed(tunnel, new))).collect();
        let (differences, kept) = changes::between(&self.started, old, new);
        let items =
            differences.into_iter().map(|difference| touched(difference, old, &tunnels)).collect();
        Plan {
            refused: false,
            new_config: new.hash(),
            items,
            kept,
            open: all_open(old, &tunnels),
            requests: rerouted(&census.recent, old, new),
            ..self.empty(problems)
        }
    }
}

/// What all workers have open. One that does not answer is left out.
async fn census(workers: &[UnboundedSender<Command>]) -> Census {
    let (sender, mut answers) = unbounded_channel();
    for worker in workers {
        let _ = worker.send(Command::Census(sender.clone()));
    }
    drop(sender);
    let mut all = Census::default();
    let gather = async {
        while let Some(mut census) = answers.recv().await {
            all.tunnels.append(&mut census.tunnels);
            all.recent.append(&mut census.recent);
        }
    };
    let _ = tokio::time::timeout(PATIENCE, gather).await;
    all
}

/// Whether a reload would close the tunnel, as the tunnel itself finds out after one.
fn is_closed(tunnel: &Carried, new: &Generation) -> bool {
    new.heir(&tunnel.site).is_none_or(|site| !site.still_carries(tunnel))
}

/// Adds what is open at an item.
fn touched(difference: Difference<'_>, old: &Generation, tunnels: &[(&Carried, bool)]) -> Change {
    let Difference { mut change, old: item, .. } = difference;
    let Some((name, item)) = item else { return change };
    match name.kind.as_str() {
        "route" => {
            let Some(place) = item.keys.get("path").map(|path| path.place) else { return change };
            let is_it = |route: &Arc<Route>| route.place == place;
            change.open = at_routes(old, is_it);
            let here = |tunnel: &&(&Carried, bool)| {
                let route = tunnel.0.route.as_ref();
                route.is_some_and(|route| {
                    // Also one that was opened under an earlier generation of the route.
                    old_routes(old).any(|known| is_it(known) && known.name == route.name)
                        && tunnel.0.site.profile == name.within
                })
            };
            count(&mut change.open, tunnels.iter().filter(here));
        }
        "upstream" => {
            let goes_there = |route: &Arc<Route>| matches!(&route.action, Action::Proxy { upstream, .. } if upstream.name == name.name);
            change.open = at_routes(old, goes_there);
            count(&mut change.open, tunnels.iter().filter(|t| t.0.upstream.name == name.name));
        }
        "listener" => {
            let address = item.keys.get("listen").map(|listen| listen.exact().trim_matches('"'));
            let is_it = |site: &Site| Some(site.label.as_str()) == address;
            let site = old.sites.iter().find(|site| is_it(site));
            change.open.connections = site.map_or(0, |site| gauge(&site.metrics.active));
            count(&mut change.open, tunnels.iter().filter(|tunnel| is_it(&tunnel.0.site)));
        }
        _ => {}
    }
    change
}

fn count<'a>(open: &mut Open, tunnels: impl Iterator<Item = &'a (&'a Carried, bool)>) {
    for (_, closes) in tunnels {
        open.websockets += 1;
        open.closing += u64::from(*closes);
    }
}

fn old_routes(generation: &Generation) -> impl Iterator<Item = &Arc<Route>> {
    generation.sites.iter().flat_map(|site| match &site.served {
        Served::Routes { routes, .. } => routes.as_slice(),
        Served::RedirectToHttps(_) => &[],
    })
}

/// Requests in progress at these routes. Listeners of a profile share a route's gauge.
fn at_routes(generation: &Generation, is_one: impl Fn(&Arc<Route>) -> bool) -> Open {
    let mut gauges = HashMap::new();
    for route in old_routes(generation).filter(|route| is_one(route)) {
        gauges.insert(route.place, gauge(&route.metrics.in_flight));
    }
    Open { requests: gauges.into_values().sum(), ..Open::default() }
}

fn all_open(generation: &Generation, tunnels: &[(&Carried, bool)]) -> Open {
    let mut open = at_routes(generation, |_| true);
    open.connections = generation.sites.iter().map(|site| gauge(&site.metrics.active)).sum();
    count(&mut open, tunnels.iter());
    open
}

fn gauge(gauge: &prometheus::IntGauge) -> u64 {
    u64::try_from(gauge.get()).unwrap_or_default()
}

/// Asks both generations about every request.
fn rerouted(recent: &[Seen], old: &Generation, new: &Generation) -> Requests {
    let mut kinds = HashMap::<(String, String, String, String), usize>::new();
    let mut different = 0;
    for seen in recent {
        let (before, after) = (decided(seen, old), decided(seen, new));
        if before == after {
            continue;
        }
        different += 1;
        let method = if seen.upgrade { "WS".to_owned() } else { seen.method.to_string() };
        let path = String::from_utf8_lossy(seen.path()).into_owned();
        *kinds.entry((method, path, before, after)).or_default() += 1;
    }
    let kinds = kinds.into_iter();
    let mut kinds: Vec<_> = kinds
        .map(|((method, path, old, new), count)| Rerouted { count, method, path, old, new })
        .collect();
    kinds.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.path.cmp(&b.path)));
    kinds.truncate(KINDS);
    Requests { looked_at: recent.len(), different, kinds }
}

/// What a generation does with a request, in words.
fn decided(seen: &Seen, generation: &Generation) -> String {
    let Some(site) = generation.sites.iter().find(|site| site.address == seen.listener) else {
        return "no listener".to_owned();
    };
    // A WebSocket over HTTP/2 is a CONNECT, and a GET to everyone behind us.
    let method = if seen.upgrade { &http::Method::GET } else { &seen.method };
    let asked = Asked { host: seen.host(), target: seen.path(), method, upgrade: seen.upgrade };
    match site.decide_asked(&asked) {
        Ok(Decision::Route(route)) => match &route.action {
            Action::Proxy { upstream, strip_prefix: Some(prefix), .. } => {
                format!("route {} to {} without {prefix}", route.name, upstream.name)
            }
            Action::Proxy { upstream, .. } => format!("route {} to {}", route.name, upstream.name),
            Action::Redirect { to, status } => format!("{status} to {to}"),
            Action::Deny => format!("refused {}", Reason::RouteDenied.word()),
        },
        Ok(Decision::AddSlash) => "308 to the same path with /".to_owned(),
        Ok(Decision::ToHttps(port)) => format!("308 to https, port {port}"),
        Err(refusal) => format!("refused {} {}", refusal.reason.code(), refusal.reason.word()),
    }
}
