//! TLS session tickets, sealed with keys that rotate by the clock, without a lock.
//!
//! Time is divided into epochs of equal length, counted from 1970, and each epoch has its own key.
//! Gateways with a shared secret derive the key from it ([`SharedSecrets`]), so each can open
//! tickets of another: those of the current epoch, and of the epochs before and after, in case
//! their clocks differ. Without a shared secret the key is random; that of the previous epoch is
//! kept, and older ones are discarded ([`LocalKeys`]).
//!
//! ```text
//! ticket = name (16) | salt (16) | nonce (12) | AES-256-GCM(session) | tag (16)
//! ```
//!
//! Each ticket is sealed with its own key, HMAC-SHA256(key of the epoch, salt), so no number of
//! tickets comes near the limit of one key with random nonces (NIST SP 800-38D section 8.3).
//!
//! A ticket is valid only in the scope it was sealed for. A client must not avoid the client
//! certificate of one listener with a ticket of another.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::{hmac, rand};
use rustls::server::ProducesTickets;
use rustls_pki_types::CertificateDer;

use crate::base64;

use super::secret::{SharedSecrets, derived, random};

/// Lengths of the parts of a ticket, in bytes.
const NAME_LEN: usize = 16;
const SALT_LEN: usize = 16;
const HEAD_LEN: usize = NAME_LEN + SALT_LEN + NONCE_LEN;

const KEY_PURPOSE: &str = "tickets";

/// Seconds since 1970.
type EpochClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Source of the keys.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A secret shared with other gateways.
    Shared(Arc<SharedSecrets>),
    /// Random keys of this process, or those it received from its parent in a binary upgrade.
    Local(Arc<LocalKeys>),
}

/// The set of listeners and clients for which a ticket is valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TicketScope([u8; 32]);

impl TicketScope {
    /// The scope of a profile or the forward proxy, with its settings for client certificates.
    #[must_use]
    pub fn new(profile: &str, clients: Option<&(Vec<CertificateDer<'static>>, bool)>) -> Self {
        let mut hash = Context::new(&SHA256);
        let mut add = |part: &[u8]| {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        add(profile.as_bytes());
        if let Some((authorities, required)) = clients {
            add(&[u8::from(*required)]);
            for authority in authorities {
                add(authority);
            }
        }
        let mut scope = [0; 32];
        scope.copy_from_slice(hash.finish().as_ref());
        Self(scope)
    }
}

/// Seals and opens the tickets of one scope.
pub struct SessionTickets {
    source: KeySource,
    scope: TicketScope,
    /// Length of an epoch, in seconds; at least 1.
    length: u64,
    clock: EpochClock,
    held: ArcSwapOption<EpochKeys>,
}

/// The keys of an epoch and its neighbours. The first one seals new tickets.
struct EpochKeys {
    epoch: u64,
    keys: Vec<TicketKey>,
}

struct TicketKey {
    name: [u8; NAME_LEN],
    sealing: hmac::Key,
}

impl SessionTickets {
    /// Tickets for a scope. `epoch` is the length of an epoch, at least a second.
    #[must_use]
    pub fn new(source: KeySource, scope: TicketScope, epoch: Duration) -> Arc<Self> {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |past| past.as_secs());
        Self::by_clock(source, scope, epoch, Arc::new(now))
    }

    fn by_clock(
        source: KeySource,
        scope: TicketScope,
        epoch: Duration,
        clock: EpochClock,
    ) -> Arc<Self> {
        let length = epoch.as_secs().max(1);
        Arc::new(Self { source, scope, length, clock, held: ArcSwapOption::empty() })
    }

    /// The keys of the current epoch. If two workers replace outdated keys at once, both compute
    /// the same.
    fn held(&self) -> Arc<EpochKeys> {
        let epoch = (self.clock)() / self.length;
        if let Some(held) = &*self.held.load()
            && held.epoch == epoch
        {
            return Arc::clone(held);
        }
        let fresh = Arc::new(EpochKeys { epoch, keys: self.keys(epoch) });
        self.held.store(Some(Arc::clone(&fresh)));
        fresh
    }

    fn keys(&self, epoch: u64) -> Vec<TicketKey> {
        match &self.source {
            KeySource::Shared(secrets) => [Some(epoch), epoch.checked_sub(1), epoch.checked_add(1)]
                .into_iter()
                .flatten()
                .flat_map(|epoch| {
                    let number = epoch.to_be_bytes();
                    let context: [&[u8]; 2] = [&self.scope.0, &number];
                    secrets
                        .keys(KEY_PURPOSE, &context)
                        .map(|key| TicketKey::new(&key))
                        .collect::<Vec<_>>()
                })
                .collect(),
            KeySource::Local(local) => {
                let random = local.at(epoch);
                let both = [random.current, random.previous].into_iter().flatten();
                both.map(|key| TicketKey::new(&derived(&key, KEY_PURPOSE, &[&self.scope.0])))
                    .collect()
            }
        }
    }
}

impl TicketKey {
    fn new(key: &[u8; 32]) -> Self {
        let mut name = [0; NAME_LEN];
        let whole = derived(key, "name", &[]);
        name.copy_from_slice(&whole[..NAME_LEN]);
        Self { name, sealing: hmac::Key::new(hmac::HMAC_SHA256, &derived(key, "sealing", &[])) }
    }

