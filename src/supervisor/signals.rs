//! What signals ask for.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wish {
    /// TERM, INT: finish within the drain timeout.
    End,
    /// QUIT: finish, however long it takes.
    EndWithoutLimit,
    /// HUP.
    Reload,
    /// USR2: start the program anew and hand over.
    Upgrade,
}

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    reopen: Signal,
    upgrade: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next signal that asks for something.
    pub(super) async fn next(&mut self) -> Wish {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Wish::End,
                _ = self.interrupt.recv() => return Wish::End,
                _ = self.quit.recv() => return Wish::EndWithoutLimit,
                _ = self.hangup.recv() => return Wish::Reload,
                _ = self.upgrade.recv() => return Wish::Upgrade,
                // Its default action would end the gateway; habits from nginx must not.
                _ = self.reopen.recv() => {
                    tracing::warn!("USR1: this version does not reopen its log; use logrotate's copytruncate");
                }
            }
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
