//! From a directory to a generation, the one way for `run`, `check`, `plan` and every reload: what
//! one of them refuses all refuse, in the same words.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use crate::config::problem::{Problem, Severity};
use crate::config::{self, Env, LoadedConfig, RejectedConfig};
use crate::telemetry::Metrics;

use super::Generation;
use super::compile::{Compiled, Purpose, build, compile};

/// Found by comparing certificates with the rest; proves nothing while one of them is left out.
const FOLLOWS: &str = "certificate.host-not-covered";

/// Loads and compiles a directory; `previous` as for [`compile`]. Blocks on the file system.
///
/// The warnings of the result are all there are, of the files and of the certificates.
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

/// Adds the problems of the files that a refused configuration names: certificates, keys, CAs,
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

/// Loads a directory and compiles what is right of it, for explaining. Blocks on the file system.
///
/// # Errors
///
/// Every problem, if there is nothing to explain.
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

/// Loads a directory without what is wrong, and the problems of that.
///
/// # Errors
///
/// Every problem, if nothing is left.
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

/// Both lists, errors next to the prompt.
fn errors_last(mut problems: Vec<Problem>, found: Vec<Problem>) -> Vec<Problem> {
    problems.extend(found);
    problems.sort_by_key(|problem| problem.severity == Severity::Error);
    problems
}
