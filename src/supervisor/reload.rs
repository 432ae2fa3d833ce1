//! Reload, rollback and trial: every step that can fail, followed by a commit that cannot.
//!
//! ```text
//! read -> check -> compile -> resolve names -> bind new listeners | COMMIT | swap, accept, retire
//! ```
//!
//! The configuration is read from the directory with which the gateway was started. A reload never
//! closes a connection that the new configuration still allows.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::admin::report::{
    PendingConfirmation, ReloadAttempt, ReloadOutcome, ReloadResult, Status,
};
use crate::forward::{ForwardRuntime, ForwardShared};
use crate::generation::{Generation, ListenerAddr};
use crate::telemetry::{AccessLogWriter, Metrics};
use crate::units::{display_duration, display_timestamp};

use super::changes;
use super::config_source::ConfigSource;
use super::listeners::{RetiredListener, SharedListener, listener_slots};
use super::prepare::{PrepareError, PrepareInputs, PreparedReload, added, same};
use super::start::HeldSockets;
use super::worker::WorkerCommand;

/// Delay before an automatic rollback is tried again if it cannot bind its sockets.
const ROLLBACK_RETRY: Duration = Duration::from_secs(5);

/// Time after an automatic reload in which `reload --confirm` still puts that reload on trial. An
/// operator who saves a file cannot run the command before the watcher applies the change.
const CONFIRM_WINDOW: Duration = Duration::from_mins(5);

/// State of the running gateway that a reload reads or replaces.
pub(super) struct Reloader {
    pub(super) origin: ConfigSource,
    pub(super) metrics: Arc<Metrics>,
    pub(super) generation: Arc<Generation>,
    pub(super) listeners: Vec<(ListenerAddr, SharedListener)>,
    /// State of the forward proxy that all generations share.
    pub(super) forward_shared: Arc<ForwardShared>,
    /// Forward proxy of the current generation, if it has one.
    pub(super) forward_runtime: Option<Arc<ForwardRuntime>>,
    /// Duplicates of the listening sockets; `None` once a new process has taken over.
    pub(super) held: Option<HeldSockets>,
    /// Removed listeners that may still have connections.
    pub(super) retired: Vec<(SocketAddr, RetiredListener)>,
    pub(super) workers: Vec<UnboundedSender<WorkerCommand>>,
    pub(super) started: changes::StartupOnly,
    /// Highest generation number so far.
    pub(super) number: u64,
    /// Trial of the current generation, until it is confirmed or reverted.
    pub(super) trial: Option<ConfigTrial>,
    /// Generation before the current one.
    pub(super) previous: Option<PreviousGeneration>,
    pub(super) status: Rc<RefCell<Status>>,
    pub(super) log: AccessLogWriter,
}

/// A trial of the current generation.
pub(super) struct ConfigTrial {
    /// Last confirmed generation, to which the gateway returns without a confirmation.
    back: Arc<Generation>,
    until: Instant,
    /// `until` as Unix time, in seconds.
    until_seconds: i64,
}

/// The generation before the current one.
pub(super) struct PreviousGeneration {
    generation: Arc<Generation>,
    /// Time of the reload that replaced it, if the file watcher triggered that reload.
    applied_by_watcher: Option<Instant>,
}

/// Result of a reload, rollback or confirmation, before it is recorded.
struct AttemptResult {
    result: ReloadResult,
    changes: Vec<String>,
    problems: String,
}

impl AttemptResult {
    fn refused(problems: String) -> Self {
        Self { result: ReloadResult::Refused, changes: Vec::new(), problems }
    }
}

