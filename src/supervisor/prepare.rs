//! The part of a reload that can fail: reading, checking, compiling, name look-ups, binding.

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

/// A generation that only needs to be committed.
pub(super) struct PreparedReload {
    pub(super) generation: Arc<Generation>,
    pub(super) hash: String,
    /// By worker; each with its number among the new listeners.
    pub(super) sockets: Vec<WorkerSockets>,
    pub(super) held: HeldSockets,
    /// Where the access log goes from now on, if that is another place.
    pub(super) log: Option<LogWriter>,
    pub(super) changes: Vec<String>,
    pub(super) warnings: String,
}

/// A reload that is not carried out.
pub(super) enum PrepareError {
    Unchanged,
    Refused(String),
}

impl From<StartError> for PrepareError {
    fn from(error: StartError) -> Self {
        Self::Refused(format!("{error}\n"))
    }
}

/// Those of `now` that were not there before.
pub(super) fn added(before: &[ListenerAddr], now: &[ListenerAddr]) -> Vec<ListenerAddr> {
    now.iter()
        .filter(|listener_addr| !before.iter().any(|known| same(known, listener_addr)))
        .copied()
        .collect()
}

/// Whether two listeners are the same address of one kind.
pub(super) fn same(a: &ListenerAddr, b: &ListenerAddr) -> bool {
    (a.kind, a.address) == (b.kind, b.address)
}

/// What a thread needs to prepare a reload.
pub(super) struct PrepareInputs {
    pub(super) origin: ConfigSource,
    pub(super) metrics: Arc<Metrics>,
    pub(super) previous: Arc<Generation>,
    pub(super) started: changes::StartupOnly,
    /// Those that take connections.
    pub(super) workers: usize,
    pub(super) leaving: Vec<u16>,
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

    /// Prepares a generation that served before.
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
                || self.leaving.contains(&port)
        };
        let workers = (self.workers, &ours as &dyn Fn(u16) -> bool);
        let sockets = bind_listeners(generation, &new, workers, &mut InheritedState::default())?;
        let held = hold(&new, &sockets)?;
        Ok((sockets, held))
    }
}
