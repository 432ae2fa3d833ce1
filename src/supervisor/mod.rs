//! Supervisor of the gateway process: start, reload, binary upgrade and drain.
//!
//! ```text
//! main thread     control runtime: signals, admin listener, health checks, name resolution
//! worker-0..N     one LocalRuntime each: listeners, clients, upstream pools
//! access-log      writes the access log
//! ```
//!
//! [`RunningGateway`] runs one compiled configuration until the process ends.

mod admin_api;
mod changes;
mod checks;
mod config_source;
mod dns_refresh;
mod drain;
mod drift;
mod failover_notify;
mod listeners;
mod plan;
mod prepare;
pub mod privileges;
mod reload;
mod signals;
pub mod start;
mod systemd;
mod upgrade_child;
mod upgrade_parent;
pub mod watch;
mod worker;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::admin::report::{ReloadOutcome, UpgradeOutcome};
use crate::admin::socket::AdminSocketFile;
use crate::admin::{AdminCommand, ReadinessState};
use crate::forward::{ForwardRuntime, ForwardShared};
use crate::generation::Generation;
use crate::net::Phase;
use crate::socketio;
use crate::telemetry::Metrics;

pub use config_source::{ConfigSource, Environment};
pub use start::{BoundSockets, StartError};
pub use upgrade_child::InheritedState;
pub use upgrade_parent::ProgramArgs;

use checks::HealthChecker;
use dns_refresh::DnsRefresher;
use drain::join;
use drift::DriftMonitor;
use listeners::SharedListener;
use reload::Reloader;
use signals::{SignalAction, SignalStream};
use upgrade_parent::{ReadyChild, StartingChild, UpgradeError};
use watch::ConfigWatcher;
use worker::WorkerCommand;

/// Time for the admin API to send the result of an upgrade before the process may exit.
const ANSWER_FLUSH_WAIT: Duration = Duration::from_millis(200);

/// A gateway with running workers.
pub struct RunningGateway {
    reloader: Reloader,
    watch: ConfigWatcher,
    health: Arc<ReadinessState>,
    admin: Option<std::net::TcpListener>,
    socket: Option<AdminSocketFile>,
    worker_ended: mpsc::UnboundedReceiver<()>,
    /// Number of workers that are still running.
    running_workers: usize,
    workers: Vec<JoinHandle<()>>,
    heartbeats: Vec<systemd::BeatReply>,
    checks: HealthChecker,
    drift: DriftMonitor,
    dns: DnsRefresher,
    /// Socket.IO sessions, kept up to date from the events of the workers.
    sessions: Rc<RefCell<socketio::SessionTable>>,
    session_events: Option<mpsc::Receiver<Vec<socketio::SessionEvent>>>,
    /// A binary upgrade in progress.
    upgrade: Option<(StartingChild, Option<UpgradeReply>)>,
}

/// Sends the result of an upgrade to the client of the admin API that requested it.
type UpgradeReply = oneshot::Sender<UpgradeOutcome>;

/// Result of a gateway's run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GatewayEnd {
    /// All connections were finished in time.
    Drained,
    /// The remaining connections were closed at the end of the drain.
    Cut,
    /// A worker thread ended unexpectedly.
    WorkerDied,
}

/// Reason why a gateway stops accepting connections.
enum StopReason {
    /// The process was told to exit. The value limits the drain; `None` is no limit.
    End(Option<Duration>),
    /// The child of a binary upgrade is ready to take over.
    HandedOver(ReadyChild, Option<UpgradeReply>),
    WorkerDied,
}

