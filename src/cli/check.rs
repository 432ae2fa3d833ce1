//! `app-gateway check`: reports every problem that `run` would find, without binding an address.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::config::problem::{Problem, Sources};
use crate::config::{self, LoadedConfig, RejectedConfig, RootPolicy};
use crate::generation::{self, Generation, ListenerService};
use crate::message::Reason;
use crate::supervisor::privileges::{self, UserAccount};
use crate::telemetry::Metrics;
use crate::tls;

use super::{colour, environment, say, say_wrong};

pub(super) fn check(directory: &Path, json: bool) -> ExitCode {
    if let Err(message) = become_user(directory) {
        say_wrong(&message);
        return ExitCode::FAILURE;
    }
    match (examine(directory), json) {
        (CheckResult { generation: Some(generation), problems, .. }, false) => {
            draw(&generation.config.sources, &problems);
            say(&format!(
                "configuration {} test is successful: {}\n",
                directory.display(),
                summary(&generation)
            ));
            ExitCode::SUCCESS
        }
        (CheckResult { sources, problems, .. }, false) => {
            draw(&sources, &problems);
            say_wrong(&format!("configuration {} test failed", directory.display()));
            ExitCode::FAILURE
        }
        (CheckResult { generation, sources, problems }, true) => {
            let sources = generation.as_ref().map_or(&sources, |g| &g.config.sources);
            let mut report = config::to_json(sources, &problems);
            if let Value::Object(report) = &mut report {
                report.insert("ok".to_owned(), json!(generation.is_some()));
            }
            say(&format!("{report:#}\n"));
            if generation.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

/// Switches from root to the user that `run` would switch to, because root would not notice files
/// that this user cannot read. Does not return in that case.
///
/// # Errors
///
/// The reason why the process cannot switch to that user.
fn become_user(directory: &Path) -> Result<(), String> {
    if !privileges::is_unwanted_root() {
        return Ok(());
    }
    let Ok(LoadedConfig { config, .. }) = config::load(directory, &environment) else {
        return Ok(());
    };
    let RootPolicy::RunAs(user) = &config.gateway.root else { return Ok(()) };
    Err(UserAccount::find(user)?.execute(std::env::args_os()))
}

struct CheckResult {
    generation: Option<Generation>,
    sources: Sources,
    problems: Vec<Problem>,
}

fn examine(directory: &Path) -> CheckResult {
    let Ok(metrics) = Metrics::new(Reason::ALL.iter().map(|reason| reason.word())) else {
        return CheckResult { generation: None, sources: Sources::default(), problems: Vec::new() };
    };
    match generation::load(directory, &environment, &tls::provider(), &metrics, None) {
        Ok(compiled) => CheckResult {
            generation: Some(compiled.generation),
            sources: Sources::default(),
            problems: compiled.warnings,
        },
        Err(RejectedConfig { sources, problems, .. }) => {
            CheckResult { generation: None, sources, problems }
        }
    }
}

fn draw(sources: &Sources, problems: &[Problem]) {
    if !problems.is_empty() {
        say_wrong(&config::draw(sources, problems, colour(&std::io::stderr())));
    }
}

/// Summary of a configuration in numbers.
pub(super) fn summary(generation: &Generation) -> String {
    let config = &generation.config;
    let routes: usize = config.profiles.iter().map(|profile| profile.routes.len()).sum();
    let served = generation
        .virtual_servers
        .iter()
        .filter(|virtual_server| matches!(virtual_server.served, ListenerService::Routes { .. }))
        .count();
    let count = |number: usize, what: &str| {
        format!("{number} {what}{}", if number == 1 { "" } else { "s" })
    };
    let way_out = generation.forward_proxy.as_ref().map(|forward_proxy| {
        let (listeners, rules) =
            (forward_proxy.listeners.len(), forward_proxy.policy.rules().len());
        format!(
            "{} of the forward proxy with {}",
            count(listeners, "listener"),
            count(rules, "rule")
        )
    });
    let passed = (!config.tcp.is_empty()).then(|| {
        let routes: usize = config.tcp.iter().map(|tcp| tcp.routes.len()).sum();
        let (listeners, routes) =
            (count(generation.passthrough_listeners.len(), "listener"), count(routes, "route"));
        format!("{listeners} passing through with {routes}")
    });
    let mut parts = Vec::new();
    // A balancer may have none of these.
    if !config.profiles.is_empty() || passed.is_none() {
        parts.extend([
            count(config.profiles.len(), "profile"),
            count(generation.virtual_servers.len(), "listener"),
            format!("{served} of them with TLS"),
            count(routes, "route"),
        ]);
    }
    parts.extend(passed);
    parts.push(count(config.upstreams.len(), "upstream"));
    parts.push(count(config.certificates.len(), "certificate"));
    parts.extend(way_out);
    parts.join(", ")
}
