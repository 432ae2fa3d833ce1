//! The gateway on raw sockets: the exact bytes that it forwards, and those that it never forwards.
//!
//! Every HTTP library normalises messages, so these tests use none: clients and upstreams are
//! sockets, and requests and answers are text in the test. Each test starts the real program on
//! addresses of its own, performs one action, and ends by naming every line that the access log
//! must contain.
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
mod farewell;
mod http2_client;
mod raw_conn;
mod world;

mod aborts;
mod ambiguous;
mod ambiguous_body;
mod ambiguous_h2;
mod announce;
mod balancer;
mod client_auth;
mod exact;
mod full_pipe;
mod hostile;
mod hostile_kept;
mod http2;
mod kept;
mod limits;
mod line;
mod log;
mod odd;
mod order;
mod own_answers;
mod proxies;
mod quota;
mod refused_h2;
mod self_test;
mod send_buffer;
mod shortage;
mod timers;
mod upgrade;
