//! Reloading: everything that can fail, then one commit that cannot.
//!
//! ```text
//! read -> check -> compile -> look names up -> bind what is new | COMMIT | swap, accept, retire
//! ```
//!
//! In: the directory the gateway was started on. Out: an [`Outcome`] for whoever asked.
//! Never: closes a connection that the new configuration still allows.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{Context, SHA256};
use rustls::crypto::CryptoProvider;
use tokio::sync::mpsc::UnboundedSender;

use crate::admin::Outcome;
use crate::config::{self, Config, Loaded, Refused};
use crate::generation::{Generation, Site, compile};
use crate::telemetry::Metrics;
use crate::upstream::resolve;

use super::changes;
use super::start::{StartError, bind_sites};
use super::worker::{Command, Shared};

/// Looks up environment variables.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Where the configuration comes from, each time anew.
#[derive(Clone)]
pub struct Origin {
    /// The directory.
    pub directory: PathBuf,
    /// The environment its `${NAME}`s are looked up in.
    pub environment: Environment,
    /// For what is compiled from it.
    pub provider: Arc<CryptoProvider>,
}

/// What the running gateway is made of, for changing it.
pub(super) struct Reloader {
    pub(super) origin: Origin,
    pub(super) metrics: Arc<Metrics>,
    pub(super) generation: Arc<Generation>,
    pub(super) listeners: HashMap<SocketAddr, Shared>,
    /// What listeners that were removed served, for as long as they have connections.
    pub(super) retired: Vec<(SocketAddr, Weak<ArcSwap<Site>>)>,
    pub(super) workers: Vec<UnboundedSender<Command>>,
    pub(super) started: changes::Fixed,
    /// Of the generation that serves.
    pub(super) number: u64,
    pub(super) fingerprint: Vec<u8>,
}

/// A generation that only needs to be committed.
struct Prepared {
    generation: Generation,
    fingerprint: Vec<u8>,
    /// By worker, then by the new listeners in the order of their sites.
    sockets: Vec<Vec<TcpListener>>,
    warnings: String,
}

enum NotPrepared {
    Unchanged,
    Refused(String),
}

impl Reloader {
    /// Tries the directory's present contents. `trigger` is for the log.
    pub(super) async fn reload(&mut self, trigger: &str) -> Outcome {
        let attempt = Attempt {
            origin: self.origin.clone(),
            metrics: Arc::clone(&self.metrics),
            previous: Arc::clone(&self.generation),
            fingerprint: self.fingerprint.clone(),
            workers: self.workers.len(),
            leaving: self.leaving(),
        };
        // Reading and key loading block; health checks go on meanwhile.
        let prepared = tokio::task::spawn_blocking(move || attempt.prepare()).await;
        let failed = |error| Err(NotPrepared::Refused(format!("the reload failed: {error}")));
        match prepared.unwrap_or_else(failed) {
            Ok(prepared) => self.commit(prepared, trigger),
            Err(NotPrepared::Unchanged) => {
                tracing::info!(trigger, "reload: nothing has changed");
                self.metrics.reloaded("unchanged", true);
                self.outcome("unchanged", Vec::new(), String::new())
            }
            Err(NotPrepared::Refused(problems)) => {
                tracing::error!(
                    trigger,
                    "reload refused; generation {} goes on serving\n{problems}",
                    self.number
                );
                self.metrics.reloaded("refused", false);
                self.outcome("refused", Vec::new(), problems)
            }
        }
    }

    fn outcome(&self, result: &'static str, changes: Vec<String>, problems: String) -> Outcome {
        Outcome { result, generation: self.number, changes, problems }
    }

    /// Puts a generation into force. Nothing here can fail.
    fn commit(&mut self, prepared: Prepared, trigger: &str) -> Outcome {
        let Prepared { generation, fingerprint, sockets, warnings } = prepared;
        let changes = changes::between(&self.started, &self.generation, &generation);
        let added: Vec<_> =
            self.added(&generation).map(|site| (site.address, Shared::new(site))).collect();
        for (worker, sockets) in self.workers.iter().zip(sockets) {
            for (socket, (_, shared)) in sockets.into_iter().zip(&added) {
                // A worker that is gone is noticed by the control loop.
                let _ = worker.send(Command::Listen(socket, shared.clone()));
            }
        }
        self.retired.retain(|(_, place)| {
            let place = place.upgrade();
            place.inspect(|place| place.store(heir(&generation, &place.load()))).is_some()
        });
        self.listeners.retain(|address, shared| {
            shared.site.store(heir(&generation, &shared.site.load()));
            let kept = generation.sites.iter().any(|site| site.address == *address);
            if !kept {
                for worker in &self.workers {
                    let _ = worker.send(Command::Close(*address));
                }
                self.retired.push((*address, Arc::downgrade(&shared.site)));
            }
            kept
        });
        self.listeners.extend(added);
        self.generation = Arc::new(generation);
        self.fingerprint = fingerprint;
        self.number += 1;
        let endpoints = self.generation.endpoints();
        for worker in &self.workers {
            let _ = worker.send(Command::Reloaded(Arc::clone(&endpoints)));
        }
        self.generation.tell(&self.metrics);
        self.metrics.generation.set(i64::try_from(self.number).unwrap_or(i64::MAX));
        self.metrics.reloaded("applied", true);
        tracing::info!(trigger, "reload applied: generation {} serves", self.number);
        for change in &changes {
            tracing::info!("  {change}");
        }
        self.outcome("applied", changes, warnings)
    }

