//! From a directory of TOML files to a [`Config`] that cannot be wrong.
//!
//! ```text
//! directory --read--> texts --shape--> files as written --check--> Config
//!                            +expand                         |
//!                                                            +--> problems --draw--> text
//! ```
//!
//! `file` knows what may be written. `check` knows what it means. Both report everything they
//! find, not the first thing. Nothing past this module sees a `*File` type, an `Option` that only
//! means "use the default", or a string that names something.
//!
//! In: a directory and the environment. Out: a [`Config`], or problems and where they are. Never:
//! opens a socket, parses a certificate, resolves a name.

mod check;
pub mod checked;
mod doors;
mod draw;
mod expand;
pub mod file;
pub mod outline;
pub mod problem;
mod read;
mod schema;
mod shape;
mod syntax;
mod wording;

use std::path::Path;

pub use checked::*;
pub use doors::{Doors, doors};
pub use draw::{draw, to_json};
pub use expand::Env;
pub use outline::Outline;
pub use read::list;
pub use schema::schema;

pub use problem::Place;
use problem::{Findings, Problem, Sources};

/// A configuration that can be run.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What the operator should know about it.
    pub warnings: Vec<Problem>,
}

/// A configuration that cannot.
#[derive(Debug)]
pub struct Refused {
    /// The files, for drawing the problems.
    pub sources: Sources,
    /// All that was found, warnings first; at least one error.
    pub problems: Vec<Problem>,
}

/// Loads the configuration directory `dir`. `env` looks up environment variables.
///
/// Reads the directory's files, and looks whether the certificates they name can be read.
///
/// # Errors
///
/// [`Refused`], with every problem that could be found and the files they are in.
pub fn load(dir: &Path, env: Env<'_>) -> Result<Loaded, Refused> {
    let mut found = Findings::default();
    let sources = read::read(dir, &mut found);
    let mut shaped = shape::Shaped::default();
    let mut whole = !found.refused();
    for (index, source) in sources.files.iter().enumerate() {
        let file = u16::try_from(index).unwrap_or(u16::MAX);
        whole &= shape::shape((file, &source.text), env, &mut shaped, &mut found);
    }
    // Without one of the files, every name in it would seem to be missing.
    let config = if whole { check::check(&shaped, dir, &mut found) } else { None };
    let problems = found.into_sorted();
    match config {
        Some(config) => {
            let outline = shaped.outline.finish(dir);
            Ok(Loaded { config: Config { sources, outline, ..config }, warnings: problems })
        }
        None => Err(Refused { sources, problems }),
    }
}