impl Reloader {
    /// Reloads the configuration directory. `trigger` is a log field. With `confirm` the reload is
    /// reverted after that time, unless [`Reloader::confirm`] is called before.
    pub(super) async fn reload(
        &mut self,
        trigger: &str,
        confirm: Option<Duration>,
    ) -> ReloadOutcome {
        let begun = Instant::now();
        if let (Some(trial), None) = (&self.trial, confirm) {
            let problems = format!(
                "generation {} waits for its confirmation until {}\n  \
                   keep it:      app-gateway confirm\n  \
                   undo it:      app-gateway rollback\n  \
                   try another:  app-gateway reload --confirm TIME\n",
                self.generation.config_version.number(),
                display_timestamp(trial.until_seconds),
            );
            tracing::error!(trigger, "reload refused: {}", problems.trim_end());
            self.metrics.record_skipped_reload("refused");
            return self.record_attempt(trigger, begun, AttemptResult::refused(problems));
        }
        let attempt = match self.prepare().await {
            Ok(prepared) => self.commit(prepared, trigger),
            Err(PrepareError::Unchanged) => {
                tracing::info!(trigger, "reload: nothing has changed");
                self.metrics.record_reload("unchanged", true);
                AttemptResult {
                    result: ReloadResult::Unchanged,
                    changes: Vec::new(),
                    problems: String::new(),
                }
            }
            Err(PrepareError::Refused(problems)) => {
                tracing::error!(
                    trigger,
                    "reload refused; generation {} continues to serve\n{problems}",
                    self.generation.config_version.number()
                );
                self.metrics.record_reload("refused", false);
                AttemptResult::refused(problems)
            }
        };
        if let Some(confirm) = confirm {
            self.start_trial(attempt.result, confirm);
        }
        self.record_attempt(trigger, begun, attempt)
    }

    /// Starts or extends the trial of the current generation. The trial returns to the last
    /// confirmed generation, even if several reloads were tried since.
    fn start_trial(&mut self, result: ReloadResult, confirm: Duration) {
        let just_now = |since: Instant| since.elapsed() < CONFIRM_WINDOW;
        let before = self.previous.as_ref().filter(|previous| match result {
            ReloadResult::Applied => true,
            ReloadResult::Unchanged => previous.applied_by_watcher.is_some_and(just_now),
            _ => false,
        });
        let back = match (&self.trial, before) {
            // A refused reload changes nothing, not even the time limit of a trial.
            _ if result == ReloadResult::Refused => return,
            (Some(trial), _) => Arc::clone(&trial.back),
            (None, Some(before)) => Arc::clone(&before.generation),
            (None, None) => return,
        };
        tracing::warn!(
            "generation {} will be reverted in {} unless it is confirmed: app-gateway confirm",
            self.generation.config_version.number(),
            display_duration(confirm)
        );
        let seconds = i64::try_from(confirm.as_secs()).unwrap_or_default();
        self.trial = Some(ConfigTrial {
            back,
            until: Instant::now() + confirm,
            until_seconds: jiff::Timestamp::now().as_second().saturating_add(seconds),
        });
    }

    /// Whether the current generation waits for its confirmation.
    pub(super) fn is_on_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Whether changed files are applied automatically.
    pub(super) fn follows_files(&self) -> bool {
        self.trial.is_none() && self.generation.config.gateway.reload_on_change
    }

