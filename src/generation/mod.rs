//! Compiled configurations: immutable snapshots that the request path reads.
//!
//! In: a checked [`Config`]. Out: a [`Generation`], or problems that are found only after reading
//! the certificates. Compiling reads certificate files and starts nothing.

pub mod certificates;
pub mod compile;
pub mod config_version;
pub mod drift;
pub mod explain;
pub mod forward_proxy;
pub mod load;
pub mod passthrough;
mod prefix;
mod self_test;
mod series;
pub mod shared;
mod upstreams;
pub mod virtual_server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::IntGauge;

use crate::config::{ClientCertificates, Config, Span, Verify};
use crate::telemetry::{LabelLimits, Metrics};
use crate::upstream::{Endpoint, Upstream, resolve};

pub use compile::compile;
pub use config_version::ConfigVersion;
pub use forward_proxy::ForwardProxy;
pub use load::load;
pub use passthrough::PassthroughListener;
pub use self_test::{ArrivalWatch, SelfTestServer};
pub use virtual_server::{
    CompiledRoute, ListenerService, RouteDecision, RouteRejection, VirtualServer,
};

/// One compiled configuration.
pub struct Generation {
    /// The checked configuration it was compiled from.
    pub config: Config,
    /// One virtual server per reverse-proxy listener, in the order of profiles and listeners.
    pub virtual_servers: Vec<Arc<VirtualServer>>,
    /// One entry per passthrough listener, in the order of `[tcp]` tables and listeners.
    pub passthrough_listeners: Vec<Arc<PassthroughListener>>,
    /// Indexed by [`crate::config::UpstreamId`].
    pub upstreams: Vec<Arc<Upstream>>,
    /// `None` without a `[forward]` table.
    pub forward_proxy: Option<Arc<ForwardProxy>>,
    /// Hashes of the files that the configuration names, read when it was compiled.
    pub contents: config_version::FileHashes,
    /// Number and hash of this generation, shared with all its virtual servers.
    pub config_version: Arc<ConfigVersion>,
    /// Keys that outlast this generation: shared between gateways, or kept across reloads.
    pub shared: shared::SharedKeys,
    /// Configuration digest for drift comparison; stays empty if drift comparison is not
    /// configured.
    pub digest: Arc<OnceLock<drift::ConfigDigest>>,
    _alive: Arc<GenerationGuard>,
    /// Names that have metric series of their own.
    names: LabelLimits,
    certificates: Vec<CertificateStatus>,
}

/// Service of a listener.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ListenerKind {
    /// Reverse proxy: a virtual server that forwards to the components.
    Reverse,
    /// Forward proxy: outgoing connections of the components.
    Forward,
    /// Passthrough: connections forwarded to an upstream without terminating TLS.
    Passthrough,
}

/// Address and service of one listener.
#[derive(Clone, Copy, Debug)]
pub struct ListenerAddr {
    /// Service of the listener.
    pub kind: ListenerKind,
    /// Address and port.
    pub address: SocketAddr,
    /// Place of the `listen` key in the configuration.
    pub place: Span,
}

/// Counts a generation in the metrics while any part of it is in use. The generation and each of
/// its listeners hold a reference.
#[derive(Debug)]
pub struct GenerationGuard(IntGauge);

impl GenerationGuard {
    fn new(gauge: &IntGauge) -> Arc<Self> {
        gauge.inc();
        Arc::new(Self(gauge.clone()))
    }
}

impl Drop for GenerationGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Name and expiry of one certificate, for the metrics.
struct CertificateStatus {
    /// Name of the certificate in the configuration.
    name: String,
    /// Index of the pair, from 0.
    pair: usize,
    /// End of validity, in seconds since 1970.
    not_after: i64,
}

impl Generation {
    /// All listener addresses except the admin listener's: first reverse, then forward, then
    /// passthrough.
    #[must_use]
    pub fn listener_addrs(&self) -> Vec<ListenerAddr> {
        let virtual_servers = self.virtual_servers.iter();
        let virtual_servers = virtual_servers.map(|virtual_server| ListenerAddr {
            kind: ListenerKind::Reverse,
            address: virtual_server.address,
            place: virtual_server.place,
        });
        let forward_proxy =
            self.forward_proxy.iter().flat_map(|forward_proxy| &forward_proxy.listeners);
        let forward_proxy = forward_proxy.map(|l| ListenerAddr {
            kind: ListenerKind::Forward,
            address: l.address,
            place: l.place,
        });
        let passthrough_listeners = self.passthrough_listeners.iter();
        let passthrough_listeners = passthrough_listeners.map(|p| ListenerAddr {
            kind: ListenerKind::Passthrough,
            address: p.address,
            place: p.place,
        });
        virtual_servers.chain(forward_proxy).chain(passthrough_listeners).collect()
    }

