//! Upgrading in place: a new process takes the listening sockets, and once it serves, this one
//! stops to.
//!
//! ```text
//! this process                              the new one, started from the same path
//! start it ------------------------------->
//! greeting, sockets, keys, all ---------->  reads, checks, compiles, adopts, starts its workers
//!          <------------------------------- ready (or: refused, and why)
//! stops accepting; go -------------------->  opens its admin listener
//! finishes what is open
//! ```
//!
//! The sockets are the same ones in both, so no connection that waits in a queue is lost, and for a
//! moment both accept. Until `ready` nothing here changes: a new program or configuration that
//! fails leaves everything as it was.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::net::handover::HandoverChannel;

use super::upgrade_child::{ALL, CHILD_VARIABLE, GO, GREETING, READY, REFUSED, SOCKET, TICKETS};

/// How long a successor may take until it serves: certificates, route tables, names to look up.
const CHILD_READY_TIMEOUT: Duration = Duration::from_secs(120);

/// How this process was started, for starting another in the same way.
#[derive(Clone, Debug)]
pub struct ProgramArgs {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// Why the new process does not take over.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    #[error(
        "this is the demo, whose Hybrid Chat stand-in ends with this process: end it and start it again"
    )]
    NoProgram,
    #[error(
        "this process is the first of its container (pid 1), which ends with it: replace the container instead"
    )]
    FirstProcess,
    #[error("another upgrade is under way")]
    UnderWay,
    #[error(
        "the configuration waits for its confirmation, which the new process would not know of: `app-gateway confirm` or `rollback` first"
    )]
    OnTrial,
    #[error("{} cannot be started: {source}", path.display())]
    Spawn { path: PathBuf, source: io::Error },
    #[error("the new process does not serve: {0}")]
    Refused(String),
    #[error(
        "the new process ended before it served ({0}); what it said is in this log, above. An older version of the program cannot be handed sockets: restart instead"
    )]
    Ended(ExitStatus),
    #[error("the new process did not serve within {} s and was ended", CHILD_READY_TIMEOUT.as_secs())]
    TimedOut,
    #[error("talking to the new process failed: {0}")]
    Channel(#[from] io::Error),
}

impl ProgramArgs {
    /// As this process was started. A path in the first argument is kept as it is, not resolved:
    /// it may be a link that is turned to a new version.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let mut arguments = std::env::args_os();
        let path = PathBuf::from(arguments.next()?);
        // A bare name is looked up in PATH, as it was the first time.
        let path =
            if path.components().count() > 1 { std::path::absolute(path).ok()? } else { path };
        Some(Self { path, arguments: arguments.collect() })
    }
}

/// A new process that is getting ready.
pub(super) struct StartingChild {
    child: Option<Child>,
    talk: JoinHandle<Result<HandoverChannel, UpgradeError>>,
}

/// A new process that serves.
pub(super) struct ReadyChild {
    pub(super) pid: u32,
    channel: HandoverChannel,
}

impl StartingChild {
    /// Starts a successor and hands it these sockets and ticket keys, on a thread that may block.
    pub(super) fn begin(
        program: Option<&ProgramArgs>,
        sockets: Vec<TcpListener>,
        tickets: Option<String>,
    ) -> Result<Self, UpgradeError> {
        let program = program.ok_or(UpgradeError::NoProgram)?;
        if std::process::id() == 1 {
            return Err(UpgradeError::FirstProcess);
        }
        let (channel, theirs) = HandoverChannel::pair()?;
        let child = program.start(theirs)?;
        tracing::info!(
            "upgrade: {} started as process {}; it gets {} sockets and {} s",
            program.path.display(),
            child.id(),
            sockets.len(),
            CHILD_READY_TIMEOUT.as_secs()
        );
        let talk =
            tokio::task::spawn_blocking(move || hand_over(channel, &sockets, tickets.as_deref()));
        Ok(Self { child: Some(child), talk })
    }

    /// Waits until the successor serves or has failed, and then is over.
    ///
    /// # Cancellation
    ///
    /// Safe: nothing is lost until it is ready.
    pub(super) async fn finished(&mut self) -> Result<ReadyChild, UpgradeError> {
        let talked = (&mut self.talk).await;
        let talked = talked.unwrap_or_else(|error| Err(io::Error::other(error).into()));
        let Some(mut child) = self.child.take() else { return Err(UpgradeError::UnderWay) };
        match talked {
            Ok(channel) => Ok(ReadyChild { pid: child.id(), channel }),
            Err(UpgradeError::Channel(error)) => Err(ended(&mut child, error)),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }
}

impl Drop for StartingChild {
    /// Whoever gives up an upgrade ends the new process.
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            end(child);
        }
    }
}

impl ReadyChild {
    /// Tells the successor that it is alone now.
    pub(super) fn go(&self) {
        // It serves; if it has ended meanwhile, its supervisor's log says so.
        let _ = self.channel.send(GO, None);
    }
}

impl ProgramArgs {
    fn start(&self, stdin: OwnedFd) -> Result<Child, UpgradeError> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env(CHILD_VARIABLE, "1").stdin(Stdio::from(stdin));
        // Meant for this process alone; under systemd the successor becomes the main process.
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        let failed = |source| UpgradeError::Spawn { path: self.path.clone(), source };
        command.spawn().map_err(failed)
    }
}

fn hand_over(
    channel: HandoverChannel,
    sockets: &[TcpListener],
    tickets: Option<&str>,
) -> Result<HandoverChannel, UpgradeError> {
    channel.send(GREETING, None)?;
    for socket in sockets {
        channel.send(SOCKET, Some(socket.as_fd()))?;
    }
    if let Some(tickets) = tickets {
        channel.send(&format!("{TICKETS}\n{tickets}"), None)?;
    }
    channel.send(ALL, None)?;
    match channel.receive(CHILD_READY_TIMEOUT) {
        Ok((word, _)) if word == READY => Ok(channel),
        Ok((words, _)) => {
            let why = words.strip_prefix(REFUSED).unwrap_or(&words).trim();
            Err(UpgradeError::Refused(why.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(UpgradeError::TimedOut),
        Err(error) => Err(error.into()),
    }
}

/// The conversation broke off: mostly because the child has ended.
fn ended(child: &mut Child, error: io::Error) -> UpgradeError {
    // Its end of the conversation closes a moment before it can be waited for.
    for _ in 0..20 {
        if let Ok(Some(status)) = child.try_wait() {
            return UpgradeError::Ended(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    end(child);
    error.into()
}

fn end(child: &mut Child) {
    // One that has ended cannot be killed, and is waited for all the same.
    let _ = child.kill();
    let _ = child.wait();
}
