//! Upstreams of several endpoints that fail and come back: the real program between clients and
//! origins that are threads of the test.
//!
//! Nothing sleeps to wait for something: every wait is for a condition, bounded by
//! [`world::IO_TIMEOUT`]. Origins count every request, so that a test can say that nothing came twice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

#[path = "../common/address.rs"]
mod address;
mod origin;
mod world;

mod checks;
mod duty;
mod eject;
mod ready;
mod sticky;
mod tiers;
