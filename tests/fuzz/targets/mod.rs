//! The targets. Each module has `check`, which returns a number for the outcome of an input and
//! panics when a property does not hold, and `WORDS`, tokens of its format.
//!
//! `fuzz/` includes these files for cargo-fuzz, so they use the public interface of the library
//! only, and nothing of the test harness.

use std::hash::{DefaultHasher, Hash, Hasher as _};

pub(crate) mod access_log;
pub(crate) mod chunked_body;
pub(crate) mod client_address;
pub(crate) mod client_hello;
pub(crate) mod config_directory;
pub(crate) mod destination;
pub(crate) mod engine_io;
pub(crate) mod h2_request;
pub(crate) mod path;
pub(crate) mod proxy_protocol;
#[path = "../reference/mod.rs"]
pub(crate) mod reference;
pub(crate) mod request_head;
pub(crate) mod response_head;
pub(crate) mod sticky_cookie;
pub(crate) mod websocket_frames;

/// A number for an outcome: equal outcomes have equal numbers.
pub(crate) fn outcome(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Positions at which an input of this length is cut in two: all of a short one, otherwise those
/// near both ends and some in between.
pub(crate) fn cuts(length: usize) -> impl Iterator<Item = usize> {
    let step = length / 32 + 1;
    (0..=length).filter(move |at| length <= 96 || *at <= 24 || length - at <= 24 || at % step == 0)
}

/// The logarithm of a size, for outcomes that do not depend on exact numbers.
pub(crate) fn magnitude(size: usize) -> u32 {
    usize::BITS - size.leading_zeros()
}
