//! `app-gateway healthcheck`: readiness check for container images without curl.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::admin_client::ask_health;
use super::{say, say_wrong_escaped};

/// For the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) fn healthcheck(directory: &Path) -> ExitCode {
    match ask_health(directory, "GET /readyz", ANSWER_TIMEOUT) {
        Ok(answer) if answer.status == 200 => {
            say("ready\n");
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            say_wrong_escaped(answer.body.trim());
            ExitCode::FAILURE
        }
        Err(message) => {
            say_wrong_escaped(&message);
            ExitCode::FAILURE
        }
    }
}
