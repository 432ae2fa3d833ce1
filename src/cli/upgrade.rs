//! `app-gateway upgrade`: has the running gateway start a new process and hand over to it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::CommandOptions;
use crate::admin::report::UpgradeOutcome;

use super::admin_client::ask;
use super::{say_escaped, say_wrong_escaped};

/// For the answer: longer than a new process may take until it serves.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(150);

pub(super) fn upgrade(directory: &Path) -> ExitCode {
    let answer = ask(directory, "POST /upgrade", &CommandOptions::default(), ANSWER_TIMEOUT);
    match answer.and_then(|answer| answer.json::<UpgradeOutcome>()) {
        Ok(UpgradeOutcome { pid: Some(pid), .. }) => {
            say_escaped(&format!(
                "upgraded: process {pid} serves; the old process closes its connections and exits\n"
            ));
            ExitCode::SUCCESS
        }
        Ok(UpgradeOutcome { pid: None, problems }) => {
            say_wrong_escaped(&problems);
            say_wrong_escaped("upgrade refused; the running process continues to serve");
            ExitCode::FAILURE
        }
        Err(message) => {
            say_wrong_escaped(&message);
            ExitCode::FAILURE
        }
    }
}
