//! `app-gateway healthcheck`: for containers, whose image has no curl.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::Question;

use super::ask::ask;
use super::{say, say_wrong};

/// For the answer.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn healthcheck(directory: &Path) -> ExitCode {
    match ask(directory, "GET /readyz", &Question::default(), PATIENCE) {
        Ok(answer) if answer.status == 200 => {
            say("ready\n");
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            say_wrong(answer.body.trim());
            ExitCode::FAILURE
        }
        Err(message) => {
            say_wrong(&message);
            ExitCode::FAILURE
        }
    }
}
