//! The forward proxy on raw sockets: its answers, the bytes that it forwards, and the addresses to
//! which it never connects.
//!
//! As in the tests of the reverse proxy, no HTTP library normalises the messages: the client, the
//! origin and the parent proxy are sockets, used in the order of the test's own lines. Destinations
//! have the names of real platforms; `[forward.hosts]` resolves them to loopback addresses of the
//! test.
//!
//! Tests wait for conditions, bounded by [`raw_conn::IO_TIMEOUT`]. A sleep models a slow peer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

#[path = "../common/address.rs"]
mod address;
#[allow(dead_code, reason = "shared with the tests of the reverse proxy")]
#[path = "../raw/raw_conn.rs"]
mod raw_conn;
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
