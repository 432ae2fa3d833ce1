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
use crate::telemetry::access_log::LogHandle;
use crate::telemetry::recent::RecentRequest;

use super::listeners::{ListenerHandle, SharedListener};
use super::systemd::BeatReply;

/// How long tasks get to end by themselves when a worker cuts.
const FINAL_LOG_WAIT: Duration = Duration::from_millis(200);

/// What a worker is told.
pub(super) enum WorkerCommand {
    /// Where it is in its life, and the time over which tunnels close.
    Enter(Phase, Duration),
    /// Take connections from a further socket.
    Listen(TcpListener, SharedListener),
    /// Take no more from this address.
    Close(ListenerKind, SocketAddr),
    /// Write the access log there.
    Log(LogHandle),
    /// The configuration has changed; the identities of its endpoints, sorted.
    Reloaded(Arc<[u64]>),
    /// New work goes to other endpoints than before.
    Shifted,
    /// Say what is open.
    Census(mpsc::UnboundedSender<WorkerSnapshot>),
    /// Show with this number that you are alive.
    Beat(u64),
}

/// What a worker has open, and what it was asked of late.
#[derive(Default)]
pub(super) struct WorkerSnapshot {
    pub(super) tunnels: Vec<TunnelInfo>,
    pub(super) passthrough_conn: Vec<PassthroughConn>,
    pub(super) recent: Vec<RecentRequest>,
}

/// What a worker thread is started with.
pub(super) struct WorkerArgs {
    pub(super) sockets: Vec<(TcpListener, SharedListener)>,
    pub(super) lines: LogHandle,
    pub(super) metrics: Arc<Metrics>,
    /// Where it hands over what it notices of Socket.IO sessions.
    pub(super) noticed: mpsc::Sender<Vec<socketio::SessionEvent>>,
    /// How many requests it remembers.
    pub(super) recent: usize,
    pub(super) commands: mpsc::UnboundedReceiver<WorkerCommand>,
    pub(super) ending: mpsc::UnboundedSender<()>,
    pub(super) pulse: BeatReply,
}

/// Says that the worker has ended, also when it panics.
struct EndNotice(mpsc::UnboundedSender<()>);

impl Drop for EndNotice {
    fn drop(&mut self) {
        // Closed means that nobody waits any more.
        let _ = self.0.send(());
    }
}

/// The life of a worker thread.
pub(super) fn run(args: WorkerArgs) {
    let ending = EndNotice(args.ending.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    match runtime {
        Ok(runtime) => runtime.block_on(work(args)),
        Err(error) => tracing::error!("a worker cannot start: {error}"),
    }
    drop(ending);
}

async fn work(mut args: WorkerArgs) {
    let event_sink = socketio::EventSink::new(args.noticed, Arc::clone(&args.metrics));
    let worker =
        Worker::new(args.lines.lines(), Arc::clone(&args.metrics), event_sink, args.recent);
    let local = Rc::clone(&worker.local);
    let mut services = Vec::new();
    for (socket, shared) in args.sockets {
        services.extend(shared.listen(&worker, socket));
    }
    loop {
        let serving = local.phase() == Phase::Serving;
        let command = tokio::select! {
            command = args.commands.recv() => command,
            () = local.emptied(), if !serving => break,
        };
        match command {
            None => break,
            Some(WorkerCommand::Enter(phase, spread)) => {
                local.enter(phase, spread);
                if phase == Phase::Cutting {
                    // Tunnels write their lines; what is still open after that goes with the
                    // runtime.
                    let _ = tokio::time::timeout(FINAL_LOG_WAIT, local.emptied()).await;
                    break;
                }
            }
            Some(WorkerCommand::Listen(socket, shared)) => {
                services.extend(shared.listen(&worker, socket));
            }
            Some(WorkerCommand::Close(kind, address)) => {
                services.retain(|service: &ListenerHandle| !service.close(kind, address));
                local.clock.wake_all();
            }
            Some(WorkerCommand::Log(handle)) => worker.lines.change(handle),
            Some(WorkerCommand::Reloaded(endpoints)) => {
                worker.pool.keep(&endpoints);
                local.reloaded();
            }
            Some(WorkerCommand::Shifted) => local.shifted(),
            Some(WorkerCommand::Census(answer)) => {
                let snapshot = WorkerSnapshot {
                    tunnels: worker.tunnels.all(),
                    passthrough_conn: worker.passthrough_conn.all(),
                    recent: worker.recent.all(),
                };
                // Whoever asked may have lost patience.
                let _ = answer.send(snapshot);
            }
            Some(WorkerCommand::Beat(beat)) => args.pulse.store(beat, Ordering::Relaxed),
        }
    }
    worker.lines.flush();
}
