//! `app-gateway reload`, `confirm` and `rollback`: change the configuration of the running gateway
//! and wait for the result.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::CommandOptions;
use crate::admin::report::{ReloadOutcome, ReloadResult};

use super::admin_client::ask;
use super::{say_escaped, say_wrong_escaped};

/// For the answer: names may have to be looked up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Has the gateway read its files again; with `confirm`, for this long only.
pub(super) fn reload(directory: &Path, confirm: Option<String>) -> ExitCode {
    change(directory, "reload", &CommandOptions { confirm, ..CommandOptions::default() })
}

/// Confirms the reload on trial.
pub(super) fn confirm(directory: &Path) -> ExitCode {
    change(directory, "confirm", &CommandOptions::default())
}

/// Returns to the previous configuration.
pub(super) fn rollback(directory: &Path) -> ExitCode {
    change(directory, "rollback", &CommandOptions::default())
}

fn change(directory: &Path, verb: &str, question: &CommandOptions) -> ExitCode {
    let answer = ask(directory, &format!("POST /{verb}"), question, ANSWER_TIMEOUT);
    let outcome = match answer.and_then(|answer| answer.json::<ReloadOutcome>()) {
        Ok(outcome) => outcome,
        Err(message) => {
            say_wrong_escaped(&message);
            return ExitCode::FAILURE;
        }
    };
    if !outcome.problems.is_empty() {
        say_wrong_escaped(&outcome.problems);
    }
    let ReloadOutcome { generation, config, .. } = &outcome;
    match outcome.result {
        ReloadResult::Applied => {
            say_escaped(&format!("applied: generation {generation}, configuration {config}\n"));
            for change in &outcome.changes {
                say_escaped(&format!("  {change}\n"));
            }
        }
        ReloadResult::Unchanged | ReloadResult::Confirmed => {
            let word = outcome.result.word();
            say_escaped(&format!("{word}: generation {generation}, configuration {config}\n"));
        }
        ReloadResult::Refused => {
            say_wrong_escaped(&format!(
                "{verb} refused; generation {generation} continues to serve"
            ));
            return ExitCode::FAILURE;
        }
    }
    if let Some(pending) = &outcome.pending {
        say_escaped(&format!(
            "on trial until {}, then generation {} serves again\n  keep it:     app-gateway confirm\n  undo it now: app-gateway rollback\n",
            pending.until, pending.back_to
        ));
    } else if verb == "rollback" {
        say_escaped(
            "the files are as they were: change them back before the next reload or restart\n",
        );
    } else if question.confirm.is_some() {
        say_escaped("nothing was changed, so nothing waits for a confirmation\n");
    }
    ExitCode::SUCCESS
}
