//! What systemd is told (`sd_notify(3)`), if it asked to be: ready, reloading, stopping, who the
//! main process is, and that every worker is alive.
//!
//! Without `NOTIFY_SOCKET` nothing here does anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::mpsc::UnboundedSender;

use super::worker::WorkerCommand;

/// One worker's answers to [`WorkerCommand::Beat`].
pub(super) type BeatReply = Arc<AtomicU64>;

/// Everything listens and all workers serve; `status` is shown by `systemctl status`.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins. [`ready`] ends it.
pub(super) fn reloading() {
    // Both are wanted in one message, by units of `Type=notify-reload`.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// The drain begins. `limit`: how long it may take, so that systemd waits as long.
pub(super) fn stopping(limit: Option<Duration>) {
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    if let Some(limit) = limit {
        let wait = (limit + Duration::from_secs(10)).as_micros();
        notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(wait).unwrap_or(u32::MAX))]);
    }
}

/// Another process is the gateway now.
pub(super) fn succeeded_by(pid: u32) {
    notify(&[NotifyState::MainPid(pid)]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("NOTIFY_SOCKET: {error}");
    }
}

/// Tells systemd's watchdog that the gateway is well, as long as every worker answers. For ever;
/// ends at once if there is no watchdog.
pub(super) async fn watchdog(workers: Vec<(UnboundedSender<WorkerCommand>, BeatReply)>) {
    // Half of it, as sd_watchdog_enabled(3) recommends.
    let Some(period) = sd_notify::watchdog_enabled().map(|limit| limit / 2) else { return };
    let mut beat = 0;
    loop {
        tokio::time::sleep(period).await;
        // One that has ended says so elsewhere.
        let behind = |(worker, pulse): &&(UnboundedSender<WorkerCommand>, BeatReply)| {
            !worker.is_closed() && pulse.load(Ordering::Relaxed) < beat
        };
        let silent = workers.iter().filter(behind).count();
        if silent == 0 {
            notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(
                "{silent} of {} workers did not answer within {period:?}",
                workers.len()
            );
        }
        beat += 1;
        for (worker, _) in &workers {
            let _ = worker.send(WorkerCommand::Beat(beat));
        }
    }
}
