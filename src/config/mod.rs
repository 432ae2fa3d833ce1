//! From a directory of TOML files to a [`Config`] that cannot be wrong.

pub mod checked;
pub mod problem;

pub use checked::*;
pub use problem::Place;
