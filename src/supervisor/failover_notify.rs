//! Notifies the workers when passthrough upstreams fail over or back, so that they can close
//! connections to endpoints that are no longer in use.
//!
//! A task of the control runtime compares the state of these upstreams several times a second. The
//! workers do not poll.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::generation::Generation;

use super::worker::WorkerCommand;

/// Interval between two comparisons.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Sends [`WorkerCommand::Shifted`] after every change. Never ends.
pub(super) async fn run(
    serving: Rc<RefCell<Option<Arc<Generation>>>>,
    workers: Vec<UnboundedSender<WorkerCommand>>,
) {
    let mut known = None;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let now = serving.borrow().as_deref().map(routing_states).unwrap_or_default();
        if known.replace(now.clone()).is_some_and(|known| known != now) {
            for worker in &workers {
                // The send fails if the worker has ended, which the control loop notices.
                let _ = worker.send(WorkerCommand::Shifted);
            }
        }
    }
}

/// Routing states of all upstreams with passthrough routes, by name.
fn routing_states(generation: &Generation) -> BTreeMap<Arc<str>, (u64, u64, bool)> {
    let routes = generation
        .passthrough_listeners
        .iter()
        .flat_map(|passthrough_listener| passthrough_listener.routes());
    let upstreams = routes.map(|route| &route.upstream);
    upstreams.map(|upstream| (Arc::clone(&upstream.name), upstream.routing_state())).collect()
}
