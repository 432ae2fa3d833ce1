//! Start of the gateway: binding sockets, opening the access log and resolving names.

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

/// Listening sockets of a worker, each with the index of its listener in the generation.
pub(super) type WorkerSockets = Vec<(usize, TcpListener)>;

/// Duplicates of the listening sockets by address, kept for a binary upgrade.
pub(super) type HeldSockets = HashMap<SocketAddr, Vec<TcpListener>>;

/// Bound and listening sockets of a gateway that has not started yet.
pub struct BoundSockets {
    /// Sockets of each worker.
    pub(super) workers: Vec<WorkerSockets>,
    pub(super) admin: Option<TcpListener>,
    pub(super) socket: Option<AdminSocketFile>,
}

/// Reason why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen on {address} ({place}): {source}{}", hint(source, *address))]
    Bind {
        /// Address of the listener.
        address: SocketAddr,
        /// Place of the address in the configuration.
        place: String,
        /// Error of the system.
        source: io::Error,
    },
    /// The access log cannot be opened.
    #[error("cannot open the access log {path}: {source}")]
    AccessLog {
        /// Path of the log file.
        path: String,
        /// Error of the system.
        source: io::Error,
    },
    /// The admin socket cannot be opened.
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

/// Binds every listener once per worker, and the admin listener.
///
/// Inherited sockets are used as they are, because connections may be queued in them. Inherited
/// sockets without a listener stay in `inheritance`.
///
/// # Errors
///
/// [`StartError::Bind`] for the first address that cannot be bound.
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
    // The parent of a binary upgrade still holds the admin socket.
    let socket = if inheritance.is_child() {
        None
    } else {
        socket::open(&config.socket, config.outline.directory()).map_err(StartError::Socket)?
    };
    let bound = BoundSockets { workers, admin, socket };
    inheritance.log_unused();
    Ok(bound)
}

/// Binds these listeners once per worker.
///
/// A port that is neither `ours` nor inherited is probed first, because with `SO_REUSEPORT` the
/// bind would succeed although another program uses the port.
///
/// # Errors
///
/// [`StartError::Bind`] for the first address that cannot be bound. All new sockets are closed.
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
    let free = |port| !ours(port) && !inheritance.has_port(port);
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
                open_socket(listener_addr.address, &sockets)
                    .map_err(|error| failed(listener_addr, error))?,
            );
        }
        // There may be more inherited sockets than workers. All are used, because connections may
        // be queued in each.
        for (index, socket) in sockets.into_iter().enumerate() {
            if let Some(worker) = by_worker.get_mut(index % workers) {
                worker.push((number, socket));
            }
        }
    }
    Ok(by_worker)
}

/// Duplicates the sockets of all workers.
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

/// Opens a further socket for an address. If a service manager opened the first one without
/// `SO_REUSEPORT`, the result is a duplicate of that socket, and the workers share it.
fn open_socket(address: SocketAddr, sockets: &[TcpListener]) -> io::Result<TcpListener> {
    match sockets.first() {
        Some(first) if !socket2::SockRef::from(first).reuse_port()? => first.try_clone(),
        _ => listen::bind(address),
    }
}

/// Time limit for name resolution during a start or reload.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks up the name of every endpoint that has no address yet, for at most `RESOLVE_TIMEOUT`.
///
/// Failures are logged and retried later, so that a missing component or a silent name server does
/// not keep the gateway from serving the others.
pub fn resolve_names(generation: &Generation) {
    let unknown = generation.endpoints().filter(|endpoint| endpoint.addresses.load().is_empty());
    for problem in resolve::refresh_all(unknown, RESOLVE_TIMEOUT) {
        tracing::warn!("{problem}; retrying in the background");
    }
}

/// Status of a gateway that has just started.
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

/// Opens the access log of the first generation.
pub(super) fn open_log(
    config: &config::AccessLog,
    metrics: &Metrics,
) -> Result<AccessLogWriter, StartError> {
    let counts =
        LineCounts { written: metrics.log_written.clone(), dropped: metrics.log_dropped.clone() };
    let opened = AccessLogWriter::open(config, counts);
    opened.map_err(|source| log_error(config, source))
}

/// Opens the access log of a new generation, if its target differs from the current one.
pub(super) fn open_next_log(
    opener: &LogOpener,
    generation: &Generation,
) -> Result<Option<LogWriter>, StartError> {
    let config = &generation.config.gateway.access_log;
    opener.open(config).map_err(|source| log_error(config, source))
}

fn log_error(config: &config::AccessLog, source: io::Error) -> StartError {
    match &config.target {
        LogTarget::File { path, .. } => {
            StartError::AccessLog { path: path.display().to_string(), source }
        }
        LogTarget::Off | LogTarget::Stdout => StartError::Thread(source),
    }
}
