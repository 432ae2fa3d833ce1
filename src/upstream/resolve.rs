//! Name resolution of endpoints by the system's resolver, off the data workers.
//!
//! `getaddrinfo` is used instead of a resolver library, because operators fail over by editing
//! `/etc/hosts`, and it is the resolver that they can debug.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::net::CheckedAddr;

use super::Endpoint;
use super::rotation::MAX_ADDRESSES;

/// Look-ups at a time when many are made at once.
const THREADS: usize = 16;

/// Looks the endpoint's host up and stores the addresses. The last good ones stay if that fails.
/// Blocks; never called on a data worker.
///
/// # Errors
///
/// The resolver's words.
pub fn refresh(endpoint: &Endpoint) -> Result<(), String> {
    let mut addresses: Vec<SocketAddr> = match endpoint.host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, endpoint.port)],
        Err(_) => (endpoint.host.as_str(), endpoint.port)
            .to_socket_addrs()
            .map_err(|error| format!("cannot resolve `{}`: {error}", endpoint.host))?
            .collect(),
    };
    if addresses.is_empty() {
        return Err(format!("`{}` resolves to no address", endpoint.host));
    }
    addresses.truncate(MAX_ADDRESSES);
    endpoint.resolved.store(jiff::Timestamp::now().as_second(), Ordering::Relaxed);
    store(endpoint, addresses);
    Ok(())
}

/// Stores the addresses of an endpoint, if they have changed. Their order is ignored, because name
/// servers shuffle it.
fn store(endpoint: &Endpoint, addresses: Vec<SocketAddr>) {
    let known = endpoint.addresses.load();
    let is_same = known.len() == addresses.len()
        && addresses.iter().all(|address| known.iter().any(|known| known.get() == *address));
    if is_same {
        return;
    }
    #[expect(clippy::disallowed_methods, reason = "the operator wrote this endpoint down")]
    let vouched: Vec<CheckedAddr> = addresses.into_iter().map(CheckedAddr::vouched).collect();
    let is_first = known.is_empty();
    endpoint.rotation.begin(vouched.len());
    endpoint.addresses.store(Arc::new(vouched));
    if !is_first {
        // Failures at the old addresses say nothing about the new ones.
        endpoint.health.circuit.connected();
        endpoint.health.request_check();
    }
}

/// Looks up the hosts of many endpoints, several at a time, and waits at most `within`. Slower
/// look-ups continue and store their results later. Returns the errors. Blocks.
pub fn refresh_all<'a>(
    endpoints: impl Iterator<Item = &'a Arc<Endpoint>>,
    within: Duration,
) -> Vec<String> {
    let deadline = Instant::now() + within;
    let (names, addresses): (Vec<_>, Vec<_>) =
        endpoints.cloned().partition(|endpoint| is_name(endpoint));
    let mut problems: Vec<_> =
        addresses.iter().filter_map(|endpoint| refresh(endpoint).err()).collect();
    let mut waiting: HashSet<_> = names.iter().map(|endpoint| endpoint.host.clone()).collect();
    let (sender, done) = mpsc::channel();
    let threads = THREADS.min(names.len());
    let queue = Arc::new(Mutex::new(names));
    for _ in 0..threads {
        let (queue, sender) = (Arc::clone(&queue), sender.clone());
        let work = move || {
            let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            while let Some(endpoint) = next() {
                // The send fails if the caller has stopped waiting.
                let _ = sender.send((endpoint.host.clone(), refresh(&endpoint)));
            }
        };
        let thread = std::thread::Builder::new().name("resolver".to_owned());
        if let Err(error) = thread.spawn(work) {
            problems.push(format!("cannot start a thread for name resolution: {error}"));
        }
    }
    drop(sender);
    while !waiting.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((host, result)) = done.recv_timeout(left) else { break };
        waiting.remove(&host);
        problems.extend(result.err());
    }
    let mut waiting: Vec<_> = waiting.into_iter().collect();
    waiting.sort_unstable();
    problems
        .extend(waiting.iter().map(|host| format!("`{host}` is not resolved within {within:?}")));
    problems
}

/// Whether the host is a name, which may change its addresses.
#[must_use]
pub fn is_name(endpoint: &Endpoint) -> bool {
    endpoint.host.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str) -> Arc<Endpoint> {
        Arc::new(Endpoint::new(host.to_owned(), 1, None, 1))
    }

    #[test]
    fn other_addresses_are_stored_and_another_order_is_not() {
        let endpoint = endpoint("app.test");
        let [a, b, c] = [1, 2, 3].map(|last| SocketAddr::from(([192, 0, 2, last], 1)));
        store(&endpoint, vec![a, b]);
        let before = endpoint.addresses.load_full();
        store(&endpoint, vec![b, a]);
        assert!(Arc::ptr_eq(&before, &endpoint.addresses.load_full()));
        endpoint.health.circuit.open_for(Duration::from_secs(60));
        store(&endpoint, vec![b, c]);
        assert_eq!(endpoint.addresses.load().iter().map(|ip| ip.get()).collect::<Vec<_>>(), [b, c]);
        assert_eq!(
            endpoint.health.circuit.circuit_state(),
            crate::upstream::eject::CircuitState::Closed
        );
    }

    #[test]
    fn many_are_looked_up_and_addresses_need_no_resolver() {
        let all = [endpoint("127.0.0.1"), endpoint("localhost"), endpoint("a name.invalid")];
        let problems = refresh_all(all.iter(), Duration::from_secs(20));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("a name.invalid"), "{problems:?}");
        assert!(!all[0].addresses.load().is_empty() && !all[1].addresses.load().is_empty());
    }

    #[test]
    fn nobody_waits_longer_than_allowed() {
        let all = [endpoint("127.0.0.1"), endpoint("nowhere.invalid")];
        let begun = Instant::now();
        let problems = refresh_all(all.iter(), Duration::ZERO);
        assert!(begun.elapsed() < Duration::from_secs(2));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(!all[0].addresses.load().is_empty());
    }
}
