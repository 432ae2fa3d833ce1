//! Upstreams: who they are, connecting to them, keeping connections, one exchange at a time.
//!
//! [`Upstream`] and [`Endpoint`] belong to a generation and are shared by all workers; [`Pool`]s
//! of idle connections belong to one worker each. An [`Exchange`] is one request and its answer on
//! one connection, driven by the task that serves the client: no second task, no channel.
//!
//! Never: knows who the client is, or a route.

pub mod connect;
pub mod exchange;
pub mod pool;
pub mod resolve;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use crate::net::CheckedAddr;

pub use connect::{ConnectError, Stream, connect};
pub use exchange::{BodyStep, Exchange, Received};
pub use pool::{Connection, Pool};

/// How long an endpoint that could not be connected to is passed over while others are left.
const SHUNNED: Duration = Duration::from_secs(5);

/// A named group of endpoints.
#[derive(Debug)]
pub struct Upstream {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// In order of preference.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Its limits.
    pub limits: Limits,
}

/// How long things may take with an upstream; see the fields of the same names in
/// [`crate::config::Upstream`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first SYN to the end of the TLS handshake.
    pub connect: Duration,
    /// Until the first byte of an answer.
    pub first_byte: Duration,
    /// Longest silence inside an answer.
    pub idle: Duration,
    /// How long an unused connection is kept.
    pub keep_alive: Duration,
    /// Idle connections per worker and endpoint.
    pub max_idle: usize,
}

/// One address of an upstream.
#[derive(Debug)]
pub struct Endpoint {
    /// Host and port, as shown to operators.
    pub label: Arc<str>,
    /// Name or address to resolve.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// TLS settings and the name looked for in the certificate.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// What the host resolves to at present.
    pub addresses: ArcSwap<Vec<CheckedAddr>>,
    /// Connections may be shared between generations when this is equal: same address, same
    /// verification.
    pub identity: u64,
    /// Milliseconds after `birth` until which it is passed over.
    shunned_until: AtomicU64,
    birth: Instant,
}

impl Endpoint {
    /// An endpoint that has not been resolved yet.
    #[must_use]
    pub fn new(
        host: String,
        port: u16,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
        identity: u64,
    ) -> Self {
        let label =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self {
            label: label.into(),
            host,
            port,
            tls,
            addresses: ArcSwap::default(),
            identity,
            shunned_until: AtomicU64::new(0),
            birth: Instant::now(),
        }
    }

    /// Notes that it could not be connected to.
    pub fn shun(&self) {
        self.shunned_until.store(self.age(SHUNNED), Ordering::Relaxed);
    }

    /// Notes that it could.
    pub fn welcome(&self) {
        if self.shunned_until.load(Ordering::Relaxed) != 0 {
            self.shunned_until.store(0, Ordering::Relaxed);
        }
    }

    /// Whether it could not be connected to a moment ago.
    #[must_use]
    pub fn is_shunned(&self) -> bool {
        let until = self.shunned_until.load(Ordering::Relaxed);
        until != 0 && self.age(Duration::ZERO) < until
    }

    fn age(&self, more: Duration) -> u64 {
        u64::try_from((self.birth.elapsed() + more).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Upstream {
    /// The endpoints in the order to try them: as configured, those that just failed last.
    pub fn candidates(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let fresh = self.endpoints.iter().filter(|endpoint| !endpoint.is_shunned());
        let shunned = self.endpoints.iter().filter(|endpoint| endpoint.is_shunned());
        fresh.chain(shunned)
    }
}
