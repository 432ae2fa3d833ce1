//! How a client is met: what every listener does, whatever it serves.
//!
//! ```text
//! accept -> (balancer) -> handshake -> Conn (heads in, replies out) -> upload, download
//! ```
//!
//! A listener is a [`accept::Acceptor`]: it says how a connection is let in and what is done with it.
//! What it decides about a request is its own affair.
//!
//! Never: decides anything about a request.

pub mod accept;
pub(crate) mod balancer;
pub(crate) mod client_hello;
pub(crate) mod conn;
pub(crate) mod drive;
pub(crate) mod handshake;
pub(crate) mod id;
pub(crate) mod min_rate;
pub(crate) mod reply;
pub(crate) mod request_body;
pub(crate) mod response_body;
pub mod tunnel_registry;
mod worker;

use std::time::Duration;

pub(crate) use conn::Conn;
pub(crate) use id::RequestId;
pub(crate) use reply::LocalReply;
pub use worker::Worker;

/// Reads per poll before others get their turn.
const MAX_READS_PER_POLL: usize = 16;
/// How long we wait for an upstream's `100 Continue` before we send our own.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);
