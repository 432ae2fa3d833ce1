//! `app-gateway endpoint`: takes endpoints out of use and puts them back.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use crate::admin::CommandOptions;

use super::admin_client::{ask, told};
use super::{Exit, say_wrong};

/// For the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The new administrative state.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum EndpointAction {
    /// Send no new sessions; existing sessions and WebSockets continue
    Drain,
    /// Send no requests; only open WebSockets continue
    Maintenance,
    /// Put the endpoint back into use
    Up,
    /// Use the primary endpoints of the upstream again instead of its backups
    Failback,
}

/// Asks the gateway.
pub(super) fn endpoint(
    directory: &Path,
    wish: EndpointAction,
    upstream: String,
    endpoint: Option<String>,
) -> ExitCode {
    if endpoint.is_none() != matches!(wish, EndpointAction::Failback) {
        say_wrong(match wish {
            EndpointAction::Failback => {
                "`failback` applies to the whole upstream: name no endpoint"
            }
            _ => "which endpoint? `app-gateway status` lists them",
        });
        return Exit::Usage.into();
    }
    let duty = match wish {
        EndpointAction::Drain => "drain",
        EndpointAction::Maintenance => "maintenance",
        EndpointAction::Up => "up",
        EndpointAction::Failback => "failback",
    };
    let question = CommandOptions {
        upstream: Some(upstream),
        endpoint,
        duty: Some(duty.to_owned()),
        ..CommandOptions::default()
    };
    told(ask(directory, "POST /endpoint", &question, ANSWER_TIMEOUT))
}
