//! One compiled configuration: everything the request path looks at, immutable.
//!
//! In: a checked [`Config`]. Out: [`Generation`], or the problems that can only be found with the
//! certificates in hand. Compiling reads certificate files and starts nothing.

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
    /// What it was compiled from.
    pub config: Config,
    /// One per listener, in the order of profiles and listeners.
    pub virtual_servers: Vec<Arc<VirtualServer>>,
    /// One per listener of what is passed through, in the order of tables and listeners.
    pub passthrough_listeners: Vec<Arc<PassthroughListener>>,
    /// By [`crate::config::UpstreamId`].
    pub upstreams: Vec<Arc<Upstream>>,
    /// The forward proxy, if there is one.
    pub forward_proxy: Option<Arc<ForwardProxy>>,
    /// What the files it names held when it was compiled.
    pub contents: config_version::FileHashes,
    /// Its name, the same in all its sites.
    pub config_version: Arc<ConfigVersion>,
    /// Keys that other gateways, other generations and a successor have too.
    pub shared: shared::SharedKeys,
    /// What it is compared by with other gateways; empty if that is not asked for.
    pub digest: Arc<OnceLock<drift::ConfigDigest>>,
    _alive: Arc<GenerationGuard>,
    /// What it is called in the metrics.
    names: LabelLimits,
    certificates: Vec<CertificateStatus>,
}

/// Which way a listener leads.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ListenerKind {
    /// To the components: a site.
    In,
    /// To the internet: the outlet.
    Out,
    /// To an upstream, unopened: a passage.
    Through,
}

/// An address that is listened on.
#[derive(Clone, Copy, Debug)]
pub struct ListenerAddr {
    /// Which way it leads.
    pub kind: ListenerKind,
    /// The address.
    pub address: SocketAddr,
    /// Where it is written.
    pub place: Span,
}

/// Counts a generation for as long as anything of it is in use: held by the generation and by each
/// of its sites.
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

/// A certificate as it is told about.
struct CertificateStatus {
    /// Name of the identity.
    name: String,
    /// Number of the pair, from 0.
    pair: usize,
    /// End of validity, in seconds since 1970.
    not_after: i64,
}

impl Generation {
    /// Every address that is listened on, but for the admin listener: sites, then the outlet's, then
    /// passages.
    #[must_use]
    pub fn listener_addrs(&self) -> Vec<ListenerAddr> {
        let virtual_servers = self.virtual_servers.iter();
        let virtual_servers = virtual_servers.map(|virtual_server| ListenerAddr {
            kind: ListenerKind::In,
            address: virtual_server.address,
            place: virtual_server.place,
        });
        let forward_proxy =
            self.forward_proxy.iter().flat_map(|forward_proxy| &forward_proxy.listeners);
        let forward_proxy = forward_proxy.map(|l| ListenerAddr {
            kind: ListenerKind::Out,
            address: l.address,
            place: l.place,
        });
        let passthrough_listeners = self.passthrough_listeners.iter();
        let passthrough_listeners = passthrough_listeners.map(|p| ListenerAddr {
            kind: ListenerKind::Through,
            address: p.address,
            place: p.place,
        });
        virtual_servers.chain(forward_proxy).chain(passthrough_listeners).collect()
    }

    /// What the connections of a passage are judged by, here: the passage of that address, or if
    /// there is none, another of the same table. `None`: nothing passes them through any more.
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

    /// Every endpoint: of upstreams, and of parents of the forward proxy.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let parents = self.forward_proxy.iter().flat_map(|forward_proxy| &forward_proxy.parents);
        let upstreams = self.upstreams.iter().flat_map(|upstream| &upstream.endpoints);
        upstreams.chain(parents.flat_map(|parent| &parent.endpoints))
    }

    /// Every endpoint that is given by name, each once, and how often it is looked up.
    pub fn named(&self) -> impl Iterator<Item = (Arc<Endpoint>, Duration)> {
        let mut all: BTreeMap<u64, (Arc<Endpoint>, Duration)> = BTreeMap::new();
        let every = self.config.upstreams.iter().map(|upstream| upstream.resolve_every);
        let upstreams = self.upstreams.iter().zip(every);
        let upstreams =
            upstreams.flat_map(|(one, every)| one.endpoints.iter().map(move |e| (e, every)));
        let parents = self.forward_proxy.iter().flat_map(|forward_proxy| &forward_proxy.parents);
        let parents = parents.flat_map(|parent| &parent.endpoints);
        let parents = parents.map(|endpoint| (endpoint, self.config.gateway.resolve_every));
        for (endpoint, every) in upstreams.chain(parents).filter(|(e, _)| resolve::is_name(e)) {
            let known =
                all.entry(endpoint.identity).or_insert_with(|| (Arc::clone(endpoint), every));
            known.1 = known.1.min(every);
        }
        all.into_values()
    }

    /// When a certificate ends, in seconds since 1970. `key` is the chain's as in
    /// [`crate::config::outline`]: `pairs.1.chain`.
    #[must_use]
    pub fn ends(&self, certificate: &str, key: &str) -> Option<i64> {
        let pair: usize = key.strip_prefix("pairs.")?.strip_suffix(".chain")?.parse().ok()?;
        let mut all = self.certificates.iter();
        let shown = all.find(|shown| shown.name == certificate && shown.pair + 1 == pair)?;
        Some(shown.not_after)
    }

    /// A hash of every byte it was made from. Equal: nothing has changed.
    #[must_use]
    pub fn fingerprint(&self) -> Vec<u8> {
        config_version::fingerprint(&self.config, &self.contents)
    }

    /// A hash of what is in effect, 12 hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        config_version::effective(&self.config, &self.contents)
    }

    /// What the connections of a listener are served by, here: the listener of that address, or if
    /// there is none, another of the same profile. `None`: nothing serves them any more.
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

    /// What it is called in the metrics.
    #[must_use]
    pub fn names(&self) -> &LabelLimits {
        &self.names
    }

    /// The identities of all endpoints, sorted.
    #[must_use]
    pub fn identities(&self) -> Arc<[u64]> {
        let mut all: Vec<_> = self.endpoints().map(|endpoint| endpoint.identity).collect();
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
        metrics.set_active_configuration(&self.names, &certificates, &upstreams);
    }

    /// Files the configuration names: certificates, keys, CA bundles, users, credentials.
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
