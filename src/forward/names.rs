//! Names of destinations to addresses, by the system's resolver, off the workers, remembered for a
//! short while.
//!
//! `getaddrinfo` does not say how long an answer holds, so all hold for half a minute, the time
//! after which configured endpoints are looked up again too. A name in use is looked up anew
//! before that, so that nobody waits for it. When the resolver fails, the last good answer is used
//! for up to an hour: an outage of the DNS must not become one of the chat.
//!
//! An answer is only what the name claims; each address of it still has to pass the guard.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::Histogram;
use tokio::sync::oneshot;

use crate::addr::Name;
use crate::net::aside::Aside;

/// How long an answer holds.
const FRESH: Duration = Duration::from_secs(30);
/// Older than this, an answer that is asked for is looked up anew while it still holds.
const AGEING: Duration = Duration::from_secs(20);
/// How long the last good answer is used while the resolver fails.
const KEPT: Duration = Duration::from_secs(3600);
/// How long a failure holds.
const FAILED: Duration = Duration::from_secs(5);
/// Names remembered.
const MOST: usize = 2048;
/// Addresses of a name that are looked at.
const MOST_ADDRESSES: usize = 32;
/// Look-ups at a time.
const THREADS: usize = 16;

/// The addresses of a name.
pub(super) type Addresses = Arc<[IpAddr]>;

/// Looks a name up, and may block.
type Resolve = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// What is known of names; shared by the workers.
pub(super) struct Names {
    known: Mutex<HashMap<Name, Entry>>,
    aside: Aside,
    resolve: Box<Resolve>,
    seconds: Histogram,
}

/// Why a name has no address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum NoAddress {
    /// What the resolver said.
    #[error("{0}")]
    Resolver(Arc<str>),
    /// Too many look-ups are waiting.
    #[error("too many names are being looked up")]
    Busy,
}

struct Entry {
    good: Option<(Addresses, Instant)>,
    failed: Option<(NoAddress, Instant)>,
    asked: Instant,
    /// Those who wait for the look-up that is on its way, if one is.
    waiting: Option<Vec<oneshot::Sender<Result<Addresses, NoAddress>>>>,
}

enum Step {
    Known(Result<Addresses, NoAddress>),
    Wait(oneshot::Receiver<Result<Addresses, NoAddress>>),
}

