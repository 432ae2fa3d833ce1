//! What signals ask for.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SignalAction {
    /// TERM, INT: finish within the drain timeout.
    End,
    /// QUIT: finish, however long it takes.
    EndWithoutLimit,
    /// HUP.
    Reload,
    /// USR2: start the program anew and hand over.
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

    /// The next signal that asks for something.
    pub(super) async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.terminate.recv() => SignalAction::End,
            _ = self.interrupt.recv() => SignalAction::End,
            _ = self.quit.recv() => SignalAction::EndWithoutLimit,
            _ = self.hangup.recv() => SignalAction::Reload,
            _ = self.upgrade.recv() => SignalAction::Upgrade,
        }
    }

    /// A signal to stop draining.
    pub(super) async fn second(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
