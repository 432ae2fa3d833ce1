//! One compiled configuration: everything the request path looks at, immutable.
//!
//! In: a checked [`Config`]. Out: [`Generation`], or the problems that can only be found with the
//! certificates in hand. Compiling reads certificate files and starts nothing.

pub mod compile;
pub mod identities;
pub mod site;

use std::path::PathBuf;
use std::sync::Arc;

use prometheus::IntGauge;

use crate::config::{ClientCertificates, Config, Verify};
use crate::telemetry::Metrics;
use crate::upstream::Upstream;

pub use compile::compile;
pub use site::{Decision, Refusal, Route, Served, Site};

/// One compiled configuration.
pub struct Generation {
    /// What it was compiled from.
    pub config: Config,
    /// One per listener, in the order of profiles and listeners.
    pub sites: Vec<Arc<Site>>,
    /// By [`crate::config::UpstreamId`].
    pub upstreams: Vec<Arc<Upstream>>,
    _alive: Arc<Alive>,
    certificates: Vec<Shown>,
}

/// Counts a generation for as long as anything of it is in use: held by the generation and by each
/// of its sites.
#[derive(Debug)]
pub struct Alive(IntGauge);

impl Alive {
    fn new(gauge: &IntGauge) -> Arc<Self> {
        gauge.inc();
        Arc::new(Self(gauge.clone()))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A certificate as it is told about.
struct Shown {
    /// Name of the identity.
    name: String,
    /// Number of the pair, from 0.
    pair: usize,
    /// End of validity, in seconds since 1970.
    not_after: i64,
    /// Hash of the leaf.
    print: u64,
}

impl Generation {
    /// Name, number of the pair, and a hash of each certificate.
    pub fn prints(&self) -> impl Iterator<Item = (&str, usize, u64)> {
        self.certificates.iter().map(|shown| (shown.name.as_str(), shown.pair, shown.print))
    }

    /// The identities of all endpoints, sorted.
    #[must_use]
    pub fn endpoints(&self) -> Arc<[u64]> {
        let all = self.upstreams.iter().flat_map(|upstream| &upstream.endpoints);
        let mut all: Vec<_> = all.map(|endpoint| endpoint.identity).collect();
        all.sort_unstable();
        all.into()
    }

    /// Puts what is known of certificates and upstreams into the metrics.
    pub fn tell(&self, metrics: &Metrics) {
        let verified = |u: &crate::config::Upstream| !matches!(u.verify, Verify::None { .. });
        let upstreams: Vec<_> =
            self.config.upstreams.iter().map(|u| (u.name.clone(), verified(u))).collect();
        let certificates: Vec<_> =
            self.certificates.iter().map(|s| (s.name.clone(), s.pair, s.not_after)).collect();
        metrics.tell(&certificates, &upstreams);
    }

    /// Files the configuration names: certificates, keys, CA bundles.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let pairs = self.config.certificates.iter().flat_map(|certificate| &certificate.pairs);
        let mut files: Vec<_> =
            pairs.flat_map(|pair| [pair.chain.clone(), pair.key.clone()]).collect();
        for upstream in &self.config.upstreams {
            if let Verify::Ca { file, .. } = &upstream.verify {
                files.push(file.clone());
            }
        }
        for listener in self.config.profiles.iter().flat_map(|profile| &profile.listeners) {
            match &listener.client_certificates {
                ClientCertificates::Off => {}
                ClientCertificates::Optional { ca, .. }
                | ClientCertificates::Required { ca, .. } => {
                    files.push(ca.clone());
                }
            }
        }
        files
    }
}
