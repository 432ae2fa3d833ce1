//! One data worker: a thread, its runtime, its listeners.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::downstream::Worker;
use crate::generation::ListenerKind;
use crate::generation::passthrough::PassthroughConn;
use crate::generation::virtual_server::TunnelInfo;
use crate::net::Phase;
use crate::socketio;
use crate::telemetry::Metrics;
use crate::telemetry::access_log::Handle;
use crate::telemetry::recent::Seen;

use super::posts::{Serving, Shared};
use super::systemd::Pulse;

/// How long tasks get to end by themselves when a worker cuts.
const LAST_LINES: Duration = Duration::from_millis(200);

/// What a worker is told.
pub(super) enum Command {
    /// Where it is in its life, and the time over which tunnels close.
    Enter(Phase, Duration),
    /// Take connections from a further socket.
    Listen(TcpListener, Shared),
    /// Take no more from this address.
    Close(ListenerKind, SocketAddr),
    /// Write the access log there.
    Log(Handle),
    /// The configuration has changed; the identities of its endpoints, sorted.
    Reloaded(Arc<[u64]>),
    /// New work goes to other endpoints than before.
    Shifted,
    /// Say what is open.
    Census(mpsc::UnboundedSender<Census>),
    /// Show with this number that you are alive.
    Beat(u64),
}

/// What a worker has open, and what it was asked of late.
#[derive(Default)]
pub(super) struct Census {
    pub(super) tunnels: Vec<TunnelInfo>,
    pub(super) passing: Vec<PassthroughConn>,
    pub(super) recent: Vec<Seen>,
}

/// What a worker thread is started with.
pub(super) struct Seed {
    pub(super) sockets: Vec<(TcpListener, Shared)>,
    pub(super) lines: Handle,
    pub(super) metrics: Arc<Metrics>,
    /// Where it hands over what it notices of Socket.IO sessions.
    pub(super) noticed: mpsc::Sender<Vec<socketio::SessionEvent>>,
    /// How many requests it remembers.
    pub(super) recent: usize,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) ending: mpsc::UnboundedSender<()>,
    pub(super) pulse: Pulse,
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
    let lens = socketio::EventSink::new(seed.noticed, Arc::clone(&seed.metrics));
    let worker = Worker::new(seed.lines.lines(), Arc::clone(&seed.metrics), lens, seed.recent);
    let local = Rc::clone(&worker.local);
    let mut services = Vec::new();
    for (socket, shared) in seed.sockets {
        services.extend(shared.listen(&worker, socket));
    }
    loop {
        let serving = local.phase() == Phase::Serving;
        let command = tokio::select! {
            command = seed.commands.recv() => command,
            () = local.emptied(), if !serving => break,
        };
        match command {
            None => break,
            Some(Command::Enter(phase, spread)) => {
                local.enter(phase, spread);
                if phase == Phase::Cutting {
                    // Tunnels write their lines; what is still open after that goes with the
                    // runtime.
                    let _ = tokio::time::timeout(LAST_LINES, local.emptied()).await;
                    break;
                }
            }
            Some(Command::Listen(socket, shared)) => {
                services.extend(shared.listen(&worker, socket));
            }
            Some(Command::Close(kind, address)) => {
                services.retain(|service: &Serving| !service.close(kind, address));
                local.clock.wake_all();
            }
            Some(Command::Log(handle)) => worker.lines.change(handle),
            Some(Command::Reloaded(endpoints)) => {
                worker.pool.keep(&endpoints);
                local.reloaded();
            }
            Some(Command::Shifted) => local.shifted(),
            Some(Command::Census(answer)) => {
                let census = Census {
                    tunnels: worker.tunnels.all(),
                    passing: worker.passing.all(),
                    recent: worker.recent.all(),
                };
                // Whoever asked may have lost patience.
                let _ = answer.send(census);
            }
            Some(Command::Beat(beat)) => seed.pulse.store(beat, Ordering::Relaxed),
        }
    }
    worker.lines.flush();
}
