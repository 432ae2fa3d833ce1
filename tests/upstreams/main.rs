//! Upstreams with several endpoints that fail and recover: the real program between clients and
//! origins that are threads of the test.
//!
//! Tests wait for conditions, bounded by [`world::IO_TIMEOUT`], and do not sleep. Origins record
//! every request, so that a test can assert that none was sent twice.

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
