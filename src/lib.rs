//! App gateway: the TLS edge in front of Hybrid Chat.
//!
//! One block of modules is one layer. A module may name modules of earlier blocks, never of its
//! own block and never of a later one; `tests/architecture.rs` fails when that is broken.

// What things are called.
pub mod addr;
pub mod base64;
pub mod units;

// What the operator asked for.
pub mod config;

// What is told.
pub mod telemetry;

// How bytes move.
pub mod message;
pub mod net;
pub mod tls;

// What is decided.
pub mod egress;
pub mod route;
pub mod upstream;

// One compiled configuration.
pub mod generation;

// What becomes of Socket.IO sessions.
pub mod socketio;

// How a client is met.
pub mod downstream;

// Who serves a client.
pub mod admin;
pub mod forward;
pub mod passthrough;
pub mod reverse;

// Who starts, reloads and drains.
pub mod supervisor;

// What stands in for Hybrid Chat, and the tests' world.
#[cfg(feature = "demo")]
pub mod demo;

// What is tried from outside.
pub mod doctor;

// Who talks to the operator.
pub mod cli;
