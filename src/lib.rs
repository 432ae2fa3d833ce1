//! App gateway: the TLS edge in front of Hybrid Chat.
//!
//! One block of modules is one layer. A module may name modules of earlier blocks, never of its
//! own block and never of a later one; `tests/architecture.rs` fails when that is broken.

// What things are called.
pub mod addr;
pub mod units;

// What the operator asked for.
pub mod config;

// What stands in for Hybrid Chat.
#[cfg(feature = "demo")]
pub mod demo;
