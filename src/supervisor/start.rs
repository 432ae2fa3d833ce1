//! Everything that can fail before the first connection is taken.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use crate::config;
use crate::generation::{Generation, Site};
use crate::net::listen;
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::resolve;

/// Sockets, bound and listening.
pub struct Bound {
    /// One list per worker, in the order of the generation's sites.
    pub(super) workers: Vec<Vec<TcpListener>>,
    pub(super) admin: Option<TcpListener>,
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
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
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
/// # Errors
///
/// [`StartError::Bind`] for the first address that cannot be had.
pub fn bind(generation: &Generation) -> Result<Bound, StartError> {
    let config = &generation.config;
    let all: Vec<_> = generation.sites.iter().collect();
    let workers = bind_sites(generation, &all, config.gateway.workers, &|_| true)?;
    let admin = config.admin.as_ref().map(|admin| {
        listen::probe(admin.listen).and_then(|()| listen::bind(admin.listen)).map_err(|source| {
            let place = config.sources.locate(admin.place);
            StartError::Bind { address: admin.listen, place, source }
        })
    });
    Ok(Bound { workers, admin: admin.transpose()? })
}

/// Binds these listeners once per worker; the result is by worker, then by listener. `probe` says
/// for which ports another program has to be looked for: not for those we listen on ourselves.
///
/// # Errors
///
/// [`StartError::Bind`] for the first address that cannot be had; what was bound is let go.
pub(super) fn bind_sites(
    generation: &Generation,
    sites: &[&Arc<Site>],
    workers: usize,
    probe: &dyn Fn(u16) -> bool,
) -> Result<Vec<Vec<TcpListener>>, StartError> {
    let failed = |site: &Site, source| StartError::Bind {
        address: site.address,
        place: generation.config.sources.locate(site.place),
        source,
    };
    for site in sites.iter().filter(|site| probe(site.address.port())) {
        listen::probe(site.address).map_err(|error| failed(site, error))?;
    }
    let one = |site: &&Arc<Site>| listen::bind(site.address).map_err(|error| failed(site, error));
    (0..workers).map(|_| sites.iter().map(one).collect()).collect()
}

/// Looks up every endpoint's name once. What cannot be resolved is said, and tried again later: a
/// component that is not there yet is no reason not to start.
pub fn resolve_names(generation: &Generation) {
    for upstream in &generation.upstreams {
        for endpoint in &upstream.endpoints {
            if let Err(error) = resolve::refresh(endpoint) {
                tracing::warn!(
                    upstream = &*upstream.name,
                    "{error}; it is looked up again every {:?}",
                    resolve::REFRESH
                );
            }
        }
    }
}

pub(super) fn open_log(
    log: &config::AccessLog,
    metrics: &Arc<Metrics>,
) -> Result<AccessLog, StartError> {
    let dropped = metrics.log_dropped.clone();
    match log {
        config::AccessLog::Off => Ok(AccessLog::off(dropped)),
        config::AccessLog::Stdout => AccessLog::stdout(dropped).map_err(StartError::Thread),
        config::AccessLog::File(path) => AccessLog::file(path, dropped)
            .map_err(|source| StartError::AccessLog { path: path.display().to_string(), source }),
    }
}
