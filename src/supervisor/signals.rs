//! Unix signals that control the gateway.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Action that a signal requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SignalAction {
    /// TERM, INT: drain for at most `drain-timeout`.
    End,
    /// QUIT: drain without a time limit.
    EndWithoutLimit,
    /// HUP: reload the configuration.
    Reload,
    /// USR2: start a binary upgrade.
    Upgrade,
}

pub(super) struct SignalStream {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl SignalStream {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.terminate.recv() => SignalAction::End,
            _ = self.interrupt.recv() => SignalAction::End,
            _ = self.quit.recv() => SignalAction::EndWithoutLimit,
            _ = self.hangup.recv() => SignalAction::Reload,
            _ = self.upgrade.recv() => SignalAction::Upgrade,
        }
    }

    /// Waits for a signal that ends a drain: TERM or INT.
    pub(super) async fn second(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
