//! Telling the workers when new work goes to other endpoints than before, so that what is passed
//! through to the others can be closed.
//!
//! Looked at on the control runtime several times a second, and only where something is passed
//! through: workers are told rarely, and look at nothing by themselves.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::generation::Generation;

use super::worker::WorkerCommand;

/// How often it is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Looks for ever.
pub(super) async fn tell(
    serving: Rc<RefCell<Option<Arc<Generation>>>>,
    workers: Vec<UnboundedSender<WorkerCommand>>,
) {
    let mut known = None;
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let now = serving.borrow().as_deref().map(routing_states).unwrap_or_default();
        if known.replace(now.clone()).is_some_and(|known| known != now) {
            for worker in &workers {
                // A worker that is gone is noticed by the control loop.
                let _ = worker.send(WorkerCommand::Shifted);
            }
        }
    }
}

/// Where new work goes, by the names of upstreams that something is passed through to.
fn routing_states(generation: &Generation) -> BTreeMap<Arc<str>, (u64, u64, bool)> {
    let routes = generation
        .passthrough_listeners
        .iter()
        .flat_map(|passthrough_listener| passthrough_listener.routes());
    let upstreams = routes.map(|route| &route.upstream);
    upstreams.map(|upstream| (Arc::clone(&upstream.name), upstream.routing_state())).collect()
}
