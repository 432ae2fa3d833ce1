//! Session table: the endpoint of each Socket.IO session, in a bounded table that all workers share
//! without a lock.
//!
//! A session is one word: 32 bits of a keyed hash of its id, the endpoint's number, and the time of
//! its last request. Hash collisions are as rare as one in a billion look-ups; the session then
//! goes to an endpoint that does not know it, which says so, and the client reconnects.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::engine_io::{SidReader, SidSearch};
use super::exchange::BodyTap;

/// Places a session may be in.
const SET_SIZE: usize = 8;

/// Groups of places: 65,536 sessions in half a megabyte, allocated with the first.
const SET_COUNT: usize = 8192;

/// Seconds in a unit of time.
const TIME_UNIT_SECONDS: u64 = 4;

/// Bits of the time, and of an endpoint's number.
const TIME_BITS: u32 = 20;
const NUMBER_BITS: u32 = 12;

/// Units after which a session that was not seen is forgotten: 10 minutes. A poll comes at least
/// every ping interval; a WebSocket needs no entry once it is open.
const EXPIRY_UNITS: u64 = 150;

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    slots: OnceLock<Box<[AtomicU64]>>,
    hasher: RandomState,
    birth: Instant,
    /// Labels of all endpoints there ever were, by number.
    numbers: Mutex<Vec<Arc<str>>>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            slots: OnceLock::new(),
            hasher: RandomState::new(),
            birth: Instant::now(),
            numbers: Mutex::default(),
        }
    }
}

impl Sessions {
    /// Number of an endpoint, constant while the program runs. Takes a lock: only for compiling a
    /// configuration.
    pub fn number(&self, label: &Arc<str>) -> u16 {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = numbers.iter().position(|known| known == label);
        let number = known.unwrap_or_else(|| {
            numbers.push(Arc::clone(label));
            numbers.len() - 1
        });
        // After 4096 endpoints numbers are used again, and old sessions of the first are lost.
        u16::try_from(number % (1 << NUMBER_BITS)).unwrap_or_default()
    }

    /// The number of the endpoint that a session is on.
    #[must_use]
    pub fn find(&self, id: &[u8]) -> Option<u16> {
        let slots = self.slots.get()?;
        let (set, tag) = place(self.key(id));
        let now = self.now();
        for slot in slots.get(set..set + SET_SIZE)? {
            let word = slot.load(Ordering::Relaxed);
            if tag_of(word) == tag && age(word, now) < EXPIRY_UNITS {
                if age(word, now) > 0 {
                    let seen = packed(tag, now, number_of(word));
                    // Another worker may have updated or replaced the entry, and then its value
                    // stays.
                    let (ours, theirs) = (Ordering::Relaxed, Ordering::Relaxed);
                    let _ = slot.compare_exchange(word, seen, ours, theirs);
                }
                return Some(number_of(word));
            }
        }
        None
    }

    /// Key of a session, for [`Sessions::learn_of`].
    #[must_use]
    pub fn key(&self, id: &[u8]) -> u64 {
        self.hasher.hash_one(id)
    }

    /// Records that a session is on an endpoint. If there is no room, the one that was not seen for
    /// longest is forgotten.
    pub fn learn(&self, id: &[u8], number: u16) {
        self.learn_of(self.key(id), number);
    }

    /// The same, by [`Sessions::key`].
    pub fn learn_of(&self, key: u64, number: u16) {
        let fresh = || (0..SET_COUNT * SET_SIZE).map(|_| AtomicU64::new(0)).collect();
        let slots = self.slots.get_or_init(fresh);
        let (set, tag) = place(key);
        let now = self.now();
        let Some(set) = slots.get(set..set + SET_SIZE) else { return };
        let role = |slot: &&AtomicU64| {
            let word = slot.load(Ordering::Relaxed);
            match tag_of(word) {
                known if known == tag => 0,
                0 => 1,
                _ => u64::MAX - age(word, now),
            }
        };
        if let Some(slot) = set.iter().min_by_key(role) {
            slot.store(packed(tag, now, number), Ordering::Relaxed);
        }
    }

