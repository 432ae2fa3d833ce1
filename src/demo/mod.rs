//! A stand-in for Hybrid Chat: small versions of all its components, in this process, over real
//! TLS.
//!
//! The gateway is useless without components behind it, and installing the product only to try a
//! proxy is not practical. Therefore `app-gateway demo` starts this stand-in, and the tests use it:
//! the same ports, the same health paths, real Socket.IO at the product's ping interval, a working
//! chat, and endpoints that report requests exactly as they arrived.
//!
//! [`start`] takes certificates ([`certificates::ensure`]) and an address, and listens until the
//! [`StandIn`] is dropped. The stand-in makes no calls to other hosts, writes no files, and keeps a
//! bounded amount of data in memory. It trusts every client, so it must not run on a network shared
//! with others.

use std::net::IpAddr;

pub mod certificates;

mod channels;
mod chat;
mod chat_server;
mod components;
mod echo;
mod file_engine;
mod gadgets;
mod multipart;
mod range;
mod reply;
mod server;
mod store;

pub use certificates::{DEVELOPMENT_ORGANIZATION, DevelopmentCertificates, ensure};
pub use components::{Component, StandIn, StandInError, start, start_on_free_ports};

/// The variables that point the shipped configuration at a stand-in on this machine.
#[must_use]
pub fn environment(
    certificates: &DevelopmentCertificates,
    stand_in: IpAddr,
) -> Vec<(String, String)> {
    let host = match stand_in {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let pairs = [
        ("INTERNET_ADDR", "127.0.0.1".to_owned()),
        ("LAN_ADDR", "127.0.0.1".to_owned()),
        ("HYBRID_CHAT_HOST", host),
        ("CERT_DIR", certificates.directory.display().to_string()),
        ("HYBRID_CHAT_CA", certificates.ca.display().to_string()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests;