impl Names {
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
            aside: Aside::new(THREADS, "resolver"),
            resolve: Box::new(resolve),
            seconds,
        })
    }

    /// The addresses of `name`, never none.
    ///
    /// # Errors
    ///
    /// [`NoAddress`], if there is no answer, nor a good one of the last hour.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the look-up to its end; others may wait for it.
    pub(super) async fn look_up(self: &Arc<Self>, name: &Name) -> Result<Addresses, NoAddress> {
        match self.step(name, Instant::now()) {
            Step::Known(result) => result,
            // The look-up always answers, unless its thread is gone.
            Step::Wait(answer) => answer.await.unwrap_or(Err(NoAddress::Busy)),
        }
    }

    /// What is known of `name`; a look-up is on its way when that is nothing, or ageing.
    fn step(self: &Arc<Self>, name: &Name, now: Instant) -> Step {
        let mut known = self.lock();
        if !known.contains_key(name) {
            make_room(&mut known);
        }
        let entry = known.entry(name.clone()).or_insert_with(|| Entry::new(now));
        entry.asked = now;
        let held = entry.held(now);
        let ageing = entry.good.as_ref().is_none_or(|(_, at)| now >= *at + AGEING);
        let failed = entry.failed.as_ref().is_some_and(|(_, at)| now < *at + FAILED);
        if !ageing || (failed && held.is_some()) {
            return Step::Known(held.unwrap_or(Err(NoAddress::Busy)));
        }
        let begun = entry.waiting.is_some() || self.begin(name.clone());
        if !begun {
            return Step::Known(entry.last_good(now).ok_or(NoAddress::Busy));
        }
        let waiting = entry.waiting.get_or_insert_default();
        if let Some(held) = held {
            return Step::Known(held);
        }
        let (sender, answer) = oneshot::channel();
        waiting.push(sender);
        Step::Wait(answer)
    }

    /// Begins a look-up on a thread of its own.
    fn begin(self: &Arc<Self>, name: Name) -> bool {
        let own = Arc::clone(self);
        self.aside.start(move || {
            let start = Instant::now();
            let found = (own.resolve)(name.as_str());
            own.seconds.observe(start.elapsed().as_secs_f64());
            own.answer(&name, found, Instant::now());
        })
    }

    fn answer(&self, name: &Name, found: io::Result<Vec<IpAddr>>, now: Instant) {
        let found = match found {
            Ok(mut ips) if !ips.is_empty() => {
                ips.truncate(MOST_ADDRESSES);
                Ok(Addresses::from(ips))
            }
            Ok(_) => Err(NoAddress::Resolver("there is no address".into())),
            Err(error) => Err(NoAddress::Resolver(error.to_string().into())),
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
        for waiting in entry.waiting.take().into_iter().flatten() {
            // Whoever asked may have gone.
            let _ = waiting.send(result.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self { good: None, failed: None, asked: now, waiting: None }
    }

    /// What may be answered without a look-up.
    fn held(&self, now: Instant) -> Option<Result<Addresses, NoAddress>> {
        if let Some((addresses, at)) = &self.good
            && now < *at + FRESH
        {
            return Some(Ok(Arc::clone(addresses)));
        }
        let (error, at) = self.failed.as_ref()?;
        (now < *at + FAILED).then(|| self.last_good(now).ok_or_else(|| error.clone()))
    }

    fn last_good(&self, now: Instant) -> Option<Addresses> {
        let (addresses, at) = self.good.as_ref()?;
        (now < *at + KEPT).then(|| Arc::clone(addresses))
    }
}

/// Forgets the name that was asked for longest ago, if there are too many. Not one that somebody
/// waits for.
fn make_room(known: &mut HashMap<Name, Entry>) {
    if known.len() < MOST {
        return;
    }
    let idle = known.iter().filter(|(_, entry)| entry.waiting.is_none());
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

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn names(
        resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Arc<Names> {
        let seconds = Histogram::with_opts(HistogramOpts::new("a", "b")).unwrap();
        Names::with(seconds, resolve)
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
        let (a, b) = tokio::join!(names.look_up(&asked), names.look_up(&asked));
        assert_eq!(a.unwrap(), b.unwrap());
        assert_eq!(names.look_up(&asked).await.unwrap()[1], ip("2001:db8::1"));
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
        names.look_up(&asked).await.unwrap();
        // As if half a minute had passed.
        let at = Instant::now();
        let answered = names.lock().get(&asked).unwrap().good.clone().unwrap().0;
        for how in [1, 2] {
            fails.store(how, Ordering::SeqCst);
            let error = (names.resolve)("a.example");
            names.answer(&asked, error, at);
            let entry = names.lock();
            let entry = entry.get(&asked).unwrap();
            let old = entry.held(at + FRESH + Duration::from_secs(1));
            assert!(old.is_none());
            assert_eq!(entry.last_good(at + FRESH).unwrap(), answered);
            assert_eq!(entry.last_good(at + KEPT), None);
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
            assert_eq!(names.look_up(&asked).await, Err(NoAddress::Resolver("NXDOMAIN".into())));
        }
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn an_ageing_answer_is_given_and_looked_up_behind_it() {
        let names = names(|_| Ok(vec![ip("192.0.2.2")]));
        let asked = name("a.example");
        let now = Instant::now();
        let old =
            Entry { good: Some((Addresses::from([ip("192.0.2.1")]), now)), ..Entry::new(now) };
        names.lock().insert(asked.clone(), old);
        let Step::Known(Ok(given)) = names.step(&asked, now + AGEING) else { panic!("waits") };
        assert_eq!(given[0], ip("192.0.2.1"));
        let (sender, answer) = oneshot::channel();
        let entry = names.lock().get_mut(&asked).map(|entry| entry.waiting.take());
        // Unless it has come already.
        if let Some(Some(mut waiting)) = entry {
            waiting.push(sender);
            names.lock().get_mut(&asked).unwrap().waiting = Some(waiting);
            let _ = answer.await;
        }
        let Step::Known(Ok(given)) = names.step(&asked, now + AGEING) else { panic!("waits") };
        assert_eq!(given[0], ip("192.0.2.2"));
    }

    #[tokio::test]
    async fn remembers_a_bounded_number_of_names() {
        let names = names(|_| Ok(vec![ip("192.0.2.1")]));
        for index in 0..MOST + 50 {
            names.look_up(&name(&format!("n{index}.example"))).await.unwrap();
        }
        assert_eq!(names.lock().len(), MOST);
        assert!(!names.lock().contains_key(&name("n0.example")));
    }
}
