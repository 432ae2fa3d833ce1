//! Latest requests of a worker, for `plan`, which reports those that a new configuration would
//! treat differently.
//!
//! A worker has its own ring of reused slots: adding a request copies some hundred bytes, takes no
//! lock, and allocates nothing once every slot has been used. An entry contains only the parts of a
//! request that routes evaluate: no query, field or client.

use std::cell::RefCell;
use std::net::SocketAddr;

use http::Method;

/// Limit for host and path together, in bytes. A longer request is not recorded, because a
/// shortened one could not be evaluated.
const MAX_KEPT_LEN: usize = 512;

/// A request to record.
pub struct NotedRequest<'a> {
    /// Address of the listener.
    pub listener: SocketAddr,
    /// Its method.
    pub method: &'a Method,
    /// The request is for a WebSocket.
    pub upgrade: bool,
    /// Host of the request, without port.
    pub host: &'a str,
    /// Raw path of the request, without query.
    pub path: &'a [u8],
}

/// A recorded request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecentRequest {
    /// Address of the listener.
    pub listener: SocketAddr,
    /// Its method.
    pub method: Method,
    /// The request was for a WebSocket.
    pub upgrade: bool,
    host: usize,
    /// Host, followed by path.
    text: Vec<u8>,
}

impl RecentRequest {
    /// Host of the request, without port.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.text.get(..self.host).unwrap_or_default();
        std::str::from_utf8(host).unwrap_or_default()
    }

    /// Raw path of the request, without query.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.text.get(self.host..).unwrap_or_default()
    }

    fn write(&mut self, request: &NotedRequest<'_>) {
        self.listener = request.listener;
        self.method.clone_from(request.method);
        self.upgrade = request.upgrade;
        self.host = request.host.len();
        self.text.clear();
        self.text.extend_from_slice(request.host.as_bytes());
        self.text.extend_from_slice(request.path);
    }
}

/// Ring of the latest requests.
pub struct RecentRequests {
    most: usize,
    ring: RefCell<RequestRing>,
}

#[derive(Default)]
struct RequestRing {
    slots: Vec<RecentRequest>,
    next: usize,
}

impl RecentRequests {
    /// Creates a ring for up to `most` requests; 0 disables it.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, ring: RefCell::default() }
    }

    /// Records a request, over the oldest one if the ring is full.
    pub fn add(&self, request: &NotedRequest<'_>) {
        if self.most == 0 || request.host.len() + request.path.len() > MAX_KEPT_LEN {
            return;
        }
        let mut ring = self.ring.borrow_mut();
        let next = ring.next;
        ring.next = if next + 1 < self.most { next + 1 } else { 0 };
        if let Some(slot) = ring.slots.get_mut(next) {
            slot.write(request);
            return;
        }
        let mut seen = RecentRequest {
            listener: request.listener,
            method: Method::GET,
            upgrade: false,
            host: 0,
            text: Vec::new(),
        };
        seen.write(request);
        ring.slots.push(seen);
    }

    /// All recorded requests, in no particular order.
    #[must_use]
    pub fn all(&self) -> Vec<RecentRequest> {
        self.ring.borrow().slots.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(recent: &RecentRequests, path: &str) {
        recent.add(&NotedRequest {
            listener: SocketAddr::from(([127, 0, 0, 1], 443)),
            method: &Method::PUT,
            upgrade: false,
            host: "a.test",
            path: path.as_bytes(),
        });
    }

    fn paths(recent: &RecentRequests) -> Vec<String> {
        let text = |seen: &RecentRequest| String::from_utf8_lossy(seen.path()).into_owned();
        recent.all().iter().map(text).collect()
    }

    #[test]
    fn the_oldest_goes_first() {
        let recent = RecentRequests::new(3);
        for path in ["/1", "/2", "/3", "/four", "/5"] {
            add(&recent, path);
        }
        assert_eq!(paths(&recent), ["/four", "/5", "/3"]);
        let all = recent.all();
        assert_eq!((all[0].host(), &all[0].method), ("a.test", &Method::PUT));
    }

    #[test]
    fn room_is_bounded() {
        let recent = RecentRequests::new(2);
        add(&recent, &"x".repeat(MAX_KEPT_LEN));
        assert_eq!(paths(&recent), [""; 0]);
        let none = RecentRequests::new(0);
        add(&none, "/");
        assert_eq!(paths(&none), [""; 0]);
    }
}
