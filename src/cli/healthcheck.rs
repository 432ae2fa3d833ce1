//! `app-gateway healthcheck`: for containers, whose image has no curl.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::ask::{admin_of, ask};
use super::{say, say_wrong};

/// For the answer.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn healthcheck(directory: &Path) -> ExitCode {
    let Some(admin) = admin_of(directory) else { return ExitCode::FAILURE };
    match ask(admin, "GET /readyz HTTP/1.1", PATIENCE) {
        Ok((200, _)) => {
            say("ready\n");
            ExitCode::SUCCESS
        }
        Ok((_, body)) => {
            say_wrong(body.trim());
            ExitCode::FAILURE
        }
        Err(error) => {
            say_wrong(&format!("no answer from the gateway's admin listener on {admin}: {error}"));
            ExitCode::FAILURE
        }
    }
}
