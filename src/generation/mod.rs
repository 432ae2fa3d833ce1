//! One compiled configuration: everything the request path looks at, immutable.
//!
//! In: a checked [`Config`]. Out: [`Generation`], or the problems that can only be found with the
//! certificates in hand. Compiling reads certificate files and starts nothing.

pub mod compile;
pub mod identities;
pub mod site;

use std::sync::Arc;

use crate::config::Config;
use crate::upstream::Upstream;

pub use compile::compile;
pub use site::{Decision, Refusal, Route, Served, Site};

/// One compiled configuration.
pub struct Generation {
    /// What it was compiled from.
    pub config: Config,
    /// One per listener, in the order of profiles and listeners.
    pub sites: Vec<Arc<Site>>,
    /// By [`crate::config::UpstreamId`].
    pub upstreams: Vec<Arc<Upstream>>,
}
