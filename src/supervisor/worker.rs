//! Worker thread: its runtime, its listeners and the commands of the supervisor.

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

/// Time for tasks to write their log lines and end after all connections were closed.
const FINAL_LOG_WAIT: Duration = Duration::from_millis(200);

/// Command of the supervisor to a worker.
pub(super) enum WorkerCommand {
    /// Enter this phase. Tunnels close spread over the given time.
    Enter(Phase, Duration),
    /// Accept connections from a further socket.
    Listen(TcpListener, SharedListener),
    /// Stop accepting at this address.
    Close(ListenerKind, SocketAddr),
    /// Write the access log to another target.
    Log(LogHandle),
    /// Apply a new generation. The value holds the identities of all its endpoints, sorted.
    Reloaded(Arc<[u64]>),
    /// A passthrough upstream has failed over or back; close its connections as configured.
    Shifted,
    /// Send a snapshot of open tunnels and recent requests.
    Snapshot(mpsc::UnboundedSender<WorkerSnapshot>),
    /// Store this number as a sign of life, for the watchdog.
    Beat(u64),
}

/// Open tunnels and recent requests of a worker.
#[derive(Default)]
pub(super) struct WorkerSnapshot {
    pub(super) tunnels: Vec<TunnelInfo>,
    pub(super) passthrough_conn: Vec<PassthroughConn>,
    pub(super) recent: Vec<RecentRequest>,
}

/// Arguments of a worker thread.
pub(super) struct WorkerArgs {
    pub(super) sockets: Vec<(TcpListener, SharedListener)>,
    pub(super) lines: LogHandle,
    pub(super) metrics: Arc<Metrics>,
    /// Channel for events of Socket.IO sessions, to the session table.
    pub(super) session_events: mpsc::Sender<Vec<socketio::SessionEvent>>,
    /// Number of recent requests to keep.
    pub(super) recent: usize,
    pub(super) commands: mpsc::UnboundedReceiver<WorkerCommand>,
    pub(super) ending: mpsc::UnboundedSender<()>,
    pub(super) heartbeat: BeatReply,
}

/// Reports the end of the worker when dropped, also after a panic.
struct EndNotice(mpsc::UnboundedSender<()>);

impl Drop for EndNotice {
    fn drop(&mut self) {
        // The send fails if the supervisor has stopped waiting for workers.
        let _ = self.0.send(());
    }
}

/// Runs a worker thread until its drain ends.
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
    let event_sink = socketio::EventSink::new(args.session_events, Arc::clone(&args.metrics));
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
                    // Gives tunnels time to write their log lines. Remaining tasks are dropped with
                    // the runtime.
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
            Some(WorkerCommand::Shifted) => local.note_failover(),
            Some(WorkerCommand::Snapshot(answer)) => {
                let snapshot = WorkerSnapshot {
                    tunnels: worker.tunnels.all(),
                    passthrough_conn: worker.passthrough_conn.all(),
                    recent: worker.recent.all(),
                };
                // The send fails if the plan has given up waiting.
                let _ = answer.send(snapshot);
            }
            Some(WorkerCommand::Beat(beat)) => args.heartbeat.store(beat, Ordering::Relaxed),
        }
    }
    worker.lines.flush();
}