impl RunningGateway {
    /// Starts the workers on bound sockets.
    ///
    /// # Errors
    ///
    /// [`StartError`] if a thread or the access log cannot be started.
    pub fn start(
        generation: Generation,
        metrics: Arc<Metrics>,
        bound: BoundSockets,
        (origin, watch): (ConfigSource, ConfigWatcher),
    ) -> Result<Self, StartError> {
        let access_log = start::open_log(&generation.config.gateway.access_log, &metrics)?;
        let health = Arc::<ReadinessState>::default();
        let (ending, worker_ended) = mpsc::unbounded_channel();
        let listener_addrs = generation.listener_addrs();
        let held = start::hold(&listener_addrs, &bound.workers)?;
        let forward_shared = ForwardShared::new(&metrics);
        let forward_runtime = generation
            .forward_proxy
            .clone()
            .map(|forward_proxy| ForwardRuntime::new(forward_proxy, generation.names(), None));
        forward_shared.follow(forward_runtime.as_ref());
        let listener_slots = listeners::listener_slots(&generation, forward_runtime.as_ref());
        let listeners: Vec<_> =
            listener_slots.iter().map(|slot| SharedListener::new(slot, &forward_shared)).collect();
        let count = bound.workers.len().max(1);
        let (event_sender, session_events) = socketio::event_channel();
        let (mut workers, mut commands, mut heartbeats) = (Vec::new(), Vec::new(), Vec::new());
        for (index, sockets) in bound.workers.into_iter().enumerate() {
            let (sender, receiver) = mpsc::unbounded_channel();
            commands.push(sender);
            let shared = |(number, socket)| {
                listeners.get(number).map(|shared: &SharedListener| (socket, shared.clone()))
            };
            let args = worker::WorkerArgs {
                sockets: sockets.into_iter().filter_map(shared).collect(),
                lines: access_log.handle(),
                metrics: Arc::clone(&metrics),
                session_events: event_sender.clone(),
                recent: generation.config.gateway.recent_requests.div_ceil(count),
                commands: receiver,
                ending: ending.clone(),
                heartbeat: systemd::BeatReply::default(),
            };
            heartbeats.push(Arc::clone(&args.heartbeat));
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            workers.push(thread.spawn(move || worker::run(args)).map_err(StartError::Thread)?);
        }
        let hash = generation.hash();
        generation.update_metrics(&metrics);
        metrics.set_generation(1, &hash);
        metrics.record_load();
        generation.config_version.name(1, hash);
        health.serving.store(true, Ordering::Relaxed);
        let reloader = Reloader {
            metrics,
            started: changes::StartupOnly::new(&generation.config),
            generation: Arc::new(generation),
            listeners: listener_addrs.into_iter().zip(listeners).collect(),
            forward_shared,
            forward_runtime,
            held: Some(held),
            retired: Vec::new(),
            workers: commands,
            number: 1,
            trial: None,
            previous: None,
            status: Rc::new(RefCell::new(start::first_status(&origin.directory))),
            log: access_log,
            origin,
        };
        reloader.record_start();
        let checks = HealthChecker::new(Arc::clone(&reloader.metrics));
        let drift = DriftMonitor::new(Arc::clone(&reloader.metrics), Rc::clone(&reloader.status));
        let sessions =
            Rc::new(RefCell::new(socketio::SessionTable::new(Arc::clone(&reloader.metrics))));
        let (admin, socket, running_workers) = (bound.admin, bound.socket, workers.len());
        Ok(Self {
            reloader,
            watch,
            health,
            admin,
            socket,
            worker_ended,
            running_workers,
            workers,
            heartbeats,
            checks,
            drift,
            dns: DnsRefresher::new(),
            sessions,
            session_events: Some(session_events),
            upgrade: None,
        })
    }

