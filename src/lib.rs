//! App gateway: the TLS edge in front of Hybrid Chat.
//!
//! One block of modules is one layer. A module may name modules of earlier blocks, never of its
//! own block and never of a later one; `tests/architecture.rs` fails when that is broken.

// Addresses and units.
pub mod addr;
pub mod base64;
pub mod units;

// The configuration.
pub mod config;

// Logs and metrics.
pub mod telemetry;

// HTTP messages, sockets and TLS.
pub mod message;
pub mod net;
pub mod tls;

// Decisions: egress rules, routes, endpoints.
pub mod egress;
pub mod route;
pub mod upstream;

// One compiled configuration.
pub mod generation;

// Tracking of Socket.IO sessions.
pub mod socketio;

// Client connections.
pub mod downstream;

// The services: admin, forward, passthrough, reverse.
pub mod admin;
pub mod forward;
pub mod passthrough;
pub mod reverse;

// Start, reload and drain.
pub mod supervisor;

// The stand-in for Hybrid Chat, also used by the tests.
#[cfg(feature = "demo")]
pub mod demo;

// Checks of the requirements from this host: ports, names, certificates, components.
pub mod doctor;

// The command line.
pub mod cli;
