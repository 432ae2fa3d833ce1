//! Keys that outlast a reload: the shared secret, or the ticket keys of this process without one.
//!
//! In: the checked `[gateway]` table. Out: [`SharedKeys`], or the problems of the secret file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use crate::config::problem::Problem;
use crate::config::{Config, SecretFile};
use crate::tls::SharedSecrets;
use crate::tls::tickets::{KeySource, LocalKeys, SessionTickets, TicketScope};

use super::Generation;
use super::compile::error;

/// Keys that outlast a reload.
#[derive(Debug)]
pub struct SharedKeys {
    /// The secret shared with other gateways.
    pub secrets: Option<Arc<SharedSecrets>>,
    /// Ticket keys of this process, kept until it exits.
    pub local: Arc<LocalKeys>,
    epoch: Duration,
}

impl SharedKeys {
    /// Session tickets for listeners that accept the same clients, identified by `scope`.
    pub(super) fn tickets(&self, scope: TicketScope) -> Arc<SessionTickets> {
        let source = match &self.secrets {
            Some(secrets) => KeySource::Shared(Arc::clone(secrets)),
            None => KeySource::Local(Arc::clone(&self.local)),
        };
        SessionTickets::new(source, scope, self.epoch)
    }
}

/// Reads the shared secret, if one is configured. Blocks.
pub(super) fn load(
    config: &Config,
    previous: Option<&Generation>,
    problems: &mut Vec<Problem>,
) -> SharedKeys {
    let written = config.gateway.shared_secret.as_ref();
    let secrets = written.and_then(|written| {
        let path = written.file.display();
        let read = SecretFile::read(&written.file);
        let mode = fs::metadata(&written.file).map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o002 != 0 {
            problems.push(error(
                "gateway.shared-secret",
                written.place,
                format!("anyone on this host can change the shared secret `{path}`"),
                "treat it as compromised: make a new one with `app-gateway secret new FILE`",
            ));
        } else if mode & 0o004 != 0 {
            problems.push(
                Problem::warning(
                    "gateway.shared-secret-readable",
                    written.place,
                    format!("anyone on this host can read the shared secret `{path}`"),
                )
                .with_label("named here")
                .with_help("`chmod 600` it, and have the user the gateway runs as own it"),
            );
        }
        let refuse = |cause: String| {
            problems.push(error(
                "gateway.shared-secret",
                written.place,
                format!("the shared secret `{path}` cannot be used: {cause}"),
                "make one with `app-gateway secret new FILE`, and copy it to the other gateway",
            ));
        };
        read.and_then(|file| SharedSecrets::parse(file.expose()).map_err(|e| e.to_string()))
            .map_err(refuse)
            .ok()
    });
    SharedKeys {
        secrets: secrets.map(Arc::new),
        local: previous.map_or_else(Arc::default, |before| Arc::clone(&before.shared.local)),
        epoch: config.gateway.ticket_key_lifetime,
    }
}
