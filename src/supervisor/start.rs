//! Everything that can fail before the first connection is taken.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use crate::admin::report::Status;
use crate::admin::socket::{self, AdminSocketFile, SocketError};
use crate::config::{self, LogTarget};
use crate::generation::{Generation, ListenerAddr};
use crate::net::listen;
use crate::telemetry::access_log::{LineCounts, LogOpener, LogWriter};
use crate::telemetry::{AccessLogWriter, Metrics};
use crate::units::display_timestamp;
use crate::upstream::resolve;

use super::upgrade_child::InheritedState;

/// A worker's sockets, each with the number of its spot.
pub(super) type WorkerSockets = Vec<(usize, TcpListener)>;

/// The listening sockets once more, by address: what a successor is handed.
pub(super) type HeldSockets = HashMap<SocketAddr, Vec<TcpListener>>;

/// Sockets, bound and listening.
pub struct BoundSockets {
    /// By worker; spots are numbered as in the generation.
    pub(super) workers: Vec<WorkerSockets>,
    pub(super) admin: Option<TcpListener>,
    pub(super) socket: Option<AdminSocketFile>,
}

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({place}): {source}{}", hint(source, *address))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Where it is written.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// The access log cannot be opened.
    #[error("cannot open the access log {path}: {source}")]
    AccessLog {
        /// Its path.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The admin socket cannot be had.
    #[error(transparent)]
    Socket(SocketError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// A listening socket cannot be duplicated.
    #[error("cannot duplicate a listening socket: {0}; is the limit on open files reached?")]
    Duplicate(#[source] io::Error),
}

fn hint(error: &io::Error, address: SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("\nanother program has it: `ss -ltnp 'sport = :{}'` shows which", address.port())
        }
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "\nports below 1024 need CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE), \
             or another port behind a redirection"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "\nthis host does not have that address: `ip address` shows those it has".to_owned(),
        _ => String::new(),
    }
}

/// Binds every listener once per worker, and the admin listener. What was inherited is used as it
/// is, because connections may wait in it; what is not needed of it is left in `inheritance`.
///
/// # Errors
///
/// [`StartError::Bind`] for the first address that cannot be had.
pub fn bind(
    generation: &Generation,
    inheritance: &mut InheritedState,
) -> Result<BoundSockets, StartError> {
    let config = &generation.config;
    let all = generation.listener_addrs();
    let workers =
        bind_listeners(generation, &all, (config.gateway.workers, &|_| false), inheritance)?;
    let admin = config.admin.as_ref().map(|admin| {
        let free = |()| listen::bind(admin.listen);
        match inheritance.take(admin.listen).pop() {
            Some(listener) => Ok(listener),
            None => listen::probe(admin.listen).and_then(free),
        }
        .map_err(|source| {
            let place = config.sources.locate(admin.place);
            StartError::Bind { address: admin.listen, place, source }
        })
    });
    let admin = admin.transpose()?;
    // A predecessor still has it.
    let socket = if inheritance.succeeds() {
        None
    } else {
        socket::open(&config.socket, config.outline.directory()).map_err(StartError::Socket)?
    };
    let bound = BoundSockets { workers, admin, socket };
    inheritance.complain();
    Ok(bound)
}

/// Binds these listeners once per worker. Another program that has a port is looked for, unless
/// the port is `ours` or inherited.
///
/// # Errors
///
/// [`StartError::Bind`] for the first address that cannot be had; what was bound is let go.
pub(super) fn bind_listeners(
    generation: &Generation,
    listener_addrs: &[ListenerAddr],
    (workers, ours): (usize, &dyn Fn(u16) -> bool),
    inheritance: &mut InheritedState,
) -> Result<Vec<WorkerSockets>, StartError> {
    let failed = |listener_addr: &ListenerAddr, source| StartError::Bind {
        address: listener_addr.address,
        place: generation.config.sources.locate(listener_addr.place),
        source,
    };
    let free = |port| !ours(port) && !inheritance.knows(port);
    for listener_addr in
        listener_addrs.iter().filter(|listener_addr| free(listener_addr.address.port()))
    {
        listen::probe(listener_addr.address).map_err(|error| failed(listener_addr, error))?;
    }
    let mut by_worker: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for (number, listener_addr) in listener_addrs.iter().enumerate() {
        let mut sockets = inheritance.take(listener_addr.address);
        while sockets.len() < workers {
            sockets.push(
                another(listener_addr.address, &sockets)
                    .map_err(|error| failed(listener_addr, error))?,
            );
        }
        // There may be more than workers, and each may have connections waiting in it.
        for (index, socket) in sockets.into_iter().enumerate() {
            if let Some(worker) = by_worker.get_mut(index % workers) {
                worker.push((number, socket));
            }
        }
    }
    Ok(by_worker)
}

/// Duplicates of sockets, by the addresses of their spots.
pub(super) fn hold(
    listener_addrs: &[ListenerAddr],
    workers: &[WorkerSockets],
) -> Result<HeldSockets, StartError> {
    let mut held = HeldSockets::new();
    for (number, socket) in workers.iter().flatten() {
        let Some(ListenerAddr { address, .. }) = listener_addrs.get(*number) else { continue };
        let duplicate = socket.try_clone().map_err(StartError::Duplicate)?;
        held.entry(*address).or_default().push(duplicate);
    }
    Ok(held)
}

/// One more socket for an address. Where a service manager opened the first without
/// `SO_REUSEPORT`, workers share it.
fn another(address: SocketAddr, sockets: &[TcpListener]) -> io::Result<TcpListener> {
    match sockets.first() {
        Some(first) if !socket2::SockRef::from(first).reuse_port()? => first.try_clone(),
        _ => listen::bind(address),
    }
}

/// How long the start, or a reload, waits for name servers.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks up the name of every endpoint that has no address yet, for two seconds at most. Those that
/// cannot be resolved are logged, and tried again later: a component that is not there yet, or a name
/// server that is silent, is no reason not to serve the others.
pub fn resolve_names(generation: &Generation) {
    let unknown = generation.endpoints().filter(|endpoint| endpoint.addresses.load().is_empty());
    for problem in resolve::refresh_all(unknown, RESOLVE_TIMEOUT) {
        tracing::warn!("{problem}; it is looked up again and again");
    }
}

/// How the gateway is before it has done anything.
pub(super) fn first_status(directory: &Path) -> Status {
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: display_timestamp(jiff::Timestamp::now().as_second()),
        directory: directory.display().to_string(),
        ..Status::default()
    }
}

/// Opens the access log.
pub(super) fn open_log(
    config: &config::AccessLog,
    metrics: &Metrics,
) -> Result<AccessLogWriter, StartError> {
    let counts =
        LineCounts { written: metrics.log_written.clone(), dropped: metrics.log_dropped.clone() };
    let opened = AccessLogWriter::open(config, counts);
    opened.map_err(|source| no_log(config, source))
}

/// Opens the log of another generation, if the present one goes elsewhere.
pub(super) fn open_next_log(
    opener: &LogOpener,
    generation: &Generation,
) -> Result<Option<LogWriter>, StartError> {
    let config = &generation.config.gateway.access_log;
    opener.open(config).map_err(|source| no_log(config, source))
}

fn no_log(config: &config::AccessLog, source: io::Error) -> StartError {
    match &config.target {
        LogTarget::File { path, .. } => {
            StartError::AccessLog { path: path.display().to_string(), source }
        }
        LogTarget::Off | LogTarget::Stdout => StartError::Thread(source),
    }
}
