//! Drains the gateway: finishes open connections within a time limit, then closes the rest.

use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::net::Phase;

use super::signals::{SignalAction, SignalStream};
use super::{GatewayEnd, RunningGateway, systemd};

/// Time for workers to write their last log lines after all connections were closed.
const LOG_FLUSH_WAIT: Duration = Duration::from_secs(2);

impl RunningGateway {
    /// Finishes open connections after the child of a binary upgrade has taken over.
    ///
    /// Reloads are still applied, so that a WebSocket that the new configuration forbids is closed
    /// in this process too. Returns `None` once all connections are closed, and otherwise the time
    /// limit of the drain that has to follow.
    pub(super) async fn drain_after_handover(
        &mut self,
        signals: &mut SignalStream,
    ) -> Option<Option<Duration>> {
        let until = Instant::now() + self.reloader.generation.config.gateway.upgrade_timeout;
        loop {
            let limit = self.reloader.generation.config.gateway.drain_timeout;
            tokio::select! {
                () = all_workers_ended(&mut self.worker_ended, &mut self.running_workers) => {
                    tracing::info!("all connections are closed; exiting, the new process has taken over");
                    return None;
                }
                () = tokio::time::sleep_until(until) => return Some(Some(limit)),
                action = signals.next() => match action {
                    SignalAction::End => return Some(Some(limit)),
                    SignalAction::EndWithoutLimit => return Some(None),
                    SignalAction::Reload => { self.reload("HUP", None).await; }
                    SignalAction::Upgrade => tracing::warn!("USR2 ignored: a new process has taken over; send the signal to that process"),
                },
                () = self.watch.changed(), if self.reloader.follows_files() => {
                    self.reload("files", None).await;
                }
            }
        }
    }

    /// Stops accepting and waits for open connections to finish, for at most `limit`.
    pub(super) async fn drain(
        &mut self,
        limit: Option<Duration>,
        signals: &mut SignalStream,
    ) -> GatewayEnd {
        self.health.draining.store(true, Ordering::Relaxed);
        let delay = self.reloader.generation.config.gateway.drain_delay;
        let delay = if self.reloader.held.is_some() { delay } else { Duration::ZERO };
        systemd::stopping(limit.map(|limit| limit + delay));
        let mut second_signal = false;
        if !delay.is_zero() {
            tracing::info!("not ready any more; still accepting connections for {delay:?}");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = signals.second() => second_signal = true,
            }
        }
        if let Some(limit) = limit {
            tracing::info!(
                "draining: no new connections, open ones have {limit:?}; a second signal closes them"
            );
        } else {
            tracing::info!("draining without a time limit; TERM closes all open connections");
        }
        // Close the duplicates of the listening sockets first, or the kernel would keep queueing
        // connections on sockets from which no worker accepts.
        self.reloader.held = None;
        // WebSockets close in the first half. Requests that their clients send next have the
        // second.
        self.enter_phase(Phase::Draining, limit.map_or(Duration::ZERO, |limit| limit / 2));
        let drained = !second_signal
            && tokio::select! {
                () = all_workers_ended(&mut self.worker_ended, &mut self.running_workers) => true,
                () = signals.second() => false,
                () = expired(limit) => false,
            };
        if drained {
            tracing::info!("drained");
            return GatewayEnd::Drained;
        }
        tracing::warn!("closing the connections that are still open");
        self.enter_phase(Phase::Cutting, Duration::ZERO);
        let last = all_workers_ended(&mut self.worker_ended, &mut self.running_workers);
        let _ = tokio::time::timeout(LOG_FLUSH_WAIT, last).await;
        GatewayEnd::Cut
    }
}

/// Waits for the worker threads, for at most [`LOG_FLUSH_WAIT`], so that a thread that hangs does
/// not keep the process alive.
pub(super) fn join(workers: &[JoinHandle<()>]) {
    let deadline = Instant::now() + LOG_FLUSH_WAIT;
    while workers.iter().any(|worker| !worker.is_finished()) {
        if Instant::now() >= deadline {
            tracing::error!("a worker thread does not end; exiting without it");
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until every worker has reported its end.
///
/// # Cancellation
///
/// Safe: `running_workers` keeps count of the reports received so far.
async fn all_workers_ended(
    worker_ended: &mut mpsc::UnboundedReceiver<()>,
    running_workers: &mut usize,
) {
    while *running_workers > 0 {
        worker_ended.recv().await;
        *running_workers -= 1;
    }
}

async fn expired(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
