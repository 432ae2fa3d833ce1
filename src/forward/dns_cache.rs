//! DNS cache of the forward proxy, filled by the system's resolver off the workers.
//!
//! `getaddrinfo` gives no lifetime of an answer, so every answer is fresh for half a minute, the
//! interval after which configured endpoints are looked up again too. A name in use is refreshed
//! before that, so that requests do not wait for it. When the resolver fails, or is silent for a
//! second, the last good answer is used for up to an hour: a DNS outage must not become an outage
//! of the chat.
//!
//! Look-ups of one client network queue behind each other and use a few threads at most: names with
//! silent servers delay only the network that requests them.
//!
//! An answer is only a claim; each of its addresses still has to pass the guard.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::Histogram;
use tokio::sync::oneshot;

use crate::addr::HostName;
use crate::net::blocking::BlockingPool;

/// Lifetime of an answer.
const ANSWER_LIFETIME: Duration = Duration::from_secs(30);
/// Older than this, an answer that is asked for is looked up anew while it still holds.
const REFRESH_AGE: Duration = Duration::from_secs(20);
/// Period during which the last good answer is used while the resolver fails.
const STALE_LIFETIME: Duration = Duration::from_secs(3600);
/// Lifetime of a failure.
const FAILURE_LIFETIME: Duration = Duration::from_secs(5);
/// Names remembered.
const MAX_DNS_ENTRIES: usize = 2048;
/// Addresses of a name that are looked at.
const MAX_ADDRESSES: usize = 32;
/// Look-ups at a time.
const MAX_LOOKUP_THREADS: usize = 32;
/// Look-ups at a time for one client network.
const THREADS_PER_NETWORK: usize = 4;
/// Duration of a look-up after which the last good answer is used in its place.
const LAST_GOOD_AFTER: Duration = Duration::from_secs(1);

/// The addresses of a name.
pub(super) type Addresses = Arc<[IpAddr]>;

/// Looks a name up, and may block.
type ResolveFn = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Cached answers, shared by the workers.
pub(super) struct DnsCache {
    known: Mutex<HashMap<HostName, DnsEntry>>,
    aside: BlockingPool,
    resolve: Box<ResolveFn>,
    seconds: Histogram,
}

/// Why a name has no address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum ResolveError {
    /// Error of the resolver.
    #[error("{0}")]
    Resolver(Arc<str>),
    /// Too many look-ups are waiting.
    #[error("too many names are being looked up for this client network")]
    Busy,
}

/// Receives the answer of a look-up.
type Waiter = oneshot::Sender<Result<Addresses, ResolveError>>;

struct DnsEntry {
    good: Option<(Addresses, Instant)>,
    failed: Option<(ResolveError, Instant)>,
    asked: Instant,
    /// The look-up that is queued or under way, if one is.
    look_up: Option<LookUp>,
}

/// A look-up that is queued or under way.
struct LookUp {
    since: Instant,
    /// Client networks in whose queues it is; the first whose turn comes makes it.
    networks: Vec<IpAddr>,
    /// A thread is at it.
    started: bool,
    waiters: Vec<Waiter>,
}

enum CacheStep {
    Known(Result<Addresses, ResolveError>),
    Wait {
        answer: oneshot::Receiver<Result<Addresses, ResolveError>>,
        /// Used if the answer takes too long.
        last_good: Option<Addresses>,
    },
}

impl DnsCache {
    /// With the system's resolver.
    pub(super) fn new(seconds: Histogram) -> Arc<Self> {
        Self::with(seconds, |name| {
            let all = (name, 0).to_socket_addrs()?;
            let mut ips: Vec<IpAddr> = Vec::new();
            for ip in all.map(|addr| addr.ip()) {
                if !ips.contains(&ip) {
                    ips.push(ip);
                }
            }
            Ok(ips)
        })
    }

