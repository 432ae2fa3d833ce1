//! Connections passed through: the real program between clients and sites that are threads of the
//! test.
//!
//! Nothing sleeps to wait for something: every wait is for a condition, bounded by
//! [`world::IO_TIMEOUT`].

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
