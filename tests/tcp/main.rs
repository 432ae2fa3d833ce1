//! Passthrough listeners: the real program between clients and sites that are threads of the test.
//!
//! Tests wait for conditions, bounded by [`world::IO_TIMEOUT`], and do not sleep.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

#[path = "../common/address.rs"]
mod address;
mod client;
mod site;
mod world;

mod bytes;
mod failing;
mod names;
mod proxy;
mod reloads;
