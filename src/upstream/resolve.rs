//! Names of endpoints to addresses, by the system's resolver, off the data workers.
//!
//! `getaddrinfo` and not a resolver of our own: sites fail over by editing `/etc/hosts`, and the
//! system's way of looking names up is the one their operators can debug.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::net::CheckedAddr;

use super::Endpoint;

/// Looks the endpoint's host up and stores the addresses. The last good ones stay if that fails.
/// Blocks; never called on a data worker.
///
/// # Errors
///
/// The resolver's words.
pub fn refresh(endpoint: &Endpoint) -> Result<(), String> {
    let addresses: Vec<SocketAddr> = match endpoint.host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, endpoint.port)],
        Err(_) => (endpoint.host.as_str(), endpoint.port)
            .to_socket_addrs()
            .map_err(|error| format!("cannot resolve `{}`: {error}", endpoint.host))?
            .collect(),
    };
    if addresses.is_empty() {
        return Err(format!("`{}` resolves to no address", endpoint.host));
    }
    #[expect(clippy::disallowed_methods, reason = "the operator wrote this endpoint down")]
    let vouched: Vec<CheckedAddr> = addresses.into_iter().map(CheckedAddr::vouched).collect();
    endpoint.resolved.store(jiff::Timestamp::now().as_second(), Ordering::Relaxed);
    if **endpoint.addresses.load() != vouched {
        endpoint.addresses.store(Arc::new(vouched));
    }
    Ok(())
}

/// Whether the host is a name, which may change its addresses.
#[must_use]
pub fn is_name(endpoint: &Endpoint) -> bool {
    endpoint.host.parse::<IpAddr>().is_err()
}
