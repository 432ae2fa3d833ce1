//! `app-gateway explain METHOD URL`: reports how a request would be decided, and by which line of
//! which file. `explain egress` does the same for the forward proxy and `explain tcp` for
//! passthrough.
//!
//! The code that serves requests makes the decision, on a request built from the arguments.

mod egress;
mod tcp;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::config::RejectedConfig;
use crate::config::problem::Problem;
use crate::generation::explain::{Explanation, ExplanationLines, RequestQuery};
use crate::generation::{Generation, load};
use crate::message::Reason;
use crate::telemetry::Metrics;
use crate::tls;

use super::{Exit, complain, environment, say, say_wrong, summarise};

/// `explain METHOD URL`, `explain egress HOST:PORT`, or `explain tcp NAME:PORT`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Explain {
    #[command(subcommand)]
    side: Option<ProfileChoice>,
    #[command(flatten)]
    request: Option<ExplainArgs>,
}

#[derive(Subcommand)]
enum ProfileChoice {
    /// Explain whether a client of the forward proxy may reach a destination, and by which line
    Egress(egress::EgressArgs),
    /// Explain where a passthrough connection would go, and by which line
    Tcp(tcp::TcpArgs),
}

#[derive(Args)]
struct ExplainArgs {
    /// Request method
    method: String,
    /// URL as the client types it; the port chooses the listener (443 if there is none)
    url: String,
    /// Address of the client
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)))]
    from: IpAddr,
    /// Choose the listener of this profile, if several have the port or none has
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// A field of the request, e.g. `Upgrade: websocket`; may be given several times
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<String>,
}

pub(super) fn explain(directory: &Path, asked: &Explain) -> ExitCode {
    match (&asked.side, &asked.request) {
        (Some(ProfileChoice::Egress(asked)), _) => egress::explain(directory, asked),
        (Some(ProfileChoice::Tcp(asked)), _) => tcp::explain(directory, asked),
        (None, Some(asked)) => request(directory, asked),
        // clap demands one of them.
        (None, None) => Exit::Usage.into(),
    }
}

/// The directory, compiled as far as it is right, and the problems of the rest. `None`: there is
/// nothing to explain, and the problems have been drawn.
fn generation(directory: &Path) -> Option<(Generation, Vec<Problem>)> {
    let metrics = Metrics::new(Reason::ALL.iter().map(|reason| reason.word())).ok()?;
    match load::for_explaining(directory, &environment, &tls::provider(), &metrics) {
        Ok(explained) => Some(explained),
        Err(RejectedConfig { sources, problems, .. }) => {
            complain(&sources, &problems);
            None
        }
    }
}

fn request(directory: &Path, asked: &ExplainArgs) -> ExitCode {
    let Some((generation, problems)) = generation(directory) else { return ExitCode::FAILURE };
    let question = RequestQuery {
        method: asked.method.clone(),
        url: asked.url.clone(),
        from: asked.from,
        profile: asked.profile.clone(),
        headers: asked.headers.clone(),
    };
    let code = told(Explanation::of_request(&generation, &question));
    summarise(&generation.config.sources, &problems);
    code
}

/// Prints the decision. The exit code is 0 if the request would be served, and 2 if the arguments
/// are invalid.
fn told(explained: Result<Explanation<'_>, String>) -> ExitCode {
    match explained {
        Ok(explained) => {
            say(&explained.lines.text);
            if explained.served { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(message) => {
            say_wrong(&message);
            Exit::Usage.into()
        }
    }
}
