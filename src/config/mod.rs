//! Loads a directory of TOML files into a valid [`Config`].
//!
//! ```text
//! directory --read--> texts --deserialize--> files as written --check--> Config
//!                              + expand                             |
//!                                                                  +--> problems --render--> text
//! ```
//!
//! `file` defines the syntax and `check` the meaning. Both report every problem, not only the
//! first. Nothing past this module sees a `*File` type, an `Option` that only means "use the
//! default", or a string that refers to something by name.
//!
//! The input is a directory and the environment, the result a [`Config`] or problems with their
//! positions. Loading opens no socket, parses no certificate and resolves no name.

mod admin_addresses;
mod check;
pub mod checked;
mod deserialize;
mod effective;
mod expand;
pub mod file;
pub mod outline;
pub mod problem;
mod read;
pub mod reference;
mod render;
mod schema;
mod secret_file;
mod syntax;
mod wording;

use std::path::Path;

pub use admin_addresses::{AdminAddresses, read_admin_addresses};
pub use checked::*;
pub use effective::EffectiveConfig;
pub use expand::Env;
pub use outline::Outline;
pub use read::list;
pub use reference::reference;
pub use render::{draw, summary, to_json};
pub use schema::schema;
pub use secret_file::{BYTE_ORDER_MARK, SecretFile};

use check::Checked;
pub use problem::Span;
use problem::{Findings, Problem, Sources};

impl Config {
    /// Connection limit of each reverse-proxy and passthrough listener.
    pub fn connections(&self) -> impl Iterator<Item = u64> + Clone {
        let profiles = self.profiles.iter();
        let profiles =
            profiles.flat_map(|one| one.listeners.iter().map(|_| one.limits.connections as u64));
        let passed = self.tcp.iter();
        let passed =
            passed.flat_map(|one| one.listeners.iter().map(|_| one.limits.connections as u64));
        profiles.chain(passed)
    }
}

/// File descriptors for other purposes than connections: listeners, logs, checks.
const SPARE_FILES: u64 = 256;

/// File descriptors that a small site needs on an ordinary day: 250 chats and 50 agents,
/// reconnecting.
pub const FEW_OPEN_FILES: u64 = 2048;

/// File descriptors that this number of connections needs, two each: for the client and the
/// component.
#[must_use]
pub const fn open_files(connections: u64) -> u64 {
    2 * connections + SPARE_FILES
}

/// A valid configuration.
#[derive(Debug)]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Config,
    /// Warnings for the operator.
    pub warnings: Vec<Problem>,
}

/// An invalid configuration.
#[derive(Debug)]
pub struct RejectedConfig {
    /// The files, for rendering the problems.
    pub sources: Sources,
    /// All problems, warnings first; at least one error.
    pub problems: Vec<Problem>,
    /// The valid part of the configuration, for `explain`; its sources are empty.
    pub partial: Option<Box<Config>>,
}

impl RejectedConfig {
    /// The valid part of the configuration, with its sources, and the problems of the rest.
    #[must_use]
    pub fn into_partial(self) -> (Option<Config>, Sources, Vec<Problem>) {
        match self.partial {
            Some(partial) => {
                let config = Config { sources: self.sources, ..*partial };
                (Some(config), Sources::default(), self.problems)
            }
            None => (None, self.sources, self.problems),
        }
    }
}

/// Loads the configuration directory `dir`. `env` looks up environment variables.
///
/// Reads the directory's files, and checks that the certificates they name can be read.
///
/// # Errors
///
/// [`RejectedConfig`], with every problem that could be found and the files that contain them.
pub fn load(dir: &Path, env: Env<'_>) -> Result<LoadedConfig, RejectedConfig> {
    let mut found = Findings::default();
    let sources = read::read(dir, &mut found);
    load_sources(sources, found, dir, env)
}

/// Loads the texts of files of `dir`. `found` has the problems of reading them.
fn load_sources(
    sources: Sources,
    mut found: Findings,
    dir: &Path,
    env: Env<'_>,
) -> Result<LoadedConfig, RejectedConfig> {
    let mut shaped = deserialize::ParsedFiles::default();
    let mut whole = !found.refused();
    for (index, source) in sources.files.iter().enumerate() {
        let file = u16::try_from(index).unwrap_or(u16::MAX);
        whole &= deserialize::shape((file, &source.text), env, &mut shaped, &mut found);
    }
    // If a file could not be read, names defined in it would be reported as missing.
    let checked = if whole {
        check::check(&shaped, dir, &mut found)
    } else {
        check::check(&shaped, dir, &mut Findings::default())
    };
    let problems = found.into_sorted();
    let outline = shaped.outline.finish(dir);
    match checked {
        Checked::Whole(config) if whole => {
            Ok(LoadedConfig { config: Config { sources, outline, ..config }, warnings: problems })
        }
        Checked::Whole(config) | Checked::Partial(config) => {
            // Without any file there is nothing to explain.
            let found = !sources.files.is_empty();
            let partial = found.then(|| Box::new(Config { outline, ..config }));
            Err(RejectedConfig { sources, problems, partial })
        }
    }
}
