//! `app-gateway upgrade`: have the running gateway start the program anew and hand over to it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::Question;
use crate::admin::report::Succession;

use super::ask::ask;
use super::{say_escaped, say_wrong_escaped};

/// For the answer: longer than a new process may take until it serves.
const PATIENCE: Duration = Duration::from_secs(150);

pub(super) fn upgrade(directory: &Path) -> ExitCode {
    let answer = ask(directory, "POST /upgrade", &Question::default(), PATIENCE);
    match answer.and_then(|answer| answer.json::<Succession>()) {
        Ok(Succession { pid: Some(pid), .. }) => {
            say_escaped(&format!(
                "upgraded: process {pid} serves; the one before finishes what is open and then ends\n"
            ));
            ExitCode::SUCCESS
        }
        Ok(Succession { pid: None, problems }) => {
            say_wrong_escaped(&problems);
            say_wrong_escaped("upgrade refused; the process that runs goes on serving");
            ExitCode::FAILURE
        }
        Err(message) => {
            say_wrong_escaped(&message);
            ExitCode::FAILURE
        }
    }
}
