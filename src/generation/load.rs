//! From a directory to a generation, the one way for `run`, `check`, `plan` and every reload: what
//! one of them refuses all refuse, in the same words.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use crate::config::problem::Severity;
use crate::config::{self, Env, Loaded, Refused};
use crate::telemetry::Metrics;

use super::Generation;
use super::compile::{Compiled, compile};

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
) -> Result<Compiled, Refused> {
    let Loaded { config, mut warnings } = config::load(directory, env)?;
    match compile(config, provider, metrics, previous) {
        Ok(mut compiled) => {
            warnings.append(&mut compiled.warnings);
            Ok(Compiled { warnings, ..compiled })
        }
        Err(refused) => {
            let (config, found) = *refused;
            let mut problems = warnings;
            problems.extend(found);
            // Errors last, next to the prompt.
            problems.sort_by_key(|problem| problem.severity == Severity::Error);
            Err(Refused { sources: config.sources, problems })
        }
    }
}
