//! Client side of all listeners: accepting, PROXY protocol, TLS handshake, HTTP/1 connections and
//! bodies. Used by the reverse proxy, the forward proxy and passthrough.
//!
//! ```text
//! accept -> (balancer) -> handshake -> Conn (heads in, replies out) -> request and response bodies
//! ```
//!
//! A listener implements [`accept::Acceptor`], which admits and serves its connections. This module
//! makes no decision about a request.

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

/// Maximum number of reads per poll, so that other tasks of the worker are not starved.
const MAX_READS_PER_POLL: usize = 16;
/// Time to wait for `100 Continue` from the upstream before the gateway sends its own.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);