    /// Runs the gateway until a signal or a binary upgrade ends it.
    ///
    /// TERM and INT drain for at most `drain-timeout`; a second one closes all connections. QUIT
    /// drains without a limit. USR2 starts a binary upgrade and drains once the child is ready.
    ///
    /// # Errors
    ///
    /// If the control runtime cannot be built.
    pub fn run(mut self) -> std::io::Result<GatewayEnd> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())?;
        let end = runtime.block_on(self.control())?;
        // Does not wait for blocking tasks: a name look-up that hangs must not delay the exit.
        runtime.shutdown_background();
        if end != GatewayEnd::WorkerDied {
            join(&self.workers);
            self.reloader.log.finish();
        }
        Ok(end)
    }

    async fn control(&mut self) -> std::io::Result<GatewayEnd> {
        let mut signals = SignalStream::new()?;
        let (admin_commands, api) = self.open_admin_api()?;
        if let Some(session_events) = self.session_events.take() {
            tokio::task::spawn_local(socketio::keep_table(
                Rc::clone(&self.sessions),
                session_events,
            ));
        }
        let heartbeats = self.reloader.workers.iter().cloned().zip(self.heartbeats.iter().cloned());
        tokio::task::spawn_local(systemd::watchdog(heartbeats.collect()));
        let workers = self.reloader.workers.clone();
        tokio::task::spawn_local(failover_notify::run(self.checks.serving(), workers));
        systemd::ready(&self.status());
        self.watch.watch_files(self.reloader.generation.files());
        self.checks.follow(&self.reloader.generation);
        self.drift.follow(&self.reloader.generation);
        let limit = match self.serve(&mut signals, admin_commands).await {
            StopReason::WorkerDied => return Ok(GatewayEnd::WorkerDied),
            StopReason::End(limit) => limit,
            StopReason::HandedOver(child, reply) => {
                for task in api {
                    task.abort();
                }
                self.hand_over(&child);
                if let Some(reply) = reply {
                    let _ = reply
                        .send(UpgradeOutcome { pid: Some(child.pid), problems: String::new() });
                    // A task of the admin API writes the answer. Without open connections the
                    // process would exit before it has done so.
                    tokio::time::sleep(ANSWER_FLUSH_WAIT).await;
                }
                match self.drain_after_handover(&mut signals).await {
                    None => return Ok(GatewayEnd::Drained),
                    Some(limit) => limit,
                }
            }
        };
        Ok(self.drain(limit, &mut signals).await)
    }

    /// Handles signals, admin commands, file changes and timers until the gateway has to stop.
    async fn serve(
        &mut self,
        signals: &mut SignalStream,
        mut admin_commands: mpsc::UnboundedReceiver<AdminCommand>,
    ) -> StopReason {
        loop {
            tokio::select! {
                _ = self.worker_ended.recv() => return StopReason::WorkerDied,
                action = signals.next() => match action {
                    SignalAction::End => {
                        return StopReason::End(Some(self.reloader.generation.config.gateway.drain_timeout));
                    }
                    SignalAction::EndWithoutLimit => return StopReason::End(None),
                    SignalAction::Reload => {
                        self.watch.remember().await;
                        self.reload("HUP", None).await;
                    }
                    SignalAction::Upgrade => self.upgrade(None),
                },
                Some(command) = admin_commands.recv() => self.execute(command).await,
                // During a trial file changes are ignored until the trial is confirmed or reverted.
                () = self.watch.changed(), if self.reloader.follows_files() => {
                    self.reload("files", None).await;
                }
                () = self.reloader.trial_expired() => { self.roll_back().await; }
                () = self.dns.run(&self.reloader.generation) => {}
                (result, reply) = upgrade_finished(&mut self.upgrade) => match result {
                    Ok(child) => return StopReason::HandedOver(child, reply),
                    Err(error) => report_refusal(&error, reply),
                },
            }
        }
    }

    /// Starts a binary upgrade, unless one is in progress. The result is sent to `reply`.
    fn upgrade(&mut self, reply: Option<UpgradeReply>) {
        let starting = if self.upgrade.is_some() {
            Err(UpgradeError::UnderWay)
        } else if self.reloader.is_on_trial() {
            Err(UpgradeError::OnTrial)
        } else {
            self.listening_fds().map_err(UpgradeError::from).and_then(|sockets| {
                let tickets = self.reloader.generation.shared.local.export();
                StartingChild::begin(self.reloader.origin.program.as_ref(), sockets, tickets)
            })
        };
        match starting {
            Ok(starting) => self.upgrade = Some((starting, reply)),
            Err(error) => report_refusal(&error, reply),
        }
    }

    /// Duplicates of all listening sockets, the admin listener included, for the upgrade child.
    fn listening_fds(&self) -> std::io::Result<Vec<std::net::TcpListener>> {
        let held = self.reloader.held.iter().flat_map(|held| held.values().flatten());
        held.chain(&self.admin).map(std::net::TcpListener::try_clone).collect()
    }

    /// Stops accepting and tells the upgrade child to take over.
    fn hand_over(&mut self, child: &ReadyChild) {
        tracing::info!(
            "upgrade: process {} has taken over; this process drains and then exits",
            child.pid
        );
        self.health.draining.store(true, Ordering::Relaxed);
        systemd::main_process(child.pid);
        (self.admin, self.socket) = (None, None);
        self.reloader.held = None;
        self.enter_phase(Phase::Succeeded, Duration::ZERO);
        self.drift.stop();
        child.go();
    }

    async fn reload(&mut self, trigger: &str, confirm: Option<Duration>) -> ReloadOutcome {
        systemd::reloading();
        let outcome = self.reloader.reload(trigger, confirm).await;
        self.checks.follow(&self.reloader.generation);
        if !self.health.draining.load(Ordering::Relaxed) {
            self.drift.follow(&self.reloader.generation);
        }
        self.watch.settle();
        self.watch.watch_files(self.reloader.generation.files());
        systemd::ready(&self.status());
        outcome
    }

    /// One line for `systemctl status`.
    fn status(&self) -> String {
        let config_version = &self.reloader.generation.config_version;
        format!(
            "serving generation {}, configuration {}",
            config_version.number(),
            config_version.hash()
        )
    }

    fn enter_phase(&self, phase: Phase, spread: Duration) {
        for worker in &self.reloader.workers {
            // The send fails if the worker has ended, which the control loop notices.
            let _ = worker.send(WorkerCommand::Enter(phase, spread));
        }
    }
}

/// Waits until the upgrade in progress is ready or has failed, and removes it from `upgrade`.
async fn upgrade_finished(
    upgrade: &mut Option<(StartingChild, Option<UpgradeReply>)>,
) -> (Result<ReadyChild, UpgradeError>, Option<UpgradeReply>) {
    match upgrade {
        None => std::future::pending().await,
        Some((starting, _)) => {
            let result = starting.finished().await;
            (result, upgrade.take().and_then(|(_, reply)| reply))
        }
    }
}

fn report_refusal(error: &UpgradeError, reply: Option<UpgradeReply>) {
    tracing::error!("upgrade refused, this process continues to serve: {error}");
    if let Some(reply) = reply {
        // The send fails if the client of the admin API has disconnected; the log has the error.
        let _ = reply.send(UpgradeOutcome { pid: None, problems: error.to_string() });
    }
}
