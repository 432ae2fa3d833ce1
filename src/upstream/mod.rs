//! Upstreams: endpoints, connections to them, connection pools and HTTP exchanges.
//!
//! [`Upstream`] and [`Endpoint`] belong to a generation and are shared by all workers; [`Pool`]s of
//! idle connections belong to one worker each. An [`Exchange`] is one request and its answer on one
//! connection, driven by the task that serves the client: no second task, no channel.
//!
//! This module knows neither clients nor routes.

pub mod balance;
pub mod budget;
pub mod check;
pub mod connect;
pub mod connect_queue;
pub mod eject;
pub mod engine_io;
pub mod exchange;
pub mod failover;
pub mod fetch;
pub mod health;
pub mod pool;
pub mod resolve;
pub mod ring;
pub mod rotation;
pub mod sessions;
pub mod snapshot;
pub mod sticky_cookie;
pub mod tier;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use crate::net::CheckedAddr;
use crate::net::quota::QuotaLimits;

pub use balance::{Affinity, BalanceMethod, BalancePolicy, EndpointRole, UpstreamState};
pub use check::HealthCheck;
pub use connect::{ConnectError, Stream, connect};
pub use exchange::{BodyStep, BodyTap, Exchange, ResponseHeadPoll};
pub use health::{AdminState, EndpointHealth, InFlight};
pub use pool::{ConnAddrs, Pool, PooledConn};
pub use rotation::Rotation;

/// Told to clients where no check says when the state may change.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A named group of endpoints.
#[derive(Debug)]
pub struct Upstream {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Primary ones first, in the order of the configuration; at most 64.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Role of each endpoint in this upstream.
    pub ranks: Vec<EndpointRole>,
    /// Load-balancing settings.
    pub policy: BalancePolicy,
    /// Run-time state, kept over reloads.
    pub upstream_state: Arc<UpstreamState>,
    /// Its limits.
    pub limits: UpstreamLimits,
    /// Connections begin with a PROXY protocol header.
    pub announces: bool,
    /// Settings of the health checks; `None` if there are none.
    pub check: Option<Arc<HealthCheck>>,
}

/// Time limits of an upstream; see the fields of the same names in [`crate::config::Upstream`].
#[derive(Clone, Copy, Debug)]
pub struct UpstreamLimits {
    /// From the first SYN to the end of the TLS handshake.
    pub connect: Duration,
    /// Until the first byte of an answer.
    pub first_byte: Duration,
    /// Longest silence inside an answer.
    pub idle: Duration,
    /// Idle lifetime of a connection.
    pub keep_alive: Duration,
    /// Idle connections per worker and endpoint.
    pub max_idle: usize,
    /// Maximum number of connection attempts in progress, per worker and endpoint.
    pub max_connecting: usize,
    /// Connections in use.
    pub connections: QuotaLimits,
    /// Time that a request waits for one of these connections.
    pub queue_timeout: Duration,
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
    /// Addresses that the host currently resolves to.
    pub addresses: ArcSwap<Vec<CheckedAddr>>,
    /// Which of them is tried first.
    pub rotation: Rotation,
    /// When it was resolved last, in seconds since 1970; 0: never.
    pub resolved: AtomicI64,
    /// Connections may be shared between generations when this is equal: same address, same
    /// verification.
    pub identity: u64,
    /// Whether it is to be used.
    pub health: Arc<EndpointHealth>,
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
        Self {
            label: written(&host, port).into(),
            host,
            port,
            tls,
            addresses: ArcSwap::default(),
            rotation: Rotation::default(),
            resolved: AtomicI64::new(0),
            identity,
            health: Arc::default(),
        }
    }
}

impl Endpoint {
    /// Host and port, with another port than its own.
    #[must_use]
    pub fn at(&self, port: u16) -> String {
        written(&self.host, port)
    }
}

fn written(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl Upstream {
    /// When it may be worth asking again, while every endpoint is down.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        let interval = self.check.as_ref().map_or(RETRY_AFTER, |check| check.interval);
        interval.clamp(Duration::from_secs(1), Duration::from_secs(60))
    }
}
