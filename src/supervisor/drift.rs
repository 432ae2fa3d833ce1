//! Drift monitor: compares the configuration of this gateway with that of its peers, in one task
//! per peer on the control runtime.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, header};
use http_body_util::Full;
use tokio::task::{JoinHandle, spawn_local};

use crate::admin::report::Status;
use crate::generation::Generation;
use crate::generation::drift::{
    CLASSES, ConfigDigest, DriftPeer, MAX_ANSWER, PeerState, REQUEST_FIELD,
};
use crate::telemetry::Metrics;
use crate::upstream::Endpoint;
use crate::upstream::fetch::{FetchLimits, fetch};

use super::checks::jittered;

/// Delay between a start or reload and the first comparison.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// Limits of one comparison.
const LIMITS: FetchLimits = FetchLimits { body: MAX_ANSWER, time: Duration::from_secs(10) };

/// Maximum number of differences that one log line names.
const MAX_NAMED_PER_LINE: usize = 5;

/// Maximum number of differences kept per peer. The metrics count all of them.
const MAX_DIFFERENCES: usize = 200;

/// Runs the comparisons of the current generation with its peers.
pub(super) struct DriftMonitor {
    metrics: Arc<Metrics>,
    status: Rc<RefCell<Status>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for DriftMonitor {
    fn drop(&mut self) {
        self.stop();
    }
}

impl DriftMonitor {
    pub(super) fn new(metrics: Arc<Metrics>, status: Rc<RefCell<Status>>) -> Self {
        Self { metrics, status, tasks: Vec::new() }
    }

    /// Ends all comparisons.
    pub(super) fn stop(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }

    /// Compares this generation from now on: once after [`FIRST_DELAY`], then at its own interval.
    /// Peers that both generations have keep their state and metrics, because a gap in a metric
    /// would look like a change.
    pub(super) fn follow(&mut self, generation: &Arc<Generation>) {
        self.stop();
        let before = std::mem::take(&mut self.status.borrow_mut().peers);
        self.compare(generation, &before);
        let status = self.status.borrow();
        let stays = |gone: &DriftPeer| status.peers.iter().any(|peer| peer.peer == gone.peer);
        for gone in before.iter().filter(|peer| !stays(peer)) {
            self.metrics.peers.forget(&gone.peer, &CLASSES);
        }
    }

    /// Starts one task per peer. `before` is the state of the peers of the previous generation.
    fn compare(&mut self, generation: &Arc<Generation>, before: &[DriftPeer]) {
        let Some(drift) = &generation.config.drift else { return };
        let peers = drift.peers.iter().filter_map(|id| generation.upstreams.get(id.0));
        for upstream in peers {
            for endpoint in &upstream.endpoints {
                let label = &*endpoint.label;
                let known = before.iter().find(|peer| *peer.peer == *label).cloned();
                let fresh = || DriftPeer { peer: label.to_owned(), ..DriftPeer::default() };
                self.status.borrow_mut().peers.push(known.unwrap_or_else(fresh));
                self.tasks.push(spawn_local(compare_periodically(ComparedPeer {
                    generation: Arc::clone(generation),
                    endpoint: Arc::clone(endpoint),
                    announces: upstream.announces,
                    metrics: Arc::clone(&self.metrics),
                    status: Rc::clone(&self.status),
                })));
            }
        }
    }
}

/// A peer, and everything that the task of its comparisons needs.
struct ComparedPeer {
    generation: Arc<Generation>,
    endpoint: Arc<Endpoint>,
    announces: bool,
    metrics: Arc<Metrics>,
    status: Rc<RefCell<Status>>,
}

/// Compares periodically. Ends if this gateway has no digest.
async fn compare_periodically(own: ComparedPeer) {
    let Some(drift) = &own.generation.config.drift else { return };
    let host = drift.host.as_deref().unwrap_or(&own.endpoint.label);
    let mut pause = FIRST_DELAY.min(drift.interval);
    loop {
        tokio::time::sleep(jittered(pause)).await;
        pause = drift.interval;
        let Some(digest) = own.generation.digest.get() else { return };
        own.record(own.compare_once(digest, (host, &drift.path)).await);
    }
}

impl ComparedPeer {
    async fn compare_once(&self, digest: &ConfigDigest, (host, path): (&str, &str)) -> DriftPeer {
        let label = self.endpoint.label.to_string();
        let without = |state, detail: String| DriftPeer {
            peer: label.clone(),
            state,
            detail,
            ..DriftPeer::default()
        };
        let Some(question) = digest.question() else {
            let why = "the system has no random numbers";
            return without(PeerState::Unreachable, why.to_owned());
        };
        let request = Request::get(path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, "app-gateway-drift")
            .header(REQUEST_FIELD, &*question)
            .header(header::CONNECTION, "close")
            .body(Full::default());
        let request = match request {
            Ok(request) => request,
            Err(error) => return without(PeerState::Unreachable, error.to_string()),
        };
        match fetch(&self.endpoint, self.announces, request, LIMITS).await {
            Err(fault) => without(PeerState::Unreachable, fault.to_string()),
            Ok((200, body)) => {
                let (state, detail, differences) = digest.judge(&question, &body);
                let compared = jiff::Timestamp::now().as_second();
                DriftPeer { peer: label, state, detail, compared, differences }
            }
            Ok((404, _)) => without(
                PeerState::Unverified,
                format!(
                    "it answers 404: it has another secret, or no route {path} with `drift = true`"
                ),
            ),
            Ok((421, _)) => without(
                PeerState::Unverified,
                format!("it does not answer for {host}: `host` under `[gateway.drift]` names one"),
            ),
            Ok((status, _)) => without(PeerState::Unreachable, format!("it answers {status}")),
        }
    }

    /// Stores the result of a comparison in status and metrics, and logs it if it has changed.
    fn record(&self, mut now: DriftPeer) {
        let mut status = self.status.borrow_mut();
        let Some(known) = status.peers.iter_mut().find(|peer| peer.peer == now.peer) else {
            return;
        };
        let succeeded = matches!(now.state, PeerState::Alike | PeerState::Differs);
        let counts = CLASSES
            .map(|class| (class, now.differences.iter().filter(|one| one.class == class).count()));
        now.differences.truncate(MAX_DIFFERENCES);
        if !succeeded {
            // Keep the differences of the last comparison that succeeded.
            now.compared = known.compared;
            now.differences.clone_from(&known.differences);
        }
        self.metrics.peers.update_gauges(
            &now.peer,
            (succeeded, now.compared),
            counts.into_iter().filter(|_| succeeded),
        );
        if known.state != now.state || known.differences != now.differences {
            log_result(&now);
        }
        *known = now;
    }
}

fn log_result(peer: &DriftPeer) {
    let name = &*peer.peer;
    match peer.state {
        PeerState::Waiting => {}
        PeerState::Alike => tracing::info!(peer = name, "the configuration of the peer is equal"),
        PeerState::Differs => {
            let first = peer.differences.iter().take(MAX_NAMED_PER_LINE);
            let first: Vec<_> = first.map(|one| format!("{} {}", one.what, one.how)).collect();
            let more = peer.differences.len().saturating_sub(MAX_NAMED_PER_LINE);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            tracing::warn!(
                peer = name,
                "the configuration of the peer differs: {}{more} (app-gateway drift)",
                first.join(", ")
            );
        }
        PeerState::Unreachable | PeerState::Unverified | PeerState::Clock | PeerState::Itself => {
            tracing::warn!(
                peer = name,
                "the peer cannot be compared ({}): {}",
                peer.state.word(),
                peer.detail
            );
        }
    }
}
