//! Inputs of a start or reload: the configuration directory and its environment.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use crate::telemetry::Logging;

use super::upgrade_parent::ProgramArgs;

/// Function that looks up an environment variable.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Source of the configuration, read again by every reload.
#[derive(Clone)]
pub struct ConfigSource {
    /// Configuration directory.
    pub directory: PathBuf,
    /// Environment for the variables `${NAME}` in the configuration.
    pub environment: Environment,
    /// Provider of the cryptography for TLS.
    pub provider: Arc<CryptoProvider>,
    /// Command line for the child of a binary upgrade; `None` if upgrades are not possible.
    pub program: Option<ProgramArgs>,
    /// Log of the gateway, reconfigured by reloads.
    pub logging: Logging,
}
