//! The forward proxy on raw sockets: what exactly it says, what it passes on, what it never dials.
//!
//! As in the tests of the way in, no HTTP library stands between the test and the program: the
//! client, the origin and the parent proxy are sockets, played in the order of the test's own
//! lines. Destinations have the names of the platforms; `[forward.hosts]` leads them to loopback
//! addresses of the test's own.
//!
//! Nothing sleeps to wait for something: every wait is for a condition, bounded by [`wire::IO_TIMEOUT`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

#[path = "../common/address.rs"]
mod address;
#[allow(dead_code, reason = "shared with the tests of the way in")]
#[path = "../raw/wire.rs"]
mod wire;
mod world;

mod absolute;
mod connect;
mod denial;
mod guard;
mod limits;
mod parent;
mod reload;
mod sni;
mod tls;