    /// Waits until the trial expires. Never returns without a trial.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub(super) async fn trial_expired(&self) {
        match &self.trial {
            Some(trial) => tokio::time::sleep_until(trial.until).await,
            None => std::future::pending().await,
        }
    }

    /// Ends the trial and keeps the current generation.
    pub(super) fn confirm(&mut self) -> ReloadOutcome {
        let begun = Instant::now();
        let attempt = if self.trial.take().is_some() {
            tracing::info!("generation {} is confirmed", self.generation.config_version.number());
            self.metrics.record_load();
            if let Some(previous) = &mut self.previous {
                previous.applied_by_watcher = None;
            }
            AttemptResult {
                result: ReloadResult::Confirmed,
                changes: Vec::new(),
                problems: String::new(),
            }
        } else {
            AttemptResult::refused(
                "nothing waits for a confirmation: no reload is on trial\n".to_owned(),
            )
        };
        self.record_attempt("confirm", begun, attempt)
    }

    /// Reverts the trial, or without a trial the latest reload. No files are read, because the
    /// previous generation is kept in memory. The reverted generation becomes the previous one.
    pub(super) async fn roll_back(&mut self) -> ReloadOutcome {
        let begun = Instant::now();
        let on_trial = self.trial.as_ref().map(|trial| &trial.back);
        let Some(back) = on_trial.or(self.previous.as_ref().map(|before| &before.generation))
        else {
            let why = "there is no previous configuration since the start of the gateway\n";
            return self.record_attempt("rollback", begun, AttemptResult::refused(why.to_owned()));
        };
        let (inputs, back) = (self.prepare_inputs(), Arc::clone(back));
        let number = back.config_version.number();
        let prepared = tokio::task::spawn_blocking(move || inputs.prepare_again(back)).await;
        let failed = |error| Err(PrepareError::Refused(format!("the rollback failed: {error}\n")));
        let attempt = match prepared.unwrap_or_else(failed) {
            Ok(prepared) => {
                self.trial = None;
                self.commit(prepared, "rollback")
            }
            Err(PrepareError::Refused(problems)) => {
                tracing::error!("cannot return to generation {number}: {problems}");
                self.metrics.record_reload("refused", false);
                if let Some(trial) = &mut self.trial {
                    trial.until = Instant::now() + ROLLBACK_RETRY;
                }
                AttemptResult::refused(problems)
            }
            Err(PrepareError::Unchanged) => AttemptResult {
                result: ReloadResult::Unchanged,
                changes: Vec::new(),
                problems: String::new(),
            },
        };
        self.record_attempt("rollback", begun, attempt)
    }

    /// Records an attempt in the status, and returns the outcome for the client of the admin API.
    fn record_attempt(
        &self,
        trigger: &str,
        begun: Instant,
        attempt: AttemptResult,
    ) -> ReloadOutcome {
        let config_version = &self.generation.config_version;
        let pending = self.trial.as_ref().map(|trial| PendingConfirmation {
            until: display_timestamp(trial.until_seconds),
            back_to: trial.back.config_version.number(),
        });
        let mut status = self.status.borrow_mut();
        status.generation = config_version.number();
        config_version.hash().clone_into(&mut status.config);
        status.pending.clone_from(&pending);
        status.needs_restart = self.started.outdated(&self.generation.config);
        status.remember(ReloadAttempt {
            time: display_timestamp(jiff::Timestamp::now().as_second()),
            trigger: trigger.to_owned(),
            result: attempt.result,
            generation: config_version.number(),
            config: config_version.hash().to_owned(),
            milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            changes: attempt.changes.clone(),
            problems: attempt.problems.clone(),
        });
        ReloadOutcome {
            result: attempt.result,
            generation: config_version.number(),
            config: config_version.hash().to_owned(),
            changes: attempt.changes,
            problems: attempt.problems,
            pending,
        }
    }

    /// Records the start as the first attempt.
    pub(super) fn record_start(&self) {
        let attempt = AttemptResult {
            result: ReloadResult::Applied,
            changes: Vec::new(),
            problems: String::new(),
        };
        self.record_attempt("start", Instant::now(), attempt);
    }

    fn prepare_inputs(&self) -> PrepareInputs {
        PrepareInputs {
            origin: self.origin.clone(),
            metrics: Arc::clone(&self.metrics),
            previous: Arc::clone(&self.generation),
            started: self.started.clone(),
            workers: self.held.as_ref().map_or(0, |_| self.workers.len()),
            closing_ports: self.closing_ports(),
            log: self.log.opener(),
        }
    }

    /// Prepares a reload on a blocking thread, so that health checks continue meanwhile.
    async fn prepare(&self) -> Result<PreparedReload, PrepareError> {
        let inputs = self.prepare_inputs();
        let prepared = tokio::task::spawn_blocking(move || inputs.prepare()).await;
        let failed = |error| Err(PrepareError::Refused(format!("the reload failed: {error}\n")));
        prepared.unwrap_or_else(failed)
    }

    /// Makes a prepared generation the current one. No step of this can fail.
    fn commit(&mut self, prepared: PreparedReload, trigger: &str) -> AttemptResult {
        let PreparedReload { generation, hash, sockets, held, log, changes, warnings } = prepared;
        if generation.config_version.number() == 0 {
            self.number += 1;
            generation.config_version.name(self.number, hash);
        }
        let forward_runtime = generation.forward_proxy.clone();
        let forward_runtime = forward_runtime.map(|forward_proxy| {
            ForwardRuntime::new(forward_proxy, generation.names(), self.forward_runtime.as_deref())
        });
        let listener_slots = listener_slots(&generation, forward_runtime.as_ref());
        let listener_addrs = generation.listener_addrs();
        let added = added(&self.generation.listener_addrs(), &listener_addrs);
        let fresh: Vec<_> = added
            .iter()
            .filter_map(|listener_addr| {
                listener_slots.iter().find(|slot| same(&slot.listener_addr(), listener_addr))
            })
            .map(|slot| (slot.listener_addr(), SharedListener::new(slot, &self.forward_shared)))
            .collect();
        for (worker, sockets) in self.workers.iter().zip(sockets) {
            for (number, socket) in sockets {
                let Some((_, shared)) = fresh.get(number) else { continue };
                // The send fails if the worker has ended, which the control loop notices.
                let _ = worker.send(WorkerCommand::Listen(socket, shared.clone()));
            }
        }
        if let Some(all) = &mut self.held {
            // Close the duplicates before the workers close their sockets, or the kernel would keep
            // queueing connections on them.
            all.retain(|address, _| {
                listener_addrs.iter().any(|listener_addr| listener_addr.address == *address)
            });
            all.extend(held);
        }
        self.retired.retain(|(_, place)| {
            place
                .upgrade()
                .inspect(|place| place.swap(&generation, &listener_slots, forward_runtime.as_ref()))
                .is_some()
        });
        self.listeners.retain(|(listener_addr, shared)| {
            shared.swap(&generation, &listener_slots, forward_runtime.as_ref());
            let stays = listener_addrs.iter().any(|now| same(now, listener_addr));
            if !stays {
                send_to_workers(&self.workers, || {
                    WorkerCommand::Close(listener_addr.kind, listener_addr.address)
                });
                self.retired.push((listener_addr.address, shared.downgrade()));
            }
            stays
        });
        self.listeners.extend(fresh);
        self.forward_shared.follow(forward_runtime.as_ref());
        self.forward_runtime = forward_runtime;
        let left = std::mem::replace(&mut self.generation, generation);
        let applied_by_watcher = (trigger == "files").then(Instant::now);
        self.previous = Some(PreviousGeneration { generation: left, applied_by_watcher });
        self.origin.logging.change(self.generation.config.gateway.logging);
        if self.log.change(&self.generation.config.gateway.access_log, log) {
            send_to_workers(&self.workers, || WorkerCommand::Log(self.log.handle()));
        }
        let endpoints = self.generation.identities();
        send_to_workers(&self.workers, || WorkerCommand::Reloaded(Arc::clone(&endpoints)));
        let config_version = &self.generation.config_version;
        self.generation.update_metrics(&self.metrics);
        self.metrics.set_generation(config_version.number(), config_version.hash());
        self.metrics.record_reload("applied", true);
        tracing::info!(
            trigger,
            "reload applied: generation {} serves, configuration {}",
            config_version.number(),
            config_version.hash()
        );
        for change in &changes {
            tracing::info!("  {change}");
        }
        AttemptResult { result: ReloadResult::Applied, changes, problems: warnings }
    }

    /// Ports of removed listeners, whose sockets workers may not have closed yet.
    fn closing_ports(&self) -> Vec<u16> {
        let open = self.retired.iter().filter(|(_, place)| place.upgrade().is_some());
        open.map(|(address, _)| address.port()).collect()
    }
}

fn send_to_workers(
    workers: &[UnboundedSender<WorkerCommand>],
    command: impl Fn() -> WorkerCommand,
) {
    for worker in workers {
        // The send fails if the worker has ended, which the control loop notices.
        let _ = worker.send(command());
    }
}
