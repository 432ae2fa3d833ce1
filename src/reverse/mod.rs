//! The reverse proxy: who serves a client.
//!
//! ```text
//! accept -> TLS -> h1 or h2 -> Site::decide -> acquire -> Exchange -> answer or tunnel -> Record
//! ```
//!
//! One task per client connection drives everything that belongs to it, upstream included. Each
//! request ends in exactly one `Record`, which is the log line and the counters.

pub mod accept;
mod acquire;
mod h1;
mod h2;
mod pace;
mod record;
mod reply;
mod transfer;
mod tunnel;
pub mod tunnels;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

use crate::addr::ClientAddr;
use crate::generation::Site;
use crate::message::TraceParent;
use crate::message::forward::Origin;
use crate::net::admission::Admission;
use crate::net::{Local, Phase};
use crate::telemetry::recent::Recent;
use crate::telemetry::stamp::Stamp;
use crate::telemetry::{Lines, Metrics};
use crate::upstream::Pool;

use tunnels::Tunnels;

/// What all connections of one worker share.
pub struct Worker {
    /// Clock, scratch buffer, tasks.
    pub local: Rc<Local>,
    /// Idle upstream connections.
    pub pool: Rc<Pool>,
    /// The access log.
    pub lines: Rc<Lines>,
    /// Counters that have no listener or route.
    pub metrics: Arc<Metrics>,
    /// Open tunnels.
    pub tunnels: Tunnels,
    /// The latest requests.
    pub recent: Recent,
    stamp: Stamp,
    ids: Ids,
    /// Held so that there is one to give up when none is left.
    spare: RefCell<Option<File>>,
}

impl Worker {
    /// For the current thread, whose runtime must run local tasks. `recent` is how many requests it
    /// remembers.
    #[must_use]
    pub fn new(lines: Rc<Lines>, metrics: Arc<Metrics>, recent: usize) -> Rc<Self> {
        let worker = Rc::new(Self {
            local: Local::new(),
            pool: Rc::default(),
            lines,
            metrics,
            tunnels: Tunnels::default(),
            recent: Recent::new(recent),
            stamp: Stamp::default(),
            ids: Ids::new(),
            spare: RefCell::new(File::open("/dev/null").ok()),
        });
        tokio::task::spawn_local(worker.local.clock.clone().run());
        tokio::task::spawn_local(Rc::clone(&worker.pool).sweep());
        tokio::task::spawn_local(Rc::clone(&worker.lines).run());
        worker
    }
}

/// One listener on one worker.
pub struct Service {
    /// The worker.
    pub worker: Rc<Worker>,
    /// What the listener serves at present.
    pub site: Arc<ArcSwap<Site>>,
    /// Its open connections, on all workers.
    pub admission: Arc<Admission>,
    /// The listener is being removed.
    pub closing: Cell<bool>,
}

impl Service {
    /// Whether connections finish what they do and take nothing new.
    #[must_use]
    pub fn is_going(&self) -> bool {
        self.closing.get() || self.worker.local.phase() != Phase::Serving
    }

    /// Whether a kept connection is closed without waiting for its next request. Not if another
    /// process has taken over: there is time, and a request may be on its way.
    #[must_use]
    pub fn closes_idle(&self) -> bool {
        self.is_going() && self.worker.local.phase() != Phase::Succeeded
    }
}

/// What is known about a client connection, from its handshake on.
struct Facts {
    client: ClientAddr,
    tls: &'static str,
    sni: Option<String>,
}

impl Facts {
    /// What an upstream is told about where a request of this connection came from.
    fn origin<'a>(
        &self,
        site: &Site,
        strip_prefix: Option<&'a str>,
        (id, trace): (&'a RequestId, Option<&'a TraceParent>),
    ) -> Origin<'a> {
        Origin {
            client: self.client.ip(),
            trusted: site.trusts(self.client),
            strip_prefix,
            request_id: id.as_str(),
            trace,
        }
    }
}

/// An id for one request, 32 hexadecimal digits or what a trusted proxy sent.
#[derive(Clone, Copy)]
struct RequestId {
    text: [u8; Self::MOST],
    length: u8,
}

impl RequestId {
    const MOST: usize = 64;

    fn as_str(&self) -> &str {
        let text = self.text.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }

    /// The digits of an id of our own.
    fn digits(&self) -> [u8; 32] {
        self.text.first_chunk().copied().unwrap_or([b'0'; 32])
    }

    /// Takes over an id if it is short and harmless in logs and fields.
    fn from_proxy(text: &[u8]) -> Option<Self> {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:=+/".contains(b);
        if text.is_empty() || text.len() > Self::MOST || !text.iter().all(plain) {
            return None;
        }
        let mut id = Self { text: [0; Self::MOST], length: u8::try_from(text.len()).ok()? };
        id.text.get_mut(..text.len())?.copy_from_slice(text);
        Some(id)
    }
}

/// Makes request ids: unique, not secret.
struct Ids {
    seed: u64,
    count: Cell<u64>,
}

impl Ids {
    fn new() -> Self {
        let mut seed = [0; 8];
        // Without randomness ids are still unique within the worker.
        let _ = SystemRandom::new().fill(&mut seed);
        Self { seed: u64::from_ne_bytes(seed), count: Cell::new(0) }
    }

    fn next(&self) -> RequestId {
        let count = self.count.get();
        self.count.set(count.wrapping_add(1));
        let halves =
            [mixed(self.seed.wrapping_add(count)), mixed(self.seed.rotate_left(32) ^ count)];
        let mut id = RequestId { text: [0; RequestId::MOST], length: 32 };
        for (index, digit) in id.text.iter_mut().take(32).enumerate() {
            let half = halves[index / 16];
            *digit = b"0123456789abcdef"[(half >> (60 - 4 * (index % 16)) & 15) as usize];
        }
        id
    }

    /// An id for what one request is in its trace: another for each call of [`Ids::next`].
    fn span(&self) -> u64 {
        mixed(self.seed.rotate_left(16) ^ self.count.get())
    }
}

/// The finalizer of splitmix64: a bijection, so different counts give different ids.
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How long we wait for an upstream's `100 Continue` before we send our own.
const CONTINUE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_are_hexadecimal() {
        let ids = Ids::new();
        let (a, b) = (ids.next(), ids.next());
        assert_ne!(a.as_str(), b.as_str());
        assert!(a.as_str().len() == 32 && a.as_str().bytes().all(|b| b.is_ascii_hexdigit()));
    }

    #[test]
    fn foreign_ids_are_taken_only_if_harmless() {
        assert_eq!(RequestId::from_proxy(b"abc-1").unwrap().as_str(), "abc-1");
        for bad in [&b""[..], b"a b", b"a\"b", &[b'a'; 65]] {
            assert!(RequestId::from_proxy(bad).is_none());
        }
    }
}
