//! The thirteen components: their addresses, start and stop.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::demo::certificates::DevelopmentCertificates;
use crate::demo::chat_server::ChatServer;
use crate::demo::file_engine::FileEngine;
use crate::demo::server;

/// One component of Hybrid Chat behind the gateway.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(missing_docs, reason = "these are the product's own names")]
pub enum Component {
    ChatServer,
    Mre,
    MreMicroservice,
    AgentGadget,
    EcmFrontend,
    CommunicationServer,
    Eabc,
    FileEngine,
    CustomerGadget,
    DatabaseConnector,
    Umm,
    MreFrontend,
    CustomerChannelManager,
}

impl Component {
    /// All components.
    pub const ALL: [Self; 13] = [
        Self::ChatServer,
        Self::Mre,
        Self::MreMicroservice,
        Self::AgentGadget,
        Self::EcmFrontend,
        Self::CommunicationServer,
        Self::Eabc,
        Self::FileEngine,
        Self::CustomerGadget,
        Self::DatabaseConnector,
        Self::Umm,
        Self::MreFrontend,
        Self::CustomerChannelManager,
    ];

    /// Its name in the shipped configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.facts().0
    }

    /// Its published port.
    #[must_use]
    pub const fn port(self) -> u16 {
        self.facts().1
    }

    /// Its health check path.
    #[must_use]
    pub const fn health(self) -> &'static str {
        self.facts().2
    }

    const fn facts(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::ChatServer => ("chat-server", 8444, "/api/SystemInfo"),
            Self::Mre => ("mre", 8497, "/api/status"),
            Self::MreMicroservice => ("mre-microservice", 8447, "/mre/api"),
            Self::AgentGadget => ("agent-gadget", 8446, "/"),
            Self::EcmFrontend => ("ecm-frontend", 8454, "/"),
            Self::CommunicationServer => ("communication-server", 8482, "/api/status"),
            Self::Eabc => ("eabc", 8455, "/"),
            Self::FileEngine => ("file-engine", 8495, "/api/SystemInfo"),
            Self::CustomerGadget => ("customer-gadget", 8449, "/"),
            Self::DatabaseConnector => ("database-connector", 8450, "/status"),
            Self::Umm => ("umm", 8452, "/"),
            Self::MreFrontend => ("mre-frontend", 8448, "/"),
            Self::CustomerChannelManager => ("customer-channel-manager", 8451, "/api/SystemInfo"),
        }
    }
}

/// State that the components of one stand-in keep between requests.
#[derive(Debug)]
pub(crate) struct StandInState {
    pub(crate) chat: ChatServer,
    pub(crate) files: FileEngine,
    requests: [AtomicU64; Component::ALL.len()],
}

impl StandInState {
    fn new() -> Self {
        Self { chat: ChatServer::new(), files: FileEngine::default(), requests: Default::default() }
    }

    pub(crate) fn count(&self, component: Component) {
        if let Some(counter) = self.requests.get(component as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A running stand-in. Dropping it closes its listeners and every connection, as a power cut would.
#[derive(Debug)]
pub struct StandIn {
    addresses: HashMap<&'static str, SocketAddr>,
    world: Arc<StandInState>,
    running: watch::Sender<()>,
    listeners: JoinSet<()>,
}

impl StandIn {
    /// Address of `component`.
    #[must_use]
    pub fn address(&self, component: Component) -> SocketAddr {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        self.addresses.get(component.name()).copied().unwrap_or(nowhere)
    }

    /// Addresses of the components, keyed by their names in the shipped configuration.
    #[must_use]
    pub const fn addresses(&self) -> &HashMap<&'static str, SocketAddr> {
        &self.addresses
    }

    /// Number of requests that reached `component` since the start; a poll counts as one.
    #[must_use]
    pub fn requests(&self, component: Component) -> u64 {
        let counter = self.world.requests.get(component as usize);
        counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Stops all components. Returns when their ports are free again.
    pub async fn stop(self) {
        let Self { running, mut listeners, .. } = self;
        drop(running);
        while listeners.join_next().await.is_some() {}
    }
}

/// Starts every component on `address`, each on the port the product uses.
///
/// Needs a Tokio runtime with I/O and time, and lives on it.
///
/// # Errors
///
/// [`StandInError::Bind`] if a port is taken, [`StandInError::Identity`] if the certificates cannot be used.
/// Nothing is left listening.
pub async fn start(
    address: IpAddr,
    certificates: &DevelopmentCertificates,
) -> Result<StandIn, StandInError> {
    start_at(certificates, |component| SocketAddr::new(address, component.port())).await
}

/// Starts every component on `address`, each on a port the system picks; see
/// [`StandIn::addresses`].
///
/// # Errors
///
/// As [`start`].
pub async fn start_on_free_ports(
    address: IpAddr,
    certificates: &DevelopmentCertificates,
) -> Result<StandIn, StandInError> {
    start_at(certificates, |_| SocketAddr::new(address, 0)).await
}

async fn start_at(
    certificates: &DevelopmentCertificates,
    place: impl Fn(Component) -> SocketAddr,
) -> Result<StandIn, StandInError> {
    let tls = server::acceptor(&certificates.components)?;
    let mut bound = Vec::new();
    for component in Component::ALL {
        let wanted = place(component);
        let bind = async {
            let listener = TcpListener::bind(wanted).await?;
            let address = listener.local_addr()?;
            io::Result::Ok((listener, address))
        };
        let (listener, address) = bind.await.map_err(|source| StandInError::Bind {
            component: component.name(),
            address: wanted,
            source,
        })?;
        bound.push((component, listener, address));
    }

    let world = Arc::new(StandInState::new());
    let running = watch::Sender::new(());
    let mut addresses = HashMap::new();
    let mut listeners = JoinSet::new();
    for (component, listener, address) in bound {
        addresses.insert(component.name(), address);
        let virtual_server =
            server::ComponentListener { component, world: world.clone(), tls: tls.clone() };
        listeners.spawn(server::serve(listener, Arc::new(virtual_server), running.subscribe()));
    }
    Ok(StandIn { addresses, world, running, listeners })
}

/// The reason why the stand-in cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StandInError {
    /// A port could not be bound.
    #[error("cannot listen on {address} for the stand-in of {component}")]
    Bind {
        /// The component.
        component: &'static str,
        /// Address that the component could not bind.
        address: SocketAddr,
        /// Error of the socket.
        source: io::Error,
    },
    /// The certificate or key of the components could not be used.
    #[error("the development certificates cannot be used")]
    Identity(#[source] Box<dyn std::error::Error + Send + Sync>),
}
