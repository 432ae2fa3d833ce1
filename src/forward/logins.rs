//! Password verification: a fair share of the hashing threads per client network, and a pause after
//! failures.
//!
//! A hash takes a core for up to a second, so guessing must cost the client. A network with failed
//! log-ins may try a few at once and then one every two seconds; cached pairs, right or wrong, are
//! answered from memory and do not count.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::egress::{BasicCredentials, Users};
use crate::net::blocking::BlockingPool;

/// Hashes computed at a time.
const THREADS: usize = 2;
/// Hashes computed at a time for one client network.
const THREADS_PER_NETWORK: usize = 1;
/// Failed log-ins of one network after which it has to pause.
const FAILURES: u32 = 10;
/// Time in which one failed log-in is forgiven.
const FORGIVEN_AFTER: Duration = Duration::from_secs(2);
/// Networks with failures remembered before those are forgotten that have paid.
const MAX_NETWORKS: usize = 1024;

/// Verifies passwords; shared by the workers.
pub(super) struct Logins {
    threads: BlockingPool,
    failures: Arc<Failures>,
}

/// Failed log-ins by client network: when all of them are forgiven.
#[derive(Default)]
struct Failures(Mutex<HashMap<IpAddr, Instant>>);

/// Why a password was not verified.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum NotVerified {
    /// The network has failed too often.
    #[error("too many log-ins of this client network have failed; the next is possible in {} s", .0.as_secs() + 1)]
    Failed(Duration),
    /// Too many passwords are queued for this network.
    #[error("too many passwords of this client network wait to be verified")]
    Busy,
}

impl NotVerified {
    /// When it is worth trying again.
    pub(super) fn retry_after(self) -> Duration {
        match self {
            Self::Failed(pause) => pause,
            Self::Busy => Duration::from_secs(1),
        }
    }
}

impl Logins {
    pub(super) fn new() -> Self {
        let threads = BlockingPool::new(THREADS, THREADS_PER_NETWORK, "passwords");
        Self { threads, failures: Arc::default() }
    }

    /// Whether a pair is right; from memory if it is known.
    ///
    /// # Errors
    ///
    /// [`NotVerified`].
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves a verification to its end.
    pub(super) async fn verify(
        &self,
        users: &Arc<Users>,
        pair: &BasicCredentials,
        network: IpAddr,
    ) -> Result<bool, NotVerified> {
        let now = Instant::now();
        if let Some(known) = users.known(&pair.user, &pair.password, now) {
            return Ok(known);
        }
        self.failures.check(network, now)?;
        let (users, pair, failures) = (Arc::clone(users), pair.clone(), Arc::clone(&self.failures));
        let work = move || {
            // Others of this network may have failed, or found the same, while it was queued.
            let now = Instant::now();
            if let Some(known) = users.known(&pair.user, &pair.password, now) {
                return Ok(known);
            }
            failures.check(network, now)?;
            let right = users.verify(&pair.user, &pair.password);
            if !right {
                failures.note(network, Instant::now());
            }
            Ok(right)
        };
        self.threads.run(network, work).await.unwrap_or(Err(NotVerified::Busy))
    }
}

impl Failures {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a network may try a password now.
    fn check(&self, network: IpAddr, now: Instant) -> Result<(), NotVerified> {
        let forgiven = self.lock().get(&network).copied();
        let left = forgiven.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let pause = left.saturating_sub(FORGIVEN_AFTER * (FAILURES - 1));
        if pause.is_zero() { Ok(()) } else { Err(NotVerified::Failed(pause)) }
    }

    fn note(&self, network: IpAddr, now: Instant) {
        let mut networks = self.lock();
        if networks.len() >= MAX_NETWORKS && !networks.contains_key(&network) {
            networks.retain(|_, forgiven| *forgiven > now);
        }
        let forgiven = networks.entry(network).or_insert(now);
        *forgiven = (*forgiven).max(now) + FORGIVEN_AFTER;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn pair(password: &str) -> BasicCredentials {
        BasicCredentials { user: "ccm".to_owned(), password: password.as_bytes().to_vec() }
    }

    fn users() -> Arc<Users> {
        let hash = bcrypt::hash("geheim", 4).unwrap();
        Arc::new(Users::parse(&format!("ccm:{hash}\n")).unwrap())
    }

    #[tokio::test]
    async fn a_network_that_guesses_has_to_pause_and_nobody_else() {
        let (logins, users) = (Logins::new(), users());
        let mut refused = None;
        for guess in 0..50 {
            match logins.verify(&users, &pair(&guess.to_string()), network(1)).await {
                Ok(right) => assert!(!right),
                Err(error) => refused = refused.or(Some((guess, error))),
            }
        }
        let (first, error) = refused.unwrap();
        assert!((10..=15).contains(&first), "after {first}");
        assert!(matches!(error, NotVerified::Failed(pause) if pause <= FORGIVEN_AFTER), "{error}");
        assert_eq!(logins.verify(&users, &pair("geheim"), network(2)).await, Ok(true));
        // A cached result costs no hash, so it is answered.
        assert_eq!(logins.verify(&users, &pair("geheim"), network(1)).await, Ok(true));
        assert_eq!(logins.verify(&users, &pair("0"), network(1)).await, Ok(false));
    }

    #[test]
    fn failures_are_forgiven_one_after_the_other() {
        let (failures, now) = (Failures::default(), Instant::now());
        for _ in 0..FAILURES {
            assert_eq!(failures.check(network(1), now), Ok(()));
            failures.note(network(1), now);
        }
        assert_eq!(failures.check(network(1), now), Err(NotVerified::Failed(FORGIVEN_AFTER)));
        assert_eq!(failures.check(network(1), now + FORGIVEN_AFTER), Ok(()));
    }

    #[test]
    fn networks_that_have_paid_are_forgotten() {
        let (failures, now) = (Failures::default(), Instant::now());
        for index in 0..20_000_u32 {
            let later = now + Duration::from_secs(u64::from(index));
            failures.note(IpAddr::from((0x0a00_0000 + index).to_be_bytes()), later);
        }
        assert!(failures.lock().len() <= MAX_NETWORKS);
    }

    #[tokio::test]
    async fn guesses_of_one_network_do_not_delay_the_log_in_of_another() {
        let (logins, users) = (Arc::new(Logins::new()), users());
        let guesses: Vec<_> = (0..45)
            .map(|guess: u32| {
                let (logins, users) = (Arc::clone(&logins), Arc::clone(&users));
                tokio::spawn(async move {
                    logins.verify(&users, &pair(&format!("w{guess}")), network(1)).await
                })
            })
            .collect();
        let right = pair("geheim");
        let other = logins.verify(&users, &right, network(2));
        let other = tokio::time::timeout(Duration::from_secs(20), other).await;
        assert_eq!(other.unwrap(), Ok(true));
        let mut failed = 0;
        for guess in guesses {
            failed += usize::from(guess.await.unwrap() == Ok(false));
        }
        assert!(failed <= 15, "{failed} guesses were hashed");
    }
}
