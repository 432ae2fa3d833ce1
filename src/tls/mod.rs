//! TLS on both sides: certificates, who is shown which, and how upstreams are verified.
//!
//! One provider (aws-lc-rs), built once by [`provider`] and handed around; nothing is installed
//! process-wide.
//!
//! Never: knows a route.

pub mod certificate;
pub mod client;
pub mod client_auth;
pub mod hello;
mod listed;
pub mod peer;
pub mod pem;
pub mod retry;
pub mod secret;
pub mod server;
pub mod tickets;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use certificate::{CertificateFinding, CertifiedPair, FindingSubject};
pub use client_auth::{ClientAuth, ClientHandshake};
pub use secret::SharedSecrets;
pub use server::ServerTls;

/// Organization in the subject of every certificate made by `app-gateway demo`. A listener that
/// can be reached from another host refuses them: their keys lie about on a developer's disk.
pub const DEVELOPMENT_ORGANIZATION: &str = "app-gateway development certificate";

/// The cryptography everything here uses: aws-lc-rs, X25519MLKEM768 preferred, TLS 1.2 and 1.3.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
