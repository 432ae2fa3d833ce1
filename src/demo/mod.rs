//! A stand-in for Hybrid Chat: all of its components, small, in this process, over real TLS.
//!
//! The gateway is nothing without what stands behind it, and the product cannot be installed to try
//! a proxy. So `app-gateway demo` starts this, and the tests live in it: the same ports, the same
//! health paths, real Socket.IO at the product's ping interval, a chat one can hold, and endpoints
//! that tell exactly what reached them.
//!
//! In: certificates ([`certificates::ensure`]) and an address ([`start`]). Out: listening sockets
//! until the [`StandIn`] is dropped. Never: calls out, writes a file, or keeps more than a fixed
//! amount in memory. It trusts whoever connects; it is not for a network anybody else is on.

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