    /// Derives the key of one ticket.
    fn ticket_key(&self, salt: &[u8]) -> Option<LessSafeKey> {
        let key = hmac::sign(&self.sealing, salt);
        Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).ok()?))
    }
}

impl fmt::Debug for SessionTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("source", &self.source).finish_non_exhaustive()
    }
}

impl ProducesTickets for SessionTickets {
    fn enabled(&self) -> bool {
        true
    }

    /// The guaranteed lifetime of a ticket, in seconds: a ticket sealed in the last second of an
    /// epoch can be opened for one more epoch.
    fn lifetime(&self) -> u32 {
        u32::try_from(self.length).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let held = self.held();
        let key = held.keys.first()?;
        let mut ticket = vec![0; HEAD_LEN];
        ticket.get_mut(..NAME_LEN)?.copy_from_slice(&key.name);
        rand::fill(ticket.get_mut(NAME_LEN..)?).ok()?;
        let sealing = key.ticket_key(ticket.get(NAME_LEN..NAME_LEN + SALT_LEN)?)?;
        let nonce = Nonce::try_assume_unique_for_key(ticket.get(NAME_LEN + SALT_LEN..)?).ok()?;
        let mut sealed = plain.to_vec();
        let aad = Aad::from(ticket.get(..NAME_LEN)?);
        sealing.seal_in_place_append_tag(nonce, aad, &mut sealed).ok()?;
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_LEN)?;
        let (salt, rest) = rest.split_at_checked(SALT_LEN)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let held = self.held();
        let same = |key: &&TicketKey| verify_slices_are_equal(&key.name, name).is_ok();
        let opening = held.keys.iter().find(same)?.ticket_key(salt)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = sealed.to_vec();
        let length = opening.open_in_place(nonce, Aad::from(name), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

/// Random keys of this process, of the current and the previous epoch. They are kept only in
/// memory, and passed to the child of a binary upgrade.
#[derive(Default)]
pub struct LocalKeys(ArcSwap<RandomKey>);

#[derive(Clone, Copy, Default)]
struct RandomKey {
    epoch: u64,
    current: Option<[u8; 32]>,
    previous: Option<[u8; 32]>,
}

impl fmt::Debug for LocalKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Local")
    }
}

impl LocalKeys {
    /// The keys of an epoch, which are generated when it begins. If the clock goes back by up to
    /// one epoch, the keys stay. If it goes back further, they are replaced, so that no key is used
    /// for too long.
    fn at(&self, epoch: u64) -> RandomKey {
        let goes_on = |held: &RandomKey| {
            held.current.is_some()
                && (held.epoch == epoch || epoch.checked_add(1) == Some(held.epoch))
        };
        if !goes_on(&self.0.load()) {
            // A worker that is not the first uses the keys generated by the first.
            self.0.rcu(|held| {
                if goes_on(held) {
                    return Arc::clone(held);
                }
                let follows = held.epoch.checked_add(1) == Some(epoch);
                Arc::new(RandomKey {
                    epoch,
                    current: random().ok(),
                    previous: held.current.filter(|_| follows),
                })
            });
        }
        **self.0.load()
    }

    /// Encodes the keys in one line, for the child of a binary upgrade. `None` if no ticket was
    /// sealed yet.
    #[must_use]
    pub fn export(&self) -> Option<String> {
        let held = **self.0.load();
        let keys = [held.current, held.previous].into_iter().flatten();
        let keys: Vec<_> = keys.map(|key| base64::encode(&key)).collect();
        (!keys.is_empty()).then(|| format!("{} {}", held.epoch, keys.join(" ")))
    }

    /// Takes over the keys of the parent of a binary upgrade. Returns whether they could be parsed.
    pub fn import(&self, exported: &str) -> bool {
        let mut words = exported.split(' ');
        let epoch = words.next().and_then(|word| word.parse().ok());
        let mut key =
            || words.next().and_then(|word| base64::decode(word.as_bytes())?.try_into().ok());
        let (Some(epoch), Some(current)) = (epoch, key()) else { return false };
        self.0.store(Arc::new(RandomKey { epoch, current: Some(current), previous: key() }));
        true
    }
}

#[cfg(test)]
mod tests;
