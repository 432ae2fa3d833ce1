//! Drains the gateway: finishes open connections within a time limit, then closes the rest.

use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::net::Phase;

use super::signals::{SignalAction, SignalStream};
use super::{GatewayEnd, RunningGateway, systemd};

/// After cutting, how long workers get to write their last log lines.
const LOG_FLUSH_WAIT: Duration = Duration::from_secs(2);

impl RunningGateway {
    /// Finishes what is open while another process serves. Still follows the configuration, so
    /// that a WebSocket that is not allowed any more is closed here too. `None` if nothing is left,
    /// otherwise the time that a drain may take then.
    pub(super) async fn drain_after_handover(
        &mut self,
        signals: &mut SignalStream,
    ) -> Option<Option<Duration>> {
        let until = Instant::now() + self.reloader.generation.config.gateway.upgrade_timeout;
        loop {
            let limit = self.reloader.generation.config.gateway.drain_timeout;
            tokio::select! {
                () = emptied(&mut self.ended, &mut self.left) => {
                    tracing::info!("everything is finished; the new process goes on alone");
                    return None;
                }
                () = tokio::time::sleep_until(until) => return Some(Some(limit)),
                wish = signals.next() => match wish {
                    SignalAction::End => return Some(Some(limit)),
                    SignalAction::EndWithoutLimit => return Some(None),
                    SignalAction::Reload => { self.reload("HUP", None).await; }
                    SignalAction::Upgrade => tracing::warn!("USR2: another process serves already; send it there"),
                },
                () = self.watch.changed(), if self.reloader.follows_files() => {
                    self.reload("files", None).await;
                }
            }
        }
    }

    /// Takes nothing new and waits for what is open, at most `limit`.
    pub(super) async fn drain(
        &mut self,
        limit: Option<Duration>,
        signals: &mut SignalStream,
    ) -> GatewayEnd {
        self.health.draining.store(true, Ordering::Relaxed);
        let delay = self.reloader.generation.config.gateway.drain_delay;
        let delay = if self.reloader.held.is_some() { delay } else { Duration::ZERO };
        systemd::stopping(limit.map(|limit| limit + delay));
        let mut impatient = false;
        if !delay.is_zero() {
            tracing::info!("not ready any more; connections are still taken for {delay:?}");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = signals.second() => impatient = true,
            }
        }
        if let Some(limit) = limit {
            tracing::info!(
                "draining: no new connections, {limit:?} for what is open; a second signal cuts it"
            );
        } else {
            tracing::info!("draining without a time limit; TERM cuts what is open");
        }
        // Duplicates first: as long as there is one, connections wait where nobody takes them.
        self.reloader.held = None;
        // WebSockets close in the first half, so that what their clients do next has the second.
        self.tell(Phase::Draining, limit.map_or(Duration::ZERO, |limit| limit / 2));
        let drained = !impatient
            && tokio::select! {
                () = emptied(&mut self.ended, &mut self.left) => true,
                () = signals.second() => false,
                () = expired(limit) => false,
            };
        if drained {
            tracing::info!("drained");
            return GatewayEnd::Drained;
        }
        tracing::warn!("cutting the connections that are still open");
        self.tell(Phase::Cutting, Duration::ZERO);
        let last = emptied(&mut self.ended, &mut self.left);
        let _ = tokio::time::timeout(LOG_FLUSH_WAIT, last).await;
        GatewayEnd::Cut
    }
}

/// Waits for the worker threads, at most [`LOG_FLUSH_WAIT`]: one that hangs does not keep the process.
pub(super) fn join(workers: &[JoinHandle<()>]) {
    let deadline = Instant::now() + LOG_FLUSH_WAIT;
    while workers.iter().any(|worker| !worker.is_finished()) {
        if Instant::now() >= deadline {
            tracing::error!("a worker thread does not end; the process ends without it");
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until every worker has said that it has ended.
///
/// # Cancellation
///
/// Safe: those who have are counted.
async fn emptied(ended: &mut mpsc::UnboundedReceiver<()>, left: &mut usize) {
    while *left > 0 {
        ended.recv().await;
        *left -= 1;
    }
}

async fn expired(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
