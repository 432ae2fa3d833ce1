//! Limits and arrival watches of the self-test of one route.
//!
//! The page that tests connections to the gateway may be open to the internet. Its requests are
//! limited in total and per client, and no state about a client remains after its request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::addr::ClientAddr;
use crate::config;
use crate::net::admission::{Admission, Permit};
use crate::net::rate::Rate;

/// Concurrent requests and WebSockets of all clients: about 5 MiB of buffers.
const MAX_REQUESTS: usize = 128;
/// Concurrent requests per client (IPv6: per /64). One test has up to five at once, and a whole
/// call centre may share an address.
const MAX_REQUESTS_PER_CLIENT: usize = 64;
/// Rate limit over all clients.
const BYTES_PER_SECOND: u64 = 1 << 20;
/// Bytes that each request counts for in the rate limit. Most answers are smaller.
const REQUEST_COST: usize = 12 << 10;

/// Server state of the self-test of one route.
#[derive(Debug)]
pub struct SelfTestServer {
    /// Length of the silence on test WebSockets and long polls.
    pub idle: Duration,
    /// Path of the Socket.IO route that is tested too.
    pub socket_io: Option<String>,
    admission: Arc<Admission>,
    rate: Rate,
    /// Waiting requests, by the identifier of the attempt.
    watches: Mutex<HashMap<String, oneshot::Sender<String>>>,
}

/// A request that waits for the arrival of an attempt. Dropping it cancels the wait.
#[derive(Debug)]
pub struct ArrivalWatch {
    test: Arc<SelfTestServer>,
    attempt: String,
    /// Receives a description of the attempt.
    pub seen: oneshot::Receiver<String>,
}

impl SelfTestServer {
    /// Largest request body, in bytes.
    pub const LONGEST_BODY: u64 = 4 << 10;

    pub(super) fn new(config: &config::SelfTest) -> Self {
        Self {
            idle: config.idle,
            socket_io: config.socket_io.clone(),
            admission: Arc::default(),
            rate: Rate::new(BYTES_PER_SECOND),
            watches: Mutex::default(),
        }
    }

    /// A permit for one request, held until it is dropped; `None` if a concurrency or rate limit is
    /// reached.
    #[must_use]
    pub fn admit(&self, client: ClientAddr, now: Instant) -> Option<Permit> {
        if self.rate.wait(now).is_some() {
            return None;
        }
        let permit = self.admission.admit(client, MAX_REQUESTS, MAX_REQUESTS_PER_CLIENT).ok()?;
        self.rate.moved(now, REQUEST_COST);
        Some(permit)
    }

    /// Waits for the arrival of an attempt. The number of watches is bounded by that of admitted
    /// requests.
    #[must_use]
    pub fn watch(self: &Arc<Self>, attempt: &str) -> ArrivalWatch {
        let (tell, seen) = oneshot::channel();
        self.watches().insert(attempt.to_owned(), tell);
        ArrivalWatch { test: Arc::clone(self), attempt: attempt.to_owned(), seen }
    }

    /// Reports the arrival of an attempt to the request that waits for it, if there is one.
    pub fn report_arrival(&self, attempt: &str, what: String) {
        let sent = self.watches().remove(attempt).map(|watch| watch.send(what));
        // The send fails if the waiting request was dropped.
        let _ = sent;
    }

    fn watches(&self) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<String>>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ArrivalWatch {
    fn drop(&mut self) {
        // Another request may have started to watch for the same attempt.
        self.seen.close();
        let mut watches = self.test.watches();
        if watches.get(&self.attempt).is_some_and(oneshot::Sender::is_closed) {
            watches.remove(&self.attempt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test() -> Arc<SelfTestServer> {
        let idle = Duration::from_secs(30);
        Arc::new(SelfTestServer::new(&config::SelfTest { idle, socket_io: None }))
    }

    fn client(last: u8) -> ClientAddr {
        ClientAddr(([192, 0, 2, last], 1).into())
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_requests_are_limited_per_client_and_in_total() {
        let (test, mut now) = (test(), Instant::now());
        let mut open = Vec::new();
        for last in 0..5 {
            for _ in 0..100 {
                now += Duration::from_secs(1);
                open.extend(test.admit(client(last), now));
            }
            assert_eq!(open.len(), [64, 128, 128, 128, 128][usize::from(last)]);
        }
        drop(open);
        assert!(test.admit(client(9), now + Duration::from_secs(1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_limited_per_second() {
        let (test, start) = (test(), Instant::now());
        let admitted = (0..10_000)
            .filter(|ms| test.admit(client(1), start + Duration::from_millis(*ms)).is_some());
        assert_eq!(admitted.count() / 10, 89);
    }

    #[test]
    fn a_watch_receives_one_report_and_is_removed() {
        let test = test();
        let (mut first, mut other) = (test.watch("a"), test.watch("b"));
        test.report_arrival("a", "came".to_owned());
        test.report_arrival("a", "came again".to_owned());
        test.report_arrival("nobody", "came".to_owned());
        assert_eq!(first.seen.try_recv().unwrap(), "came");
        assert!(other.seen.try_recv().is_err());
        let again = test.watch("b");
        drop(other);
        assert_eq!(test.watches().len(), 1, "the later watch for the same attempt is kept");
        drop((first, again));
        assert!(test.watches().is_empty());
    }
}
