//! The gateway on raw sockets: what exactly it forwards, and what it never does.
//!
//! Every HTTP library repairs what it reads and writes, so none stands between these tests and the
//! program: clients and upstreams are sockets, the requests and answers text in the test. A test is
//! a world, one act, and what is now true; each has the real program, on addresses of its own, and
//! ends by naming every line the access log must hold, no more and no less.
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
mod farewell;
mod frames;
mod wire;
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
