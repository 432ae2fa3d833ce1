//! Parent side of a binary upgrade: starts a new process, hands over the listening sockets, and
//! stops accepting once the new process serves.
//!
//! ```text
//! parent                                    child, started from the same path
//! starts the child ----------------------->
//! greeting, sockets, keys, all ----------->  reads, checks, compiles, adopts, starts its workers
//!          <-------------------------------  ready (or: refused, and the reason)
//! stops accepting; go -------------------->  opens its admin listener
//! drains
//! ```
//!
//! Both processes share the sockets, so no queued connection is lost, and for a moment both accept.
//! The parent changes nothing before `ready`: if the new program or configuration fails, it
//! continues to serve as before.

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

/// Time limit for the child to get ready: certificates, route tables, name resolution.
const CHILD_READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Command line of this process, with which an upgrade starts the child.
#[derive(Clone, Debug)]
pub struct ProgramArgs {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// Reason why an upgrade failed.
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
    #[error("another upgrade is in progress")]
    UnderWay,
    #[error(
        "the configuration waits for its confirmation, and the new process could not revert it: run `app-gateway confirm` or `rollback` first"
    )]
    OnTrial,
    #[error("{} cannot be started: {source}", path.display())]
    Spawn { path: PathBuf, source: io::Error },
    #[error("the new process cannot serve: {0}")]
    Refused(String),
    #[error(
        "the new process ended before it served ({0}); its messages are in this log, above. An older version of the program cannot take over sockets: restart instead"
    )]
    Ended(ExitStatus),
    #[error("the new process did not serve within {} s and was ended", CHILD_READY_TIMEOUT.as_secs())]
    TimedOut,
    #[error("communication with the new process failed: {0}")]
    Channel(#[from] io::Error),
}

impl ProgramArgs {
    /// Command line of this process. A path in the first argument is not resolved, because it may
    /// be a symbolic link that an installation changes to the new version.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let mut arguments = std::env::args_os();
        let path = PathBuf::from(arguments.next()?);
        // A bare name is looked up in PATH again, as at the first start.
        let path =
            if path.components().count() > 1 { std::path::absolute(path).ok()? } else { path };
        Some(Self { path, arguments: arguments.collect() })
    }
}

/// A child process that is getting ready.
pub(super) struct StartingChild {
    child: Option<Child>,
    talk: JoinHandle<Result<HandoverChannel, UpgradeError>>,
}

/// A child process that serves.
pub(super) struct ReadyChild {
    pub(super) pid: u32,
    channel: HandoverChannel,
}

impl StartingChild {
    /// Starts the child and hands over these sockets and ticket keys, on a blocking thread.
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
            "upgrade: {} started as process {}, with {} sockets and {} s to get ready",
            program.path.display(),
            child.id(),
            sockets.len(),
            CHILD_READY_TIMEOUT.as_secs()
        );
        let talk =
            tokio::task::spawn_blocking(move || hand_over(channel, &sockets, tickets.as_deref()));
        Ok(Self { child: Some(child), talk })
    }

    /// Waits until the child serves or has failed. Must not be called again after that.
    ///
    /// # Cancellation
    ///
    /// Safe: the conversation with the child continues, and the next call returns its result.
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
    /// Kills the child of an upgrade that is given up.
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            end(child);
        }
    }
}

impl ReadyChild {
    /// Tells the child that this process has stopped accepting.
    pub(super) fn go(&self) {
        // The send fails only if the child has ended, which its service manager reports.
        let _ = self.channel.send(GO, None);
    }
}

impl ProgramArgs {
    fn start(&self, stdin: OwnedFd) -> Result<Child, UpgradeError> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env(CHILD_VARIABLE, "1").stdin(Stdio::from(stdin));
        // These variables are for this process only. Under systemd the child becomes the main
        // process.
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

/// Error for a broken connection to the child, which usually means that the child has ended.
fn ended(child: &mut Child, error: io::Error) -> UpgradeError {
    // The socket of the child closes shortly before its exit status is available.
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
    // The kill fails if the child has ended. The wait is needed in both cases, against a zombie.
    let _ = child.kill();
    let _ = child.wait();
}
