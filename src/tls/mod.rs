//! TLS for clients and upstreams: certificates, certificate selection and verification.
//!
//! [`provider`] builds the one cryptography provider (aws-lc-rs), which is passed to its users.
//! Nothing is installed process-wide.
//!
//! Modules of `tls` know no routes.

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
/// other hosts can reach refuses them, because their keys are unprotected files of a developer.
pub const DEVELOPMENT_ORGANIZATION: &str = "app-gateway development certificate";

/// The cryptography provider: aws-lc-rs, TLS 1.2 and 1.3, X25519MLKEM768 preferred.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