    fn with(
        seconds: Histogram,
        resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            known: Mutex::default(),
            aside: BlockingPool::new(MAX_LOOKUP_THREADS, THREADS_PER_NETWORK, "resolver"),
            resolve: Box::new(resolve),
            seconds,
        })
    }

    /// The addresses of `name`, never none, for a client of `network`.
    ///
    /// # Errors
    ///
    /// [`ResolveError`], if there is no answer, nor a good one of the last hour.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the look-up to its end; others may wait for it.
    pub(super) async fn look_up(
        self: &Arc<Self>,
        name: &HostName,
        network: IpAddr,
    ) -> Result<Addresses, ResolveError> {
        let (answer, last_good) = match self.step(name, network, Instant::now()) {
            CacheStep::Known(result) => return result,
            CacheStep::Wait { answer, last_good } => (answer, last_good),
        };
        // A look-up that was begun always answers, unless its thread is gone.
        let gone = || Err(ResolveError::Busy);
        match last_good {
            None => answer.await.unwrap_or_else(|_| gone()),
            Some(addresses) => match tokio::time::timeout(LAST_GOOD_AFTER, answer).await {
                Ok(answer) => answer.unwrap_or_else(|_| gone()),
                Err(_) => Ok(addresses),
            },
        }
    }

    /// Cache state of `name`. Starts a look-up if there is no answer, or an ageing one.
    fn step(self: &Arc<Self>, name: &HostName, network: IpAddr, now: Instant) -> CacheStep {
        let mut known = self.lock();
        if !known.contains_key(name) {
            make_room(&mut known);
        }
        let entry = known.entry(name.clone()).or_insert_with(|| DnsEntry::new(now));
        entry.asked = now;
        let held = entry.held(now);
        let ageing = entry.good.as_ref().is_none_or(|(_, at)| now >= *at + REFRESH_AGE);
        let failed = entry.failed.as_ref().is_some_and(|(_, at)| now < *at + FAILURE_LIFETIME);
        if !ageing || (failed && held.is_some()) {
            return CacheStep::Known(held.unwrap_or(Err(ResolveError::Busy)));
        }
        let last_good = entry.last_good(now);
        if !self.begin(entry, name, network, now) {
            return CacheStep::Known(last_good.ok_or(ResolveError::Busy));
        }
        let Some(look_up) = &mut entry.look_up else {
            return CacheStep::Known(Err(ResolveError::Busy));
        };
        if let Some(held) = held {
            return CacheStep::Known(held);
        }
        // The resolver is known to fail or to be silent, so this request does not wait for it too.
        let unwell = entry.failed.is_some() || now >= look_up.since + LAST_GOOD_AFTER;
        if let Some(last_good) = last_good.as_ref().filter(|_| unwell) {
            return CacheStep::Known(Ok(Arc::clone(last_good)));
        }
        let (sender, answer) = oneshot::channel();
        look_up.waiters.push(sender);
        CacheStep::Wait { answer, last_good }
    }

    /// Sees to it that a look-up is under way, or in the queue of this client network. `false` if
    /// there is no room for it.
    fn begin(
        self: &Arc<Self>,
        entry: &mut DnsEntry,
        name: &HostName,
        network: IpAddr,
        now: Instant,
    ) -> bool {
        let queued = |look_up: &LookUp| look_up.started || look_up.networks.contains(&network);
        if entry.look_up.as_ref().is_some_and(queued) {
            return true;
        }
        let (own, name) = (Arc::clone(self), name.clone());
        let begun = self.aside.start(network, move || own.resolve_now(&name));
        let new =
            || LookUp { since: now, networks: Vec::new(), started: false, waiters: Vec::new() };
        match (begun, &mut entry.look_up) {
            (true, look_up) => look_up.get_or_insert_with(new).networks.push(network),
            // It is in the queue of another network.
            (false, Some(_)) => {}
            (false, None) => return false,
        }
        true
    }

    /// Looks a name up, unless another thread does, or no request waits for it any more. Blocks.
    fn resolve_now(&self, name: &HostName) {
        let start = Instant::now();
        let is_wanted = {
            let mut known = self.lock();
            let Some(entry) = known.get_mut(name) else { return };
            let Some(look_up) = &mut entry.look_up else { return };
            if look_up.started {
                return;
            }
            look_up.started = true;
            let waiters = &look_up.waiters;
            let wanted = waiters.is_empty() || waiters.iter().any(|waiter| !waiter.is_closed());
            if !wanted {
                entry.look_up = None;
            }
            wanted
        };
        if is_wanted {
            let found = (self.resolve)(name.as_str());
            self.seconds.observe(start.elapsed().as_secs_f64());
            self.answer(name, found, Instant::now());
        }
    }

    fn answer(&self, name: &HostName, found: io::Result<Vec<IpAddr>>, now: Instant) {
        let found = match found {
            Ok(mut ips) if !ips.is_empty() => {
                ips.truncate(MAX_ADDRESSES);
                Ok(Addresses::from(ips))
            }
            Ok(_) => Err(ResolveError::Resolver("there is no address".into())),
            Err(error) => Err(ResolveError::Resolver(error.to_string().into())),
        };
        let mut known = self.lock();
        let Some(entry) = known.get_mut(name) else { return };
        let result = match found {
            Ok(addresses) => {
                entry.failed = None;
                entry.good = Some((Arc::clone(&addresses), now));
                Ok(addresses)
            }
            Err(error) => {
                entry.failed = Some((error.clone(), now));
                entry.last_good(now).ok_or(error)
            }
        };
        for waiter in entry.look_up.take().into_iter().flat_map(|look_up| look_up.waiters) {
            // The client may have gone.
            let _ = waiter.send(result.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HostName, DnsEntry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DnsEntry {
    fn new(now: Instant) -> Self {
        Self { good: None, failed: None, asked: now, look_up: None }
    }

    /// Answer that needs no look-up.
    fn held(&self, now: Instant) -> Option<Result<Addresses, ResolveError>> {
        if let Some((addresses, at)) = &self.good
            && now < *at + ANSWER_LIFETIME
        {
            return Some(Ok(Arc::clone(addresses)));
        }
        let (error, at) = self.failed.as_ref()?;
        (now < *at + FAILURE_LIFETIME).then(|| self.last_good(now).ok_or_else(|| error.clone()))
    }

    fn last_good(&self, now: Instant) -> Option<Addresses> {
        let (addresses, at) = self.good.as_ref()?;
        (now < *at + STALE_LIFETIME).then(|| Arc::clone(addresses))
    }
}

/// Removes the least recently requested name if there are too many. Keeps names that requests wait
/// for.
fn make_room(known: &mut HashMap<HostName, DnsEntry>) {
    if known.len() < MAX_DNS_ENTRIES {
        return;
    }
    let idle = known.iter().filter(|(_, entry)| entry.look_up.is_none());
    let oldest = idle.min_by_key(|(_, entry)| entry.asked).map(|(name, _)| name.clone());
    if let Some(name) = oldest {
        known.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::HistogramOpts;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    fn names(
        resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Arc<DnsCache> {
        let seconds = Histogram::with_opts(HistogramOpts::new("a", "b")).unwrap();
        DnsCache::with(seconds, resolve)
    }

    async fn look_up(names: &Arc<DnsCache>, name: &HostName) -> Result<Addresses, ResolveError> {
        names.look_up(name, ip("10.0.0.1")).await
    }

    /// A resolver that is silent, until the sender is dropped, about names that begin with `s`.
    fn silent() -> (Arc<DnsCache>, mpsc::Sender<()>) {
        let (release, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let names = names(move |name| {
            if name.starts_with('s') {
                while wait.lock().unwrap().try_recv() == Err(mpsc::TryRecvError::Empty) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            Ok(vec![ip("192.0.2.1")])
        });
        (names, release)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn one_look_up_answers_all_who_wait_and_those_who_come_soon_after() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let names = names(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(vec![ip("192.0.2.1"), ip("2001:db8::1")])
        });
        let asked = name("a.example");
        let (a, b) = tokio::join!(look_up(&names, &asked), look_up(&names, &asked));
        assert_eq!(a.unwrap(), b.unwrap());
        assert_eq!(look_up(&names, &asked).await.unwrap()[1], ip("2001:db8::1"));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn the_last_good_answer_outlives_the_resolver() {
        let fails = Arc::new(AtomicUsize::new(0));
        let failing = Arc::clone(&fails);
        let names = names(move |_| match failing.load(Ordering::SeqCst) {
            0 => Ok(vec![ip("192.0.2.1")]),
            1 => Ok(Vec::new()),
            _ => Err(io::Error::other("SERVFAIL")),
        });
        let asked = name("a.example");
        look_up(&names, &asked).await.unwrap();
        // Simulates that half a minute has passed.
        let at = Instant::now();
        let answered = names.lock().get(&asked).unwrap().good.clone().unwrap().0;
        for how in [1, 2] {
            fails.store(how, Ordering::SeqCst);
            let error = (names.resolve)("a.example");
            names.answer(&asked, error, at);
            let entry = names.lock();
            let entry = entry.get(&asked).unwrap();
            let old = entry.held(at + ANSWER_LIFETIME + Duration::from_secs(1));
            assert!(old.is_none());
            assert_eq!(entry.last_good(at + ANSWER_LIFETIME).unwrap(), answered);
            assert_eq!(entry.last_good(at + STALE_LIFETIME), None);
        }
    }

    #[tokio::test]
    async fn a_name_without_address_is_not_asked_for_again_at_once() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let names = names(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Err(io::Error::other("NXDOMAIN"))
        });
        let asked = name("nowhere.example");
        for _ in 0..3 {
            assert_eq!(
                look_up(&names, &asked).await,
                Err(ResolveError::Resolver("NXDOMAIN".into()))
            );
        }
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn an_ageing_answer_is_given_and_looked_up_behind_it() {
        let names = names(|_| Ok(vec![ip("192.0.2.2")]));
        let asked = name("a.example");
        let now = Instant::now();
        let old = DnsEntry {
            good: Some((Addresses::from([ip("192.0.2.1")]), now)),
            ..DnsEntry::new(now)
        };
        names.lock().insert(asked.clone(), old);
        let step = || match names.step(&asked, ip("10.0.0.1"), now + REFRESH_AGE) {
            CacheStep::Known(result) => result.unwrap()[0],
            CacheStep::Wait { .. } => panic!("waits"),
        };
        assert_eq!(step(), ip("192.0.2.1"));
        let is_under_way = || names.lock().get(&asked).unwrap().look_up.is_some();
        while is_under_way() {
            tokio::task::yield_now().await;
        }
        assert_eq!(step(), ip("192.0.2.2"));
    }

    #[tokio::test]
    async fn silent_names_of_one_client_network_do_not_delay_others() {
        let (names, release) = silent();
        let attacks: Vec<_> = (0..90)
            .map(|index| {
                let names = Arc::clone(&names);
                let name = name(&format!("s{index}.example"));
                tokio::spawn(async move { names.look_up(&name, ip("10.0.0.66")).await })
            })
            .collect();
        while names.lock().len() < 90 {
            tokio::task::yield_now().await;
        }
        let others = async {
            look_up(&names, &name("a.example")).await.unwrap();
            // A name that is in the queue of the other network does not wait for that.
            names.look_up(&name("b.example"), ip("10.0.0.1")).await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(20), others).await.unwrap();
        let busy = || {
            let known = names.lock();
            let under_way =
                |entry: &&DnsEntry| entry.look_up.as_ref().is_some_and(|look_up| look_up.started);
            known.values().filter(under_way).count()
        };
        assert!(busy() <= THREADS_PER_NETWORK, "{}", busy());
        drop(release);
        for attack in attacks {
            let _ = attack.await;
        }
    }

    #[tokio::test]
    async fn while_the_resolver_is_silent_the_last_good_answer_is_used_soon() {
        let (names, release) = silent();
        let asked = name("s.example");
        let old = Instant::now().checked_sub(ANSWER_LIFETIME + Duration::from_secs(1)).unwrap();
        let good = Some((Addresses::from([ip("192.0.2.9")]), old));
        names.lock().insert(asked.clone(), DnsEntry { good, ..DnsEntry::new(old) });
        for round in 0..3 {
            let begun = Instant::now();
            let found = look_up(&names, &asked).await.unwrap();
            assert_eq!(found[0], ip("192.0.2.9"));
            let took = begun.elapsed();
            if round > 0 {
                assert!(took < LAST_GOOD_AFTER, "only the first waits: {took:?}");
            }
        }
        drop(release);
    }

    #[tokio::test]
    async fn after_a_failure_the_last_good_answer_is_used_at_once() {
        let (names, release) = silent();
        let asked = name("s.example");
        let now = Instant::now();
        let old = now.checked_sub(ANSWER_LIFETIME + Duration::from_secs(1)).unwrap();
        let failed = Some((
            ResolveError::Resolver("SERVFAIL".into()),
            now.checked_sub(FAILURE_LIFETIME).unwrap(),
        ));
        let good = Some((Addresses::from([ip("192.0.2.9")]), old));
        names.lock().insert(asked.clone(), DnsEntry { good, failed, ..DnsEntry::new(old) });
        match names.step(&asked, ip("10.0.0.1"), now) {
            CacheStep::Known(known) => assert_eq!(known.unwrap()[0], ip("192.0.2.9")),
            CacheStep::Wait { .. } => panic!("waits"),
        }
        drop(release);
    }

    #[tokio::test]
    async fn look_ups_that_nobody_waits_for_any_more_are_not_made() {
        let (names, release) = silent();
        let many: Vec<_> = (0..20).map(|index| name(&format!("s{index}.example"))).collect();
        for name in &many {
            let waits = names.look_up(name, ip("10.0.0.66"));
            let _ = tokio::time::timeout(Duration::from_millis(1), waits).await;
        }
        drop(release);
        while names.lock().values().any(|entry| entry.look_up.is_some()) {
            tokio::task::yield_now().await;
        }
        let made = names.lock().values().filter(|entry| entry.good.is_some()).count();
        assert!(made <= THREADS_PER_NETWORK, "{made}");
    }

    #[tokio::test]
    async fn remembers_a_bounded_number_of_names() {
        let names = names(|_| Ok(vec![ip("192.0.2.1")]));
        for index in 0..MAX_DNS_ENTRIES + 50 {
            look_up(&names, &name(&format!("n{index}.example"))).await.unwrap();
        }
        assert_eq!(names.lock().len(), MAX_DNS_ENTRIES);
        assert!(!names.lock().contains_key(&name("n0.example")));
    }
}
