//! Loading and compiling of a configuration directory, used by `run`, `check`, `plan` and every
//! reload, so that all of them report the same problems in the same words.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use crate::config::problem::{Problem, Severity};
use crate::config::{self, Env, LoadedConfig, RejectedConfig};
use crate::telemetry::Metrics;

use super::Generation;
use super::compile::{Compiled, Purpose, build, compile};

/// Code of a problem that is found by comparing certificates with profiles. It is dropped from
/// partial configurations, because the missing part may contain the certificate.
const FOLLOWS: &str = "certificate.host-not-covered";

/// Loads and compiles a directory; see [`compile`] for `previous`. Blocks on the file system.
///
/// The warnings of the result include those about the files and those about certificates.
///
/// # Errors
///
/// Every problem found, warnings first.
pub fn load(
    directory: &Path,
    env: Env<'_>,
    provider: &Arc<CryptoProvider>,
    metrics: &Arc<Metrics>,
    previous: Option<&Generation>,
) -> Result<Compiled, RejectedConfig> {
    let LoadedConfig { config, mut warnings } = match config::load(directory, env) {
        Ok(loaded) => loaded,
        Err(refused) => return Err(with_named_files(refused, provider, metrics)),
    };
    match compile(config, provider, metrics, previous) {
        Ok(mut compiled) => {
            warnings.append(&mut compiled.warnings);
            Ok(Compiled { warnings, ..compiled })
        }
        Err(refused) => {
            let (config, found) = *refused;
            let problems = errors_last(warnings, found);
            Err(RejectedConfig { sources: config.sources, problems, partial: None })
        }
    }
}

/// Adds the problems of the files that a rejected configuration names: certificates, keys, CAs,
/// users, credentials. Blocks on the file system.
#[must_use]
pub fn with_named_files(
    mut refused: RejectedConfig,
    provider: &Arc<CryptoProvider>,
    metrics: &Arc<Metrics>,
) -> RejectedConfig {
    if let Some(partial) = refused.partial.take() {
        let (_, mut found) = build(*partial, provider, metrics, (None, Purpose::Serve));
        found.retain(|problem| problem.code != FOLLOWS);
        refused.problems = errors_last(refused.problems, found);
    }
    refused
}

/// Loads a directory and compiles its valid parts, for `explain`. Blocks on the file system.
///
/// # Errors
///
/// Every problem, if no part is valid.
pub fn for_explaining(
    directory: &Path,
    env: Env<'_>,
    provider: &Arc<CryptoProvider>,
    metrics: &Arc<Metrics>,
) -> Result<(Generation, Vec<Problem>), RejectedConfig> {
    let (config, problems) = partially(directory, env)?;
    let (generation, found) = build(config, provider, metrics, (None, Purpose::Explain));
    Ok((generation, errors_last(problems, found)))
}

/// Loads the valid parts of a directory, together with the problems of the rest.
///
/// # Errors
///
/// Every problem, if no part is valid.
pub fn partially(
    directory: &Path,
    env: Env<'_>,
) -> Result<(config::Config, Vec<Problem>), RejectedConfig> {
    match config::load(directory, env) {
        Ok(LoadedConfig { config, warnings }) => Ok((config, warnings)),
        Err(refused) => match refused.into_partial() {
            (Some(config), _, problems) => Ok((config, problems)),
            (None, sources, problems) => Err(RejectedConfig { sources, problems, partial: None }),
        },
    }
}

/// Concatenates both lists and moves errors to the end, next to the shell prompt.
fn errors_last(mut problems: Vec<Problem>, found: Vec<Problem>) -> Vec<Problem> {
    problems.extend(found);
    problems.sort_by_key(|problem| problem.severity == Severity::Error);
    problems
}
