//! Reloading: everything that can fail, then one commit that cannot.
//!
//! ```text
//! read -> check -> compile -> look names up -> bind what is new | COMMIT | swap, accept, retire
//! ```
//!
//! In: the directory the gateway was started on. Out: an [`Outcome`] for whoever asked.
//! Never: closes a connection that the new configuration still allows.

use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::crypto::CryptoProvider;
use tokio::sync::mpsc::UnboundedSender;

use crate::admin::Outcome;
use crate::config::{self, Config, Loaded, Refused};
use crate::forward::{Commons, Way};
use crate::generation::{Generation, Spot, compile};
use crate::telemetry::Metrics;
use crate::upstream::resolve;

use super::changes;
use super::inheritance::Inheritance;
use super::posts::{Shared, posts};
use super::start::{Held, Sockets, StartError, bind_spots, hold};
use super::succession::Program;
use super::worker::Command;

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
    /// How to start this program anew; `None` where that makes no sense.
    pub program: Option<Program>,
}

/// What the running gateway is made of, for changing it.
pub(super) struct Reloader {
    pub(super) origin: Origin,
    pub(super) metrics: Arc<Metrics>,
    pub(super) generation: Arc<Generation>,
    pub(super) listeners: Vec<(Spot, Shared)>,
    /// Of the forward proxy, for the whole life of the process.
    pub(super) commons: Arc<Commons>,
    /// The way out at present, if there is one.
    pub(super) way: Option<Arc<Way>>,
    /// The listening sockets once more; `None` once another process has them.
    pub(super) held: Option<Held>,
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
    /// By worker; each with its number among the new listeners.
    sockets: Vec<Sockets>,
    held: Held,
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
            workers: self.held.as_ref().map_or(0, |_| self.workers.len()),
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
        let Prepared { generation, fingerprint, sockets, held, warnings } = prepared;
        let changes = changes::between(&self.started, &self.generation, &generation);
        let way = generation.outlet.clone();
        let way = way.map(|outlet| Way::new(outlet, &self.metrics, self.way.as_deref()));
        let posts = posts(&generation, way.as_ref(), &self.metrics);
        let spots = generation.spots();
        let added = added(&self.generation.spots(), &spots);
        if let Some(all) = &mut self.held {
            // Before workers close theirs: in a socket that is still open connections would wait.
            all.retain(|address, _| spots.iter().any(|spot| spot.address == *address));
            all.extend(held);
        }
        self.listeners.retain(|(spot, shared)| {
            let stays = shared.swap(&posts, way.as_ref());
            if !stays {
                tell(&self.workers, || Command::Close(spot.kind, spot.address));
            }
            stays
        });
        let fresh: Vec<_> = added
            .iter()
            .filter_map(|spot| posts.iter().find(|post| same(&post.spot(), spot)))
            .map(|post| (post.spot(), Shared::new(post, &self.commons)))
            .collect();
        for (worker, sockets) in self.workers.iter().zip(sockets) {
            for (number, socket) in sockets {
                let Some((_, shared)) = fresh.get(number) else { continue };
                // A worker that is gone is noticed by the control loop.
                let _ = worker.send(Command::Listen(socket, shared.clone()));
            }
        }
        self.listeners.extend(fresh);
        self.way = way;
        self.generation = Arc::new(generation);
        self.fingerprint = fingerprint;
        self.number += 1;
        tell(&self.workers, || Command::Reloaded);
        self.generation.tell(&self.metrics);
        self.metrics.generation.set(i64::try_from(self.number).unwrap_or(i64::MAX));
        self.metrics.reloaded("applied", true);
        tracing::info!(trigger, "reload applied: generation {} serves", self.number);
        for change in &changes {
            tracing::info!("  {change}");
        }
        self.outcome("applied", changes, warnings)
    }
}

fn tell(workers: &[UnboundedSender<Command>], command: impl Fn() -> Command) {
    for worker in workers {
        // A worker that is gone is noticed by the control loop.
        let _ = worker.send(command());
    }
}

/// Those of `now` that were not there before.
fn added(before: &[Spot], now: &[Spot]) -> Vec<Spot> {
    now.iter().filter(|spot| !before.iter().any(|known| same(known, spot))).copied().collect()
}

fn same(a: &Spot, b: &Spot) -> bool {
    (a.kind, a.address) == (b.kind, b.address)
}

/// What a thread needs to prepare a reload.
struct Attempt {
    origin: Origin,
    metrics: Arc<Metrics>,
    previous: Arc<Generation>,
    fingerprint: Vec<u8>,
    /// Those that take connections.
    workers: usize,
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
        for endpoint in generation.endpoints() {
            if endpoint.addresses.load().is_empty()
                && let Err(error) = resolve::refresh(endpoint)
            {
                tracing::warn!("{error}; it is looked up again every {:?}", resolve::REFRESH);
            }
        }
        let (sockets, held) =
            self.bind(&generation).map_err(|error| NotPrepared::Refused(error.to_string()))?;
        warnings.extend(compiled.warnings);
        let warnings = if warnings.is_empty() {
            String::new()
        } else {
            draw(&generation.config.sources, &warnings)
        };
        Ok(Prepared { generation, fingerprint, sockets, held, warnings })
    }

    fn bind(&self, generation: &Generation) -> Result<(Vec<Sockets>, Held), StartError> {
        if self.workers == 0 {
            return Ok((Vec::new(), Held::new()));
        }
        let known = self.previous.spots();
        let new = added(&known, &generation.spots());
        let ours = |port: u16| known.iter().any(|spot| spot.address.port() == port);
        let sockets =
            bind_spots(generation, &new, (self.workers, &ours), &mut Inheritance::default())?;
        let held = hold(&new, &sockets)?;
        Ok((sockets, held))
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
