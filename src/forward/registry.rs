//! The tunnels that are open: what `app-gateway egress list` shows.
//!
//! Touched when a tunnel opens and closes; its bytes are counted where anybody may look.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::addr::Destination;
use crate::net::tunnel::ByteCounts;

/// All open tunnels.
#[derive(Debug, Default)]
pub struct EgressTunnels {
    next: AtomicU64,
    /// Sorted by number: the oldest tunnel comes first.
    open: Mutex<BTreeMap<u64, Arc<OpenTunnel>>>,
}

/// One open tunnel.
#[derive(Debug)]
pub struct OpenTunnel {
    /// Id of the request that opened it.
    pub id: Box<str>,
    /// When it was opened.
    pub since: Timestamp,
    /// The client.
    pub client: SocketAddr,
    /// The user it had logged in as.
    pub user: Option<Box<str>>,
    /// Host and port asked for.
    pub destination: Option<Destination>,
    /// Address connected to.
    pub upstream_addr: Option<SocketAddr>,
    /// Name of the parent proxy it goes through.
    pub parent: Option<Box<str>>,
    /// Name of the rule.
    pub rule: Box<str>,
    /// Name inside TLS.
    pub sni: Option<Box<str>>,
    /// Bytes: A is the client, B the destination.
    pub moved: ByteCounts,
}

/// An entry in [`EgressTunnels`]; dropping it takes the tunnel out.
pub(super) struct RegistryEntry {
    live: Arc<EgressTunnels>,
    number: u64,
    pub(super) open: Arc<OpenTunnel>,
}

impl EgressTunnels {
    /// Adds a tunnel.
    pub(super) fn list(self: &Arc<Self>, open: OpenTunnel) -> RegistryEntry {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let open = Arc::new(open);
        self.lock().insert(number, Arc::clone(&open));
        RegistryEntry { live: Arc::clone(self), number, open }
    }

    /// All of them, the oldest first, for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        self.oldest(usize::MAX).1
    }

    /// Number of open tunnels, and the oldest of them, `most` at most.
    #[must_use]
    pub fn oldest(&self, most: usize) -> (usize, Value) {
        let (count_of_all, oldest) = {
            let all = self.lock();
            (all.len(), all.values().take(most).cloned().collect::<Vec<_>>())
        };
        let count = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        let one = |open: Arc<OpenTunnel>| {
            json!({
                "id": open.id,
                "since": open.since.to_string(),
                "client": open.client.to_string(),
                "user": open.user,
                "destination": open.destination.as_ref().map(ToString::to_string),
                "upstream_addr": open.upstream_addr.map(|addr| addr.to_string()),
                "parent": open.parent,
                "rule": open.rule,
                "sni": open.sni,
                "request_bytes": count(&open.moved.a_to_b),
                "response_bytes": count(&open.moved.b_to_a),
            })
        };
        (count_of_all, Value::Array(oldest.into_iter().map(one).collect()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<OpenTunnel>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RegistryEntry {
    fn drop(&mut self) {
        self.live.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(id: &str) -> OpenTunnel {
        OpenTunnel {
            id: id.into(),
            since: Timestamp::UNIX_EPOCH,
            client: "192.0.2.1:1".parse().unwrap(),
            user: None,
            destination: Destination::parse(b"graph.facebook.com:443", None).ok(),
            upstream_addr: None,
            parent: None,
            rule: "facebook".into(),
            sni: None,
            moved: ByteCounts::default(),
        }
    }

    #[test]
    fn shows_what_is_open_and_forgets_what_has_closed() {
        let live = Arc::new(EgressTunnels::default());
        let first = live.list(open("a"));
        let second = live.list(open("b"));
        second.open.moved.a_to_b.store(7, Ordering::Relaxed);
        let shown = live.json();
        assert_eq!(shown[0]["id"], "a");
        assert_eq!(shown[1]["request_bytes"], 7);
        let (count, oldest) = live.oldest(1);
        assert_eq!(
            (count, oldest[0]["id"].as_str(), oldest.as_array().unwrap().len()),
            (2, Some("a"), 1)
        );
        drop(first);
        assert_eq!(live.json().as_array().unwrap().len(), 1);
        drop(second);
        assert!(live.lock().is_empty());
    }
}
