//! `app-gateway endpoint`: takes endpoints out of use and puts them back.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use crate::admin::Question;

use super::ask::{ask, told};
use super::say_wrong;

/// For the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to happen.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Wish {
    /// Nothing new goes there; sessions and WebSockets it has go on
    Drain,
    /// Nothing goes there; only WebSockets that are open go on
    Maintenance,
    /// It is used again
    Up,
    /// The upstream's primary endpoints are used again, in place of its backups
    Return,
}

/// Asks the gateway.
pub(super) fn endpoint(
    directory: &Path,
    wish: Wish,
    upstream: String,
    endpoint: Option<String>,
) -> ExitCode {
    if endpoint.is_none() != matches!(wish, Wish::Return) {
        say_wrong(match wish {
            Wish::Return => "`return` is about the upstream as a whole: name no endpoint",
            _ => "which endpoint? `app-gateway status` shows those that there are",
        });
        return ExitCode::from(2);
    }
    let duty = match wish {
        Wish::Drain => "drain",
        Wish::Maintenance => "maintenance",
        Wish::Up => "up",
        Wish::Return => "return",
    };
    let question = Question {
        upstream: Some(upstream),
        endpoint,
        duty: Some(duty.to_owned()),
        ..Question::default()
    };
    told(ask(directory, "POST /endpoint", &question, PATIENCE))
}
