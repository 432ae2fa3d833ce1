//! Preparation of a reload, the part that can fail: reading, checking, compiling, name resolution
//! and binding.

use std::sync::Arc;

use crate::config::{self, RejectedConfig};
use crate::generation::{self, Generation, ListenerAddr};
use crate::telemetry::Metrics;
use crate::telemetry::access_log::{LogOpener, LogWriter};

use super::changes;
use super::config_source::ConfigSource;
use super::start::{
    HeldSockets, StartError, WorkerSockets, bind_listeners, hold, open_next_log, resolve_names,
};
use super::upgrade_child::InheritedState;

/// A prepared generation, ready to be committed.
pub(super) struct PreparedReload {
    pub(super) generation: Arc<Generation>,
    pub(super) hash: String,
    /// New sockets of each worker, numbered by the new listeners.
    pub(super) sockets: Vec<WorkerSockets>,
    pub(super) held: HeldSockets,
    /// New access log, if its target changes.
    pub(super) log: Option<LogWriter>,
    pub(super) changes: Vec<String>,
    pub(super) warnings: String,
}

/// Reason why a reload is not carried out.
pub(super) enum PrepareError {
    Unchanged,
    Refused(String),
}

impl From<StartError> for PrepareError {
    fn from(error: StartError) -> Self {
        Self::Refused(format!("{error}\n"))
    }
}

/// Listeners of `now` that are not in `before`.
pub(super) fn added(before: &[ListenerAddr], now: &[ListenerAddr]) -> Vec<ListenerAddr> {
    now.iter()
        .filter(|listener_addr| !before.iter().any(|known| same(known, listener_addr)))
        .copied()
        .collect()
}

/// Whether two listeners have the same address and kind.
pub(super) fn same(a: &ListenerAddr, b: &ListenerAddr) -> bool {
    (a.kind, a.address) == (b.kind, b.address)
}

/// Inputs of the preparation, which runs on a blocking thread.
pub(super) struct PrepareInputs {
    pub(super) origin: ConfigSource,
    pub(super) metrics: Arc<Metrics>,
    pub(super) previous: Arc<Generation>,
    pub(super) started: changes::StartupOnly,
    /// Number of workers to bind sockets for; 0 if a new process has taken over.
    pub(super) workers: usize,
    /// Ports of removed listeners, whose sockets workers may not have closed yet.
    pub(super) closing_ports: Vec<u16>,
    pub(super) log: LogOpener,
}

impl PrepareInputs {
    /// Reads, checks, compiles, resolves names and binds new addresses. Blocks.
    pub(super) fn prepare(self) -> Result<PreparedReload, PrepareError> {
        let environment = |name: &str| (self.origin.environment)(name);
        let directory = &self.origin.directory;
        let provider = &self.origin.provider;
        let loaded = generation::load(
            directory,
            &environment,
            provider,
            &self.metrics,
            Some(&self.previous),
        );
        let compiled = loaded.map_err(|RejectedConfig { sources, problems, .. }| {
            PrepareError::Refused(config::draw(&sources, &problems, false))
        })?;
        let generation = compiled.generation;
        if generation.fingerprint() == self.previous.fingerprint() {
            return Err(PrepareError::Unchanged);
        }
        resolve_names(&generation);
        let (sockets, held) = self.bind(&generation)?;
        let log = open_next_log(&self.log, &generation)?;
        let warnings = if compiled.warnings.is_empty() {
            String::new()
        } else {
            config::draw(&generation.config.sources, &compiled.warnings, false)
        };
        let hash = generation.hash();
        let (changes, generation) = (self.changes(&generation), Arc::new(generation));
        Ok(PreparedReload { generation, hash, sockets, held, log, changes, warnings })
    }

    /// Prepares the return to an earlier generation, without reading files.
    pub(super) fn prepare_again(
        self,
        generation: Arc<Generation>,
    ) -> Result<PreparedReload, PrepareError> {
        let (sockets, held) = self.bind(&generation)?;
        let log = open_next_log(&self.log, &generation)?;
        let changes = self.changes(&generation);
        let (hash, warnings) = (String::new(), String::new());
        Ok(PreparedReload { generation, hash, sockets, held, log, changes, warnings })
    }

    fn changes(&self, generation: &Generation) -> Vec<String> {
        let (differences, _) = changes::between(&self.started, &self.previous, generation);
        changes::lines(&differences)
    }

    fn bind(
        &self,
        generation: &Generation,
    ) -> Result<(Vec<WorkerSockets>, HeldSockets), PrepareError> {
        if self.workers == 0 {
            return Ok((Vec::new(), HeldSockets::new()));
        }
        let known = self.previous.listener_addrs();
        let new = added(&known, &generation.listener_addrs());
        let ours = |port: u16| {
            known.iter().any(|listener_addr| listener_addr.address.port() == port)
                || self.closing_ports.contains(&port)
        };
        let workers = (self.workers, &ours as &dyn Fn(u16) -> bool);
        let sockets = bind_listeners(generation, &new, workers, &mut InheritedState::default())?;
        let held = hold(&new, &sockets)?;
        Ok((sockets, held))
    }
}
