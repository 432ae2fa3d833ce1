//! How a client is met: what every listener does, whatever it serves.
//!
//! ```text
//! accept -> (balancer) -> handshake -> Conn (heads in, replies out) -> upload, download
//! ```
//!
//! A listener is a [`accept::Door`]: it says how a connection is let in and what is done with it.
//! What it decides about a request is its own affair.
//!
//! Never: decides anything about a request.

pub mod accept;
pub(crate) mod balancer;
pub(crate) mod conn;
pub(crate) mod download;
pub(crate) mod handshake;
pub(crate) mod hello;
pub(crate) mod id;
pub(crate) mod pace;
pub(crate) mod reply;
pub(crate) mod sender;
pub(crate) mod transfer;
pub mod tunnels;
mod worker;

use std::time::Duration;

pub(crate) use conn::Conn;
pub(crate) use id::RequestId;
pub(crate) use reply::Reply;
pub use worker::Worker;

/// Reads per poll before others get their turn.
const TURNS: usize = 16;
/// How long we wait for an upstream's `100 Continue` before we send our own.
const CONTINUE: Duration = Duration::from_secs(1);