    /// Number of known sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        let now = self.now();
        let slots = self.slots.get().map_or(&[][..], |slots| slots);
        let live = |slot: &&AtomicU64| {
            let word = slot.load(Ordering::Relaxed);
            word != 0 && age(word, now) < EXPIRY_UNITS
        };
        slots.iter().filter(live).count()
    }

    /// Whether it knows of none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn now(&self) -> u64 {
        (self.birth.elapsed().as_secs() / TIME_UNIT_SECONDS) & ((1 << TIME_BITS) - 1)
    }
}

fn place(key: u64) -> (usize, u64) {
    let set = usize::try_from(key % SET_COUNT as u64).unwrap_or_default() * SET_SIZE;
    (set, (key >> 32).max(1))
}

fn packed(tag: u64, time: u64, number: u16) -> u64 {
    (tag << 32) | (time << NUMBER_BITS) | u64::from(number)
}

fn tag_of(word: u64) -> u64 {
    word >> 32
}

fn number_of(word: u64) -> u16 {
    u16::try_from(word & ((1 << NUMBER_BITS) - 1)).unwrap_or_default()
}

/// Units since it was seen; the clock goes round every 48 days.
fn age(word: u64, now: u64) -> u64 {
    let seen = (word >> NUMBER_BITS) & ((1 << TIME_BITS) - 1);
    now.wrapping_sub(seen) & ((1 << TIME_BITS) - 1)
}

/// Learns the session that an answer opens, from its first bytes, before they are passed on: the
/// client's next request may come to another worker.
pub struct SessionLearner {
    upstream_state: Arc<super::balance::UpstreamState>,
    number: u16,
    reader: SidReader,
}

impl SessionLearner {
    /// Creates a reader for an answer of this endpoint.
    #[must_use]
    pub fn new(upstream_state: Arc<super::balance::UpstreamState>, number: u16) -> Box<Self> {
        Box::new(Self { upstream_state, number, reader: SidReader::default() })
    }
}

impl BodyTap for SessionLearner {
    fn read(&mut self, piece: &[u8]) -> bool {
        match self.reader.read(piece) {
            SidSearch::Id(id) => {
                self.upstream_state.sessions.learn(id, self.number);
                true
            }
            SidSearch::Never => true,
            SidSearch::NotYet => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_where_sessions_are() {
        let sessions = Sessions::default();
        assert_eq!(sessions.find(b"a"), None);
        for number in 0..3000_u16 {
            sessions.learn(format!("sid-{number}").as_bytes(), number % 7);
        }
        let lost = (0..3000_u16)
            .filter(|n| sessions.find(format!("sid-{n}").as_bytes()) != Some(n % 7))
            .count();
        assert_eq!(lost, 0, "there is room for many more");
        assert_eq!(sessions.len(), 3000);
        sessions.learn(b"sid-1", 9);
        assert_eq!((sessions.find(b"sid-1"), sessions.len()), (Some(9), 3000));
    }

    #[test]
    fn is_bounded() {
        let sessions = Sessions::default();
        for number in 0..200_000_u32 {
            sessions.learn(&number.to_le_bytes(), 1);
        }
        assert!(sessions.len() <= SET_COUNT * SET_SIZE);
        assert_eq!(sessions.find(&199_999_u32.to_le_bytes()), Some(1));
    }

    #[test]
    fn forgets_after_a_while() {
        let word = packed(7, 100, 3);
        assert_eq!((age(word, 100), age(word, 250)), (0, 150));
        assert_eq!(age(packed(7, (1 << TIME_BITS) - 1, 3), 1), 2, "across the end of the clock");
        assert_eq!((tag_of(word), number_of(word)), (7, 3));
    }

    #[test]
    fn endpoints_keep_their_numbers() {
        let sessions = Sessions::default();
        let (a, b) = (Arc::from("a:1"), Arc::from("b:1"));
        assert_eq!([sessions.number(&a), sessions.number(&b), sessions.number(&a)], [0, 1, 0]);
    }
}
