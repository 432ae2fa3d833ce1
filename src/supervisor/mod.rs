//! Starts the gateway, reloads it, drains it.
//!
//! ```text
//! main thread     control runtime: signals, admin listener, name look-ups
//! worker-0..N     one LocalRuntime each: listeners, clients, upstream pools
//! access-log      writes
//! ```
//!
//! In: a compiled configuration. Out: when it has ended, and how.

mod changes;
mod reload;
pub mod start;
pub mod watch;
mod worker;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::{self, Health, Outcome};
use crate::generation::Generation;
use crate::net::Phase;
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::resolve;

pub use reload::{Environment, Origin};
pub use start::{Bound, StartError};

use reload::Reloader;
use watch::Watch;
use worker::{Command, Shared};

/// After cutting, how long workers get to write their last log lines.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A gateway that serves.
pub struct Gateway {
    reloader: Reloader,
    watch: Watch,
    health: Arc<Health>,
    access_log: AccessLog,
    admin: Option<std::net::TcpListener>,
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
        (origin, watch): (Origin, Watch),
    ) -> Result<Self, StartError> {
        let access_log = start::open_log(&generation.config.gateway.access_log, &metrics)?;
        let health = Arc::<Health>::default();
        let (ending, ended) = mpsc::unbounded_channel();
        let listeners: Vec<_> =
            generation.sites.iter().map(|site| (site.address, Shared::new(site))).collect();
        let (mut workers, mut commands) = (Vec::new(), Vec::new());
        for (index, sockets) in bound.workers.into_iter().enumerate() {
            let (sender, receiver) = mpsc::unbounded_channel();
            commands.push(sender);
            let shared = listeners.iter().map(|(_, shared)| shared.clone());
            let seed = worker::Seed {
                sockets: sockets.into_iter().zip(shared).collect(),
                lines: access_log.handle(),
                metrics: Arc::clone(&metrics),
                commands: receiver,
                ending: ending.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            workers.push(thread.spawn(move || worker::run(seed)).map_err(StartError::Thread)?);
        }
        generation.tell(&metrics);
        metrics.generation.set(1);
        metrics.loaded();
        health.serving.store(true, Ordering::Relaxed);
        let reloader = Reloader {
            origin,
            metrics,
            fingerprint: reload::fingerprint(&generation),
            started: changes::Fixed::of(&generation.config),
            generation: Arc::new(generation),
            listeners: listeners.into_iter().collect(),
            retired: Vec::new(),
            workers: commands,
            number: 1,
        };
        Ok(Self { reloader, watch, health, access_log, admin: bound.admin, ended, workers })
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
        let (reloads, mut asked) = mpsc::unbounded_channel();
        if let Some(listener) = self.admin.take() {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (metrics, health) = (Arc::clone(&self.reloader.metrics), Arc::clone(&self.health));
            tokio::task::spawn_local(admin::serve(listener, metrics, health, reloads.clone()));
        }
        self.watch.also(self.reloader.generation.files());
        let mut names = tokio::time::interval(resolve::REFRESH);
        names.tick().await;
        let limit = loop {
            tokio::select! {
                _ = self.ended.recv() => return Ok(End::WorkerDied),
                wish = signals.next() => match wish {
                    Wish::End => break Some(self.reloader.generation.config.gateway.drain_timeout),
                    Wish::EndWithoutLimit => break None,
                    Wish::Reload => {
                        self.watch.remember().await;
                        self.reload("HUP").await;
                    }
                },
                Some(reply) = asked.recv() => {
                    self.watch.remember().await;
                    // Whoever asked may have gone; the log has the outcome.
                    let _ = reply.send(self.reload("command").await);
                }
                () = self.watch.changed() => { self.reload("files").await; }
                _ = names.tick() => refresh_names(Arc::clone(&self.reloader.generation)),
            }
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
        self.tell(Phase::Draining, limit.map_or(Duration::ZERO, |limit| limit / 2));
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
        self.tell(Phase::Cutting, Duration::ZERO);
        let last = emptied(&mut self.ended, self.workers.len());
        let _ = tokio::time::timeout(LAST_WORDS, last).await;
        Ok(End::Cut)
    }

    async fn reload(&mut self, trigger: &str) -> Outcome {
        let outcome = self.reloader.reload(trigger).await;
        self.watch.settle();
        self.watch.also(self.reloader.generation.files());
        outcome
    }

    fn tell(&self, phase: Phase, spread: Duration) {
        for worker in &self.reloader.workers {
            // One that is gone has ended.
            let _ = worker.send(Command::Enter(phase, spread));
        }
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

/// Looks the names of endpoints up again, on a thread that may block.
fn refresh_names(generation: Arc<Generation>) {
    tokio::task::spawn_blocking(move || {
        let endpoints = generation.upstreams.iter().flat_map(|upstream| &upstream.endpoints);
        for endpoint in endpoints.filter(|endpoint| resolve::is_name(endpoint)) {
            if let Err(error) = resolve::refresh(endpoint) {
                tracing::warn!("{error}; the addresses it had are kept");
            }
        }
    });
}

/// What a signal asks for.
enum Wish {
    End,
    EndWithoutLimit,
    Reload,
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

    /// The next signal that asks for something this version does.
    async fn next(&mut self) -> Wish {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Wish::End,
                _ = self.interrupt.recv() => return Wish::End,
                _ = self.quit.recv() => return Wish::EndWithoutLimit,
                _ = self.hangup.recv() => return Wish::Reload,
                // Their default action would end the gateway; habits from nginx must not.
                _ = self.reopen.recv() => {
                    tracing::warn!("USR1: this version does not reopen its log; use logrotate's copytruncate");
                }
                _ = self.upgrade.recv() => {
                    tracing::warn!("USR2: this version does not upgrade itself in place");
                }
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
