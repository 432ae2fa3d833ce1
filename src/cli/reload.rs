//! `app-gateway reload`: has the running gateway read its configuration again, and waits.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::admin::RELOAD_FIELD;

use super::ask::{admin_of, ask};
use super::{say, say_wrong};

/// For the answer: names may have to be looked up.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn reload(directory: &Path) -> ExitCode {
    // What is refused here the gateway would refuse too, in the same words, and stay as it is.
    let Some(admin) = admin_of(directory) else {
        say_wrong("reload refused; the gateway goes on as it was");
        return ExitCode::FAILURE;
    };
    let request = format!("POST /reload HTTP/1.1\r\n{RELOAD_FIELD}: 1\r\nContent-Length: 0");
    let (status, body) = match ask(admin, &request, PATIENCE) {
        Ok(answer) => answer,
        Err(error) => {
            say_wrong(&format!("no answer from the gateway's admin listener on {admin}: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let Ok(outcome) = serde_json::from_str::<Value>(&body) else {
        say_wrong(&format!("the gateway answered {status}: {}", body.trim()));
        return ExitCode::FAILURE;
    };
    let text =
        |name: &str| outcome.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if !text("problems").is_empty() {
        say_wrong(&text("problems"));
    }
    let generation = outcome.get("generation").and_then(Value::as_u64).unwrap_or_default();
    match text("result").as_str() {
        "applied" => {
            say(&format!("applied: generation {generation}\n"));
            for change in outcome.get("changes").and_then(Value::as_array).into_iter().flatten() {
                say(&format!("  {}\n", change.as_str().unwrap_or_default()));
            }
            ExitCode::SUCCESS
        }
        "unchanged" => {
            say(&format!("unchanged: generation {generation}\n"));
            ExitCode::SUCCESS
        }
        _ => {
            say_wrong(&format!("reload refused; generation {generation} goes on serving"));
            ExitCode::FAILURE
        }
    }
}
