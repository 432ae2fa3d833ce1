//! What a gateway is started with besides its configuration.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use crate::telemetry::Logging;

use super::upgrade_parent::ProgramArgs;

/// Looks up environment variables.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Where the configuration comes from, each time anew.
#[derive(Clone)]
pub struct ConfigSource {
    /// The directory.
    pub directory: PathBuf,
    /// The environment its `${NAME}`s are looked up in.
    pub environment: Environment,
    /// For what is compiled from it.
    pub provider: Arc<CryptoProvider>,
    /// How to start this program anew; `None` where that makes no sense.
    pub program: Option<ProgramArgs>,
    /// Speaks about the gateway.
    pub logging: Logging,
}
