//! From a directory of TOML files to a [`Config`] that cannot be wrong.

pub mod checked;
pub mod problem;
mod expand;
pub mod file;
mod read;
mod shape;
mod wording;

pub use checked::*;
