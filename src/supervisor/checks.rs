//! Health checks and failover, on the control runtime: one task per checked endpoint, and one per
//! upstream with backups.

use std::cell::RefCell;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_local};

use crate::generation::Generation;
use crate::net::WorkerLocal;
use crate::telemetry::Metrics;
use crate::upstream::check::{FaultKind, ask};
use crate::upstream::{Endpoint, HealthCheck, Upstream};

/// Minimum time between two checks of an endpoint, however many requests to it fail.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Interval between decisions which tier of an upstream is used.
const TIER_INTERVAL: Duration = Duration::from_millis(200);

/// Runs the health checks and failover decisions of the current generation.
pub(super) struct HealthChecker {
    metrics: Arc<Metrics>,
    serving: Rc<RefCell<Option<Arc<Generation>>>>,
    upstreams: Rc<RefCell<Vec<Arc<Upstream>>>>,
    needed: Rc<RefCell<Vec<Arc<Upstream>>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for HealthChecker {
    fn drop(&mut self) {
        self.stop();
    }
}

impl HealthChecker {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let (serving, upstreams, needed) = Default::default();
        Self { metrics, serving, upstreams, needed, tasks: Vec::new() }
    }

    /// The current generation; `None` before the first [`HealthChecker::follow`].
    pub(super) fn serving(&self) -> Rc<RefCell<Option<Arc<Generation>>>> {
        Rc::clone(&self.serving)
    }

    /// Upstreams of the current generation.
    pub(super) fn upstreams(&self) -> Rc<RefCell<Vec<Arc<Upstream>>>> {
        Rc::clone(&self.upstreams)
    }

    /// Upstreams that must be up for the gateway to be ready.
    pub(super) fn needed(&self) -> Rc<RefCell<Vec<Arc<Upstream>>>> {
        Rc::clone(&self.needed)
    }

    fn stop(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }

    /// Checks the endpoints of this generation from now on, and no others. Endpoints that both
    /// generations have keep their state and the time of their next check.
    pub(super) fn follow(&mut self, generation: &Arc<Generation>) {
        self.serving.replace(Some(Arc::clone(generation)));
        let all = &generation.upstreams;
        let needed = generation.config.ready.iter().filter_map(|id| all.get(id.0).cloned());
        self.needed.replace(needed.collect());
        let same = |(a, b): (&Arc<Upstream>, &Arc<Upstream>)| Arc::ptr_eq(a, b);
        let before = self.upstreams.replace(all.clone());
        if before.len() == all.len() && before.iter().zip(all).all(same) {
            return;
        }
        self.stop();
        let gone = before.iter().map(|upstream| &*upstream.name);
        let gone = gone.filter(|name| !all.iter().any(|kept| *kept.name == **name));
        self.metrics.endpoints.forget(gone, FaultKind::RESULTS);
        let local = WorkerLocal::new();
        for upstream in all {
            if upstream.policy.failover.is_some() {
                self.tasks.push(spawn_local(watch_tiers(Arc::clone(upstream))));
            }
            for endpoint in &upstream.endpoints {
                let health = &endpoint.health;
                match &upstream.check {
                    None => health.assume_state(true),
                    Some(check) => {
                        if !health.is_checked() {
                            health.assume_state(check.initially_up);
                        }
                        self.tasks.push(spawn_local(watch_endpoint(CheckedEndpoint {
                            upstream: Arc::clone(&upstream.name),
                            endpoint: Arc::clone(endpoint),
                            check: Arc::clone(check),
                            metrics: Arc::clone(&self.metrics),
                            local: Rc::clone(&local),
                        })));
                    }
                }
            }
        }
    }
}

/// An endpoint with a health check, and everything that its task needs.
struct CheckedEndpoint {
    upstream: Arc<str>,
    endpoint: Arc<Endpoint>,
    check: Arc<HealthCheck>,
    metrics: Arc<Metrics>,
    local: Rc<WorkerLocal>,
}

/// Decides periodically which tier of an upstream is used. Never ends.
async fn watch_tiers(upstream: Arc<Upstream>) {
    let Some(settings) = upstream.policy.failover else { return };
    let tiers = &upstream.upstream_state.tiers;
    loop {
        tokio::time::sleep(TIER_INTERVAL).await;
        let now = jiff::Timestamp::now().as_second();
        let moved = tiers.judge(upstream.seen(), &settings, Instant::now(), now);
        let Some(moved) = moved else { continue };
        let name = &*upstream.name;
        if moved.to_backup {
            tracing::warn!(upstream = name, "failed over to the backups: {}", moved.why);
            continue;
        }
        tracing::info!(upstream = name, "failed back to the primary endpoints: {}", moved.why);
        for (endpoint, role) in upstream.endpoints.iter().zip(&upstream.ranks) {
            if !role.backup {
                endpoint.health.rise();
            }
        }
    }
}

/// Checks an endpoint periodically. A request that could not connect brings the next check forward.
/// Never ends.
async fn watch_endpoint(own: CheckedEndpoint) {
    let health = &own.endpoint.health;
    loop {
        let checked = health.told().checked;
        let since = checked.map_or(Duration::MAX, |at| at.elapsed());
        let due = jittered(health.pause(&own.check)).saturating_sub(since);
        let least = MIN_CHECK_INTERVAL.min(own.check.interval).saturating_sub(since);
        tokio::select! {
            () = tokio::time::sleep(due.max(least)) => {}
            () = check_requested(&own, least) => {}
        }
        own.check_once().await;
    }
}

/// Waits until a failed request asks for a check and `least` has passed.
async fn check_requested(own: &CheckedEndpoint, least: Duration) {
    own.endpoint.health.check_requested().await;
    tokio::time::sleep(least).await;
}

impl CheckedEndpoint {
    async fn check_once(&self) {
        let result = ask(&self.endpoint, &self.check, &self.local).await;
        let word = result.as_ref().err().map_or("good", |fault| fault.word.as_str());
        self.metrics.endpoints.checked(&self.upstream, word);
        if result.as_ref().is_err_and(|fault| fault.word == FaultKind::Internal) {
            self.endpoint.health.told().checked = Some(Instant::now());
            return;
        }
        let now = jiff::Timestamp::now().as_second();
        let Some(change) = self.endpoint.health.checked(&result, &self.check, now) else { return };
        let (upstream, endpoint) = (&*self.upstream, &*self.endpoint.label);
        if change.up {
            tracing::info!(upstream, endpoint, "the endpoint is up: {}", change.why);
        } else {
            tracing::warn!(upstream, endpoint, "the endpoint is down: {}", change.why);
        }
    }
}

/// Changes `pause` by a random value of up to ±10 %, so that checks spread out.
pub(super) fn jittered(pause: Duration) -> Duration {
    // Every `RandomState` has other keys, which is random enough for jitter.
    let chance = RandomState::new().build_hasher().finish() % 201;
    let tenths = u32::try_from(chance).unwrap_or(100);
    pause * (900 + tenths) / 1000
}