    /// Ports that workers may still be about to let go.
    fn leaving(&self) -> Vec<u16> {
        let open = self.retired.iter().filter(|(_, place)| place.strong_count() > 0);
        open.map(|(address, _)| address.port()).collect()
    }

    fn added<'a>(&self, generation: &'a Generation) -> impl Iterator<Item = &'a Arc<Site>> {
        let known: Vec<_> = self.generation.sites.iter().map(|site| site.address).collect();
        generation.sites.iter().filter(move |site| !known.contains(&site.address))
    }
}

/// What the connections of a listener are judged by: what is served there now, or, if it is gone,
/// what another listener of the same profile serves, or nothing.
fn heir(generation: &Generation, site: &Site) -> Arc<Site> {
    let kept = generation.sites.iter().find(|other| other.address == site.address);
    let heir = kept.or_else(|| successor(generation, site)).cloned();
    heir.unwrap_or_else(|| Arc::new(site.emptied()))
}

fn successor<'a>(generation: &'a Generation, gone: &Site) -> Option<&'a Arc<Site>> {
    let mut same = generation.sites.iter().filter(|site| site.names.profile == gone.names.profile);
    same.find(|site| site.tls.is_some() == gone.tls.is_some())
}

/// What a thread needs to prepare a reload.
struct Attempt {
    origin: Origin,
    metrics: Arc<Metrics>,
    previous: Arc<Generation>,
    fingerprint: Vec<u8>,
    workers: usize,
    leaving: Vec<u16>,
}

impl Attempt {
    fn prepare(self) -> Result<Prepared, NotPrepared> {
        let environment = |name: &str| (self.origin.environment)(name);
        let draw = |sources: &_, problems: &[_]| config::draw(sources, problems, false);
        let loaded = config::load(&self.origin.directory, &environment);
        let Loaded { config, mut warnings } = loaded.map_err(|Refused { sources, problems }| {
            NotPrepared::Refused(draw(&sources, &problems))
        })?;
        let compiled = compile(config, &self.origin.provider, &self.metrics, Some(&self.previous))
            .map_err(|refused| NotPrepared::Refused(draw(&refused.0.sources, &refused.1)))?;
        let generation = compiled.generation;
        let fingerprint = fingerprint(&generation);
        if fingerprint == self.fingerprint {
            return Err(NotPrepared::Unchanged);
        }
        for endpoint in generation.upstreams.iter().flat_map(|upstream| &upstream.endpoints) {
            if endpoint.addresses.load().is_empty()
                && let Err(error) = resolve::refresh(endpoint)
            {
                tracing::warn!("{error}; it is looked up again every {:?}", resolve::REFRESH);
            }
        }
        let sockets =
            self.bind(&generation).map_err(|error| NotPrepared::Refused(error.to_string()))?;
        warnings.extend(compiled.warnings);
        let warnings = if warnings.is_empty() {
            String::new()
        } else {
            draw(&generation.config.sources, &warnings)
        };
        Ok(Prepared { generation, fingerprint, sockets, warnings })
    }

    fn bind(&self, generation: &Generation) -> Result<Vec<Vec<TcpListener>>, StartError> {
        let known: Vec<_> = self.previous.sites.iter().map(|site| site.address).collect();
        let new = generation.sites.iter().filter(|site| !known.contains(&site.address));
        let new: Vec<_> = new.collect();
        let ours = |port: u16| {
            !known.iter().any(|address| address.port() == port) && !self.leaving.contains(&port)
        };
        bind_sites(generation, &new, self.workers, &ours)
    }
}

/// A hash of everything a generation was made from: the texts, and the files they name.
pub(super) fn fingerprint(generation: &Generation) -> Vec<u8> {
    let Config { sources, .. } = &generation.config;
    let mut hash = Context::new(&SHA256);
    let mut add = |name: &str, text: &[u8]| {
        for part in [name.as_bytes(), text] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    };
    for source in &sources.files {
        add(&source.name, source.text.as_bytes());
    }
    for file in generation.files() {
        // One that cannot be read any more is different from what it was.
        add(&file.to_string_lossy(), &std::fs::read(&file).unwrap_or_default());
    }
    hash.finish().as_ref().to_vec()
}
