//! Notifications for systemd (`sd_notify(3)`): ready, reloading, stopping, the main process and the
//! watchdog.
//!
//! Without `NOTIFY_SOCKET` all functions do nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::mpsc::UnboundedSender;

use super::worker::WorkerCommand;

/// Number of the last [`WorkerCommand::Beat`] that a worker has answered.
pub(super) type BeatReply = Arc<AtomicU64>;

/// Reports that the gateway serves. `systemctl status` shows `status`.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports the start of a reload. [`ready`] reports its end.
pub(super) fn reloading() {
    // Units of `Type=notify-reload` require both in one message.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// Reports the start of a drain, and asks systemd to wait as long as `limit`.
pub(super) fn stopping(limit: Option<Duration>) {
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    if let Some(limit) = limit {
        let wait = (limit + Duration::from_secs(10)).as_micros();
        notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(wait).unwrap_or(u32::MAX))]);
    }
}

/// Reports that the child of a binary upgrade is the main process now.
pub(super) fn main_process(pid: u32) {
    notify(&[NotifyState::MainPid(pid)]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("NOTIFY_SOCKET: {error}");
    }
}

/// Feeds the watchdog of systemd as long as every worker answers. Returns at once if the unit has
/// no watchdog, and otherwise never.
pub(super) async fn watchdog(workers: Vec<(UnboundedSender<WorkerCommand>, BeatReply)>) {
    // Half of the watchdog's time, as sd_watchdog_enabled(3) recommends.
    let Some(period) = sd_notify::watchdog_enabled().map(|limit| limit / 2) else { return };
    let mut beat = 0;
    loop {
        tokio::time::sleep(period).await;
        // The control loop notices workers that have ended.
        let behind = |(worker, heartbeat): &&(UnboundedSender<WorkerCommand>, BeatReply)| {
            !worker.is_closed() && heartbeat.load(Ordering::Relaxed) < beat
        };
        let silent = workers.iter().filter(behind).count();
        if silent == 0 {
            notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(
                "{silent} of {} workers did not answer the watchdog within {period:?}",
                workers.len()
            );
        }
        beat += 1;
        for (worker, _) in &workers {
            let _ = worker.send(WorkerCommand::Beat(beat));
        }
    }
}
