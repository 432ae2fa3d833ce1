//! One data worker: a thread, its runtime, its listeners.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::generation::{Generation, Site};
use crate::net::Phase;
use crate::net::admission::Admission;
use crate::reverse::{Service, Worker, accept};
use crate::telemetry::Metrics;
use crate::telemetry::access_log::Handle;

/// How long tasks get to end by themselves when a worker cuts.
const LAST_LINES: Duration = Duration::from_millis(200);

/// What the workers of one listener share.
#[derive(Clone)]
pub(super) struct Shared {
    site: Arc<ArcSwap<Site>>,
    admission: Arc<Admission>,
}

/// What a worker thread is started with.
pub(super) struct Seed {
    pub(super) sockets: Vec<TcpListener>,
    pub(super) sites: Vec<Shared>,
    pub(super) lines: Handle,
    pub(super) metrics: Arc<Metrics>,
    pub(super) phase: watch::Receiver<(Phase, Duration)>,
    pub(super) ending: mpsc::UnboundedSender<()>,
}

/// One per site, in their order.
pub(super) fn shared(generation: &Generation) -> Vec<Shared> {
    let one = |site: &Arc<Site>| Shared {
        site: Arc::new(ArcSwap::new(Arc::clone(site))),
        admission: Arc::default(),
    };
    generation.sites.iter().map(one).collect()
}

/// Says that the worker has ended, also when it panics.
struct Ending(mpsc::UnboundedSender<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        // Closed means that nobody waits any more.
        let _ = self.0.send(());
    }
}

/// The life of a worker thread.
pub(super) fn run(seed: Seed) {
    let ending = Ending(seed.ending.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    match runtime {
        Ok(runtime) => runtime.block_on(work(seed)),
        Err(error) => tracing::error!("a worker cannot start: {error}"),
    }
    drop(ending);
}

async fn work(mut seed: Seed) {
    let worker = Worker::new(seed.lines.lines(), Arc::clone(&seed.metrics));
    let local = Rc::clone(&worker.local);
    for (socket, shared) in seed.sockets.into_iter().zip(seed.sites) {
        let service = Rc::new(Service {
            worker: Rc::clone(&worker),
            site: shared.site,
            admission: shared.admission,
        });
        match tokio::net::TcpListener::from_std(socket) {
            Ok(listener) => local.spawn(accept::run(service, listener)),
            Err(error) => return tracing::error!("a worker cannot take connections: {error}"),
        }
    }
    loop {
        let (phase, spread) = *seed.phase.borrow_and_update();
        if phase != local.phase() {
            local.enter(phase, spread);
        }
        if phase == Phase::Cutting {
            // Tunnels write their lines; what is still open after that goes with the runtime.
            let _ = tokio::time::timeout(LAST_LINES, local.emptied()).await;
            break;
        }
        tokio::select! {
            changed = seed.phase.changed() => if changed.is_err() { return },
            () = local.emptied(), if phase != Phase::Serving => break,
        }
    }
    worker.lines.flush();
}