    /// The listener of this generation whose rules now apply to connections of
    /// `passthrough_listener`: the one with the same address, else one of the same `[tcp]` table.
    /// `None` if there is neither.
    #[must_use]
    pub fn passthrough_replacement(
        &self,
        passthrough_listener: &PassthroughListener,
    ) -> Option<&Arc<PassthroughListener>> {
        let same = self
            .passthrough_listeners
            .iter()
            .find(|replacement| replacement.address == passthrough_listener.address);
        same.or_else(|| {
            self.passthrough_listeners
                .iter()
                .find(|replacement| replacement.names.profile == passthrough_listener.names.profile)
        })
    }

    /// All endpoints of upstreams and of the forward proxy's parents.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let parents = self.forward_proxy.iter().flat_map(|forward_proxy| &forward_proxy.parents);
        let upstreams = self.upstreams.iter().flat_map(|upstream| &upstream.endpoints);
        upstreams.chain(parents.flat_map(|parent| &parent.endpoints))
    }

    /// Endpoints configured by host name, each once, with the shortest interval between its DNS
    /// lookups.
    pub fn named_endpoints(&self) -> impl Iterator<Item = (Arc<Endpoint>, Duration)> {
        let mut all: BTreeMap<u64, (Arc<Endpoint>, Duration)> = BTreeMap::new();
        let every = self.config.upstreams.iter().map(|upstream| upstream.resolve_interval);
        let upstreams = self.upstreams.iter().zip(every);
        let upstreams =
            upstreams.flat_map(|(one, every)| one.endpoints.iter().map(move |e| (e, every)));
        let parents = self.forward_proxy.iter().flat_map(|forward_proxy| &forward_proxy.parents);
        let parents = parents.flat_map(|parent| &parent.endpoints);
        let parents = parents.map(|endpoint| (endpoint, self.config.gateway.resolve_interval));
        for (endpoint, every) in upstreams.chain(parents).filter(|(e, _)| resolve::is_name(e)) {
            let known =
                all.entry(endpoint.identity).or_insert_with(|| (Arc::clone(endpoint), every));
            known.1 = known.1.min(every);
        }
        all.into_values()
    }

    /// End of a certificate's validity, in seconds since 1970. `key` is the outline key of the
    /// chain (see [`crate::config::outline`]), for example `pairs.1.chain`.
    #[must_use]
    pub fn certificate_expiry(&self, certificate: &str, key: &str) -> Option<i64> {
        let pair: usize = key.strip_prefix("pairs.")?.strip_suffix(".chain")?.parse().ok()?;
        let mut all = self.certificates.iter();
        let shown = all.find(|shown| shown.name == certificate && shown.pair + 1 == pair)?;
        Some(shown.not_after)
    }

    /// Hash of every byte of the configuration files and the files they name. If it is equal to
    /// that of the running generation, a reload has nothing to do.
    #[must_use]
    pub fn fingerprint(&self) -> Vec<u8> {
        config_version::fingerprint(&self.config, &self.contents)
    }

    /// Hash of the effective configuration, 12 hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        config_version::effective(&self.config, &self.contents)
    }

    /// The virtual server of this generation whose rules now apply to connections of
    /// `virtual_server`: the one with the same address, else one of the same profile. `None` if
    /// there is neither.
    #[must_use]
    pub fn replacement(&self, virtual_server: &VirtualServer) -> Option<&Arc<VirtualServer>> {
        let same = self
            .virtual_servers
            .iter()
            .find(|replacement| replacement.address == virtual_server.address);
        same.or_else(|| {
            let mut others = self
                .virtual_servers
                .iter()
                .filter(|replacement| replacement.names.profile == virtual_server.names.profile);
            others.find(|replacement| replacement.tls.is_some() == virtual_server.tls.is_some())
        })
    }

    /// Names that have metric series of their own.
    #[must_use]
    pub fn names(&self) -> &LabelLimits {
        &self.names
    }

    /// Identities of all endpoints, sorted.
    #[must_use]
    pub fn identities(&self) -> Arc<[u64]> {
        let mut all: Vec<_> = self.endpoints().map(|endpoint| endpoint.identity).collect();
        all.sort_unstable();
        all.into()
    }

    /// Sets the metrics that describe certificates and upstreams.
    pub fn update_metrics(&self, metrics: &Metrics) {
        let verified = |u: &crate::config::Upstream| !matches!(u.verify, Verify::None { .. });
        let upstreams: Vec<_> =
            self.config.upstreams.iter().map(|u| (u.name.clone(), verified(u))).collect();
        let certificates: Vec<_> =
            self.certificates.iter().map(|s| (s.name.clone(), s.pair, s.not_after)).collect();
        metrics.set_active_configuration(&self.names, &certificates, &upstreams);
    }

    /// Files that the configuration names: certificates, keys, CA bundles, users, credentials, the
    /// shared secret.
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
        files.extend(self.config.gateway.shared_secret.iter().map(|secret| secret.file.clone()));
        files.extend(self.config.forward.iter().flat_map(|forward| forward.files().cloned()));
        files
    }
}
