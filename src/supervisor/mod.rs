//! Starts the gateway, keeps it, drains it.
//!
//! ```text
//! main thread     control runtime: signals, admin listener, name look-ups
//! worker-0..N     one LocalRuntime each: listeners, clients, upstream pools
//! access-log      writes
//! ```
//!
//! In: a compiled configuration. Out: when it has ended, and how.

pub mod start;
pub mod watch;
mod worker;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::{self, Health};
use crate::generation::Generation;
use crate::net::Phase;
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::resolve;

pub use start::{Bound, StartError};

/// After cutting, how long workers get to write their last log lines.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A gateway that serves.
pub struct Gateway {
    generation: Arc<Generation>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    access_log: AccessLog,
    admin: Option<std::net::TcpListener>,
    phase: tokio::sync::watch::Sender<(Phase, Duration)>,
    ended: mpsc::UnboundedReceiver<()>,
    workers: Vec<JoinHandle<()>>,
}

/// How a gateway ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// Everything was finished in time.
    Drained,
    /// The rest was cut.
    Cut,
    /// A worker thread died.
    WorkerDied,
}

impl Gateway {
    /// Starts the workers on bound sockets.
    ///
    /// # Errors
    ///
    /// [`StartError`] if a thread or the access log cannot be started.
    pub fn start(
        generation: Generation,
        metrics: Arc<Metrics>,
        bound: Bound,
    ) -> Result<Self, StartError> {
        let access_log = start::open_log(&generation.config.gateway.access_log, &metrics)?;
        let health = Arc::<Health>::default();
        let (phase, _) = tokio::sync::watch::channel((Phase::Serving, Duration::ZERO));
        let (ending, ended) = mpsc::unbounded_channel();
        let sites = worker::shared(&generation);
        let mut workers = Vec::new();
        for (index, sockets) in bound.workers.into_iter().enumerate() {
            let seed = worker::Seed {
                sockets,
                sites: sites.clone(),
                lines: access_log.handle(),
                metrics: Arc::clone(&metrics),
                phase: phase.subscribe(),
                ending: ending.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            workers.push(thread.spawn(move || worker::run(seed)).map_err(StartError::Thread)?);
        }
        metrics.generation.set(1);
        health.serving.store(true, Ordering::Relaxed);
        let generation = Arc::new(generation);
        Ok(Self {
            generation,
            metrics,
            health,
            access_log,
            admin: bound.admin,
            phase,
            ended,
            workers,
        })
    }

    /// Serves until told to end by a signal.
    ///
    /// TERM and INT drain, bounded by the configured time; a second one cuts. QUIT drains without
    /// limit.
    ///
    /// # Errors
    ///
    /// If the control runtime cannot be built.
    pub fn run(mut self) -> std::io::Result<End> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())?;
        let end = runtime.block_on(self.control())?;
        // Look-ups that hang must not hold up the end.
        runtime.shutdown_background();
        if end != End::WorkerDied {
            for worker in self.workers.drain(..) {
                let _ = worker.join();
            }
            self.access_log.finish();
        }
        Ok(end)
    }

    async fn control(&mut self) -> std::io::Result<End> {
        let mut signals = Signals::new()?;
        if let Some(listener) = self.admin.take() {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (metrics, health) = (Arc::clone(&self.metrics), Arc::clone(&self.health));
            tokio::task::spawn_local(admin::serve(listener, metrics, health));
        }
        tokio::task::spawn_local(refresh_names(Arc::clone(&self.generation)));
        let limit = tokio::select! {
            _ = self.ended.recv() => return Ok(End::WorkerDied),
            limit = signals.first(self.generation.config.gateway.drain_timeout) => limit,
        };
        self.health.draining.store(true, Ordering::Relaxed);
        if let Some(limit) = limit {
            tracing::info!(
                "draining: no new connections, {limit:?} for what is open; a second signal cuts it"
            );
        } else {
            tracing::info!("draining without a time limit; TERM cuts what is open");
        }
        // WebSockets close in the first half, so that what their clients do next has the second.
        self.phase.send_replace((Phase::Draining, limit.map_or(Duration::ZERO, |limit| limit / 2)));
        let drained = tokio::select! {
            () = emptied(&mut self.ended, self.workers.len()) => true,
            () = signals.second() => false,
            () = expired(limit) => false,
        };
        if drained {
            tracing::info!("drained");
            return Ok(End::Drained);
        }
        tracing::warn!("cutting the connections that are still open");
        self.phase.send_replace((Phase::Cutting, Duration::ZERO));
        let last = emptied(&mut self.ended, self.workers.len());
        let _ = tokio::time::timeout(LAST_WORDS, last).await;
        Ok(End::Cut)
    }
}

/// Waits until every worker has said that it has ended.
async fn emptied(ended: &mut mpsc::UnboundedReceiver<()>, workers: usize) {
    for _ in 0..workers {
        ended.recv().await;
    }
}

async fn expired(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Looks the names of endpoints up again and again, on threads of their own.
async fn refresh_names(generation: Arc<Generation>) {
    loop {
        tokio::time::sleep(resolve::REFRESH).await;
        let generation = Arc::clone(&generation);
        let looked_up = tokio::task::spawn_blocking(move || {
            for endpoint in generation
                .upstreams
                .iter()
                .flat_map(|u| &u.endpoints)
                .filter(|e| resolve::is_name(e))
            {
                if let Err(error) = resolve::refresh(endpoint) {
                    tracing::warn!("{error}; the addresses it had are kept");
                }
            }
        });
        // It only fails if the runtime is going away.
        let _ = looked_up.await;
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    reopen: Signal,
    upgrade: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// The first signal to end, as the time a drain may take.
    async fn first(&mut self, limit: Duration) -> Option<Duration> {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Some(limit),
                _ = self.interrupt.recv() => return Some(limit),
                _ = self.quit.recv() => return None,
                // Their default action would end the gateway; habits from nginx must not.
                _ = self.hangup.recv() => tracing::warn!("HUP: this version does not reload; restart it to apply a change"),
                _ = self.reopen.recv() => tracing::warn!("USR1: this version does not reopen its log; use logrotate's copytruncate"),
                _ = self.upgrade.recv() => tracing::warn!("USR2: this version does not upgrade itself in place"),
            }
        }
    }

    /// A signal to stop draining.
    async fn second(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
