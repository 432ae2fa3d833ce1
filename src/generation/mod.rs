//! One compiled configuration: everything the request path looks at, immutable.
//!
//! In: a checked [`Config`]. Out: [`Generation`], or the problems that can only be found with the
//! certificates in hand. Compiling reads certificate files and starts nothing.

pub mod compile;
pub mod drift;
pub mod edition;
pub mod explain;
pub mod identities;
pub mod load;
pub mod outlet;
pub mod passage;
mod self_test;
mod series;
pub mod shared;
pub mod site;
mod upstreams;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::IntGauge;

use crate::config::{ClientCertificates, Config, Span, Verify};
use crate::telemetry::{Allotment, Metrics};
use crate::upstream::{Endpoint, Upstream, resolve};

pub use compile::compile;
pub use edition::Edition;
pub use load::load;
pub use outlet::Outlet;
pub use passage::Passage;
pub use self_test::{SelfTest, Watch};
pub use site::{Decision, Refusal, Route, Served, Site};

/// One compiled configuration.
pub struct Generation {
    /// What it was compiled from.
    pub config: Config,
    /// One per listener, in the order of profiles and listeners.
    pub sites: Vec<Arc<Site>>,
    /// One per listener of what is passed through, in the order of tables and listeners.
    pub passages: Vec<Arc<Passage>>,
    /// By [`crate::config::UpstreamId`].
    pub upstreams: Vec<Arc<Upstream>>,
    /// The forward proxy, if there is one.
    pub outlet: Option<Arc<Outlet>>,
    /// What the files it names held when it was compiled.
    pub contents: edition::Contents,
    /// Its name, the same in all its sites.
    pub edition: Arc<Edition>,
    /// Keys that other gateways, other generations and a successor have too.
    pub shared: shared::Shared,
    /// What it is compared by with other gateways; empty if that is not asked for.
    pub sheet: Arc<OnceLock<drift::Sheet>>,
    _alive: Arc<Alive>,
    /// What it is called in the metrics.
    names: Allotment,
    certificates: Vec<Shown>,
}

/// Which way a listener leads.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// To the components: a site.
    In,
    /// To the internet: the outlet.
    Out,
    /// To an upstream, unopened: a passage.
    Through,
}

/// An address that is listened on.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    /// Which way it leads.
    pub kind: Kind,
    /// The address.
    pub address: SocketAddr,
    /// Where it is written.
    pub place: Span,
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
}

impl Generation {
    /// Every address that is listened on, but for the admin listener: sites, then the outlet's, then
    /// passages.
    #[must_use]
    pub fn spots(&self) -> Vec<Spot> {
        let sites = self.sites.iter();
        let sites =
            sites.map(|site| Spot { kind: Kind::In, address: site.address, place: site.place });
        let outlet = self.outlet.iter().flat_map(|outlet| &outlet.listeners);
        let outlet = outlet.map(|l| Spot { kind: Kind::Out, address: l.address, place: l.place });
        let passages = self.passages.iter();
        let passages =
            passages.map(|p| Spot { kind: Kind::Through, address: p.address, place: p.place });
        sites.chain(outlet).chain(passages).collect()
    }

    /// What the connections of a passage are judged by, here: the passage of that address, or if
    /// there is none, another of the same table. `None`: nothing passes them through any more.
    #[must_use]
    pub fn heir_of_passage(&self, passage: &Passage) -> Option<&Arc<Passage>> {
        let same = self.passages.iter().find(|heir| heir.address == passage.address);
        same.or_else(|| {
            self.passages.iter().find(|heir| heir.names.profile == passage.names.profile)
        })
    }

    /// Every endpoint: of upstreams, and of parents of the forward proxy.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let parents = self.outlet.iter().flat_map(|outlet| &outlet.parents);
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
        let parents = self.outlet.iter().flat_map(|outlet| &outlet.parents);
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
        edition::fingerprint(&self.config, &self.contents)
    }

    /// A hash of what is in effect, 12 hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        edition::effective(&self.config, &self.contents)
    }

    /// What the connections of a listener are served by, here: the listener of that address, or if
    /// there is none, another of the same profile. `None`: nothing serves them any more.
    #[must_use]
    pub fn heir(&self, site: &Site) -> Option<&Arc<Site>> {
        let same = self.sites.iter().find(|heir| heir.address == site.address);
        same.or_else(|| {
            let mut others =
                self.sites.iter().filter(|heir| heir.names.profile == site.names.profile);
            others.find(|heir| heir.tls.is_some() == site.tls.is_some())
        })
    }

    /// What it is called in the metrics.
    #[must_use]
    pub fn names(&self) -> &Allotment {
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
        metrics.tell(&self.names, &certificates, &upstreams);
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
