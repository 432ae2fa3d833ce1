//! `app-gateway -s reload|reopen|quit|stop`, as with nginx.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use crate::admin::CommandOptions;

use super::admin_client::{ask, told};
use super::reload;

/// For the answer, which does not wait for a drain.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Signals to the running gateway.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Signal {
    /// Read the configuration again (as `app-gateway reload`, or HUP)
    Reload,
    /// Open the access log's file anew, after logrotate has moved it (as USR1)
    Reopen,
    /// Take nothing new, finish without a time limit, end (as QUIT)
    Quit,
    /// Take nothing new, finish within drain-timeout, end (as TERM)
    Stop,
}

pub(super) fn signal(directory: &Path, signal: Signal) -> ExitCode {
    let verb = match signal {
        Signal::Reload => return reload::reload(directory, None),
        Signal::Reopen => "reopen",
        Signal::Quit => "quit",
        Signal::Stop => "stop",
    };
    told(ask(directory, &format!("POST /{verb}"), &CommandOptions::default(), ANSWER_TIMEOUT))
}
