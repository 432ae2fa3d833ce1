//! Users of an htpasswd file, and verification of their passwords.
//!
//! Verifying a password is slow on purpose: a bcrypt hash of cost 10 takes a core for some 50 ms.
//! So there are two steps. [`Users::known`] answers from a cache of recent results, for the price
//! of an HMAC; a right pair stays cached while it is used. [`Users::verify`] computes the hash, and
//! must run on a thread that may block, a few at a time. An unknown user is verified against the
//! hash of some known user, so that timing does not reveal which users exist.
//!
//! The cache holds keyed hashes of right pairs and of wrong pairs in two tables, so that guesses
//! cannot evict users who have logged in.
//!
//! Passwords are never stored, and `known` never blocks.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use aws_lc_rs::rand;
use sha_crypt::{PasswordVerifier as _, ShaCrypt};

/// Lifetime of a right pair after its last use. A password changed in the file stops working at
/// once, because a new file makes a new [`Users`].
const RIGHT_KEPT: Duration = Duration::from_secs(600);

/// Lifetime of a wrong pair.
const WRONG_KEPT: Duration = Duration::from_secs(60);

/// Cached results of each kind.
const MAX_CACHED: usize = 4096;

/// Longest accepted password, in bytes. bcrypt uses 72 of them.
const MAX_PASSWORD_LEN: usize = 512;

/// Largest accepted number of sha-crypt rounds; one verification then takes about a second.
const MAX_ROUNDS: u32 = 1_000_000;

/// Highest accepted bcrypt cost; one verification then takes about a second.
const MAX_COST: u32 = 14;

/// Users that may log in.
pub struct Users {
    /// In the order of the file.
    hashes: Vec<(String, PasswordHash)>,
    by_name: HashMap<String, usize>,
    key: hmac::Key,
    right: Mutex<AnswerCache>,
    wrong: Mutex<AnswerCache>,
}

/// A password hash from the file.
enum PasswordHash {
    /// `$2y$`
    Bcrypt(String),
    /// `$5$`, `$6$`
    ShaCrypt(String),
}

impl PasswordHash {
    /// Whether this is the hash of the password. Slow.
    fn is_of(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::ShaCrypt(hash) => {
                ShaCrypt::default().verify_password(password, hash.as_str()).is_ok()
            }
        }
    }
}

/// A line of the file that cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BadLine {
    /// Number of the line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// The error in that line, and its remedy.
    pub error: LineError,
}

/// Reason a line of the file cannot be used. Holds no text of the file: the line may be a password
/// in the clear, and so may its first part.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LineError {
    /// The file has no users.
    #[error("there is no user in it; add one with `htpasswd -B FILE USER`")]
    NoUser,
    /// The random number generator failed.
    #[error("the system has no random numbers")]
    NoRandomNumbers,
    /// No colon.
    #[error("this is not `user:hash`; add users with `htpasswd -B FILE USER`")]
    NoHash,
    /// The name is empty, or has a control character.
    #[error("the name of the user is empty, or cannot be printed")]
    Name,
    /// A second line of the same user.
    #[error("the user of line {first} is there twice; keep one of the lines")]
    Twice {
        /// Number of the first line, from 1.
        first: usize,
    },
    /// A bcrypt or sha-crypt hash that is incomplete.
    #[error("this {kind} hash is damaged; {REHASH_HELP}")]
    Damaged {
        /// bcrypt or sha-crypt.
        kind: &'static str,
    },
    /// A bcrypt hash that is too slow to verify.
    #[error(
        "a bcrypt hash of cost {cost} would take a core for seconds at every log-in; up to {MAX_COST} is taken"
    )]
    Cost {
        /// Its cost.
        cost: u32,
    },
    /// A sha-crypt hash that is too slow to verify.
    #[error("up to {MAX_ROUNDS} rounds are taken; {REHASH_HELP}")]
    Rounds,
    /// A hash of another kind.
    #[error("its hash is {kind}; {REHASH_HELP} (bcrypt), or `openssl passwd -6` for the hash")]
    Kind {
        /// The kind, from a closed list.
        kind: &'static str,
    },
}

/// Remedy for an unusable hash.
const REHASH_HELP: &str = "replace the line with `htpasswd -B FILE USER`";

/// Recent results, in two halves: when the newer one is full, the older one is discarded.
#[derive(Default)]
struct AnswerCache {
    young: HashMap<[u8; 32], Instant>,
    old: HashMap<[u8; 32], Instant>,
}

impl AnswerCache {
    /// The time at which a pair expires. `None` if it is not cached.
    fn until(&self, tag: &[u8; 32], now: Instant) -> Option<Instant> {
        let kept = self.young.get(tag).or_else(|| self.old.get(tag)).copied();
        kept.filter(|until| now < *until)
    }

    fn keep(&mut self, tag: [u8; 32], until: Instant) {
        if self.young.len() >= MAX_CACHED / 2 && !self.young.contains_key(&tag) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(tag, until);
    }

    /// Extends the lifetime of a pair in use, when half of its time is over or it is in the older
    /// half.
    fn renew(&mut self, tag: [u8; 32], (until, now): (Instant, Instant)) {
        if until < now + RIGHT_KEPT / 2 || !self.young.contains_key(&tag) {
            self.keep(tag, now + RIGHT_KEPT);
        }
    }
}

impl Users {
    /// Parses an htpasswd file: lines of `user:hash`, empty lines, and comments (`#`).
    ///
    /// # Errors
    ///
    /// All unusable lines; a single one with number 0 if there is no user at all.
    pub fn parse(text: &str) -> Result<Self, Vec<BadLine>> {
        let (mut hashes, mut by_name, mut bad) = (Vec::new(), HashMap::new(), Vec::new());
        let mut lines: Vec<usize> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut wrong = |error: LineError| bad.push(BadLine { line: index + 1, error });
            match user(line) {
                Err(error) => wrong(error),
                Ok((name, hash)) => {
                    if let Some(first) = by_name.get(name).and_then(|known| lines.get(*known)) {
                        wrong(LineError::Twice { first: *first });
                        continue;
                    }
                    by_name.insert(name.to_owned(), hashes.len());
                    lines.push(index + 1);
                    hashes.push((name.to_owned(), hash));
                }
            }
        }
        if hashes.is_empty() && bad.is_empty() {
            bad.push(BadLine { line: 0, error: LineError::NoUser });
        }
        let mut key = [0; 32];
        if rand::fill(&mut key).is_err() {
            bad.push(BadLine { line: 0, error: LineError::NoRandomNumbers });
        }
        if !bad.is_empty() {
            return Err(bad);
        }
        Ok(Self {
            hashes,
            by_name,
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            right: Mutex::default(),
            wrong: Mutex::default(),
        })
    }

    /// Whether there is a user of this name.
    #[must_use]
    pub fn contains(&self, user: &str) -> bool {
        self.by_name.contains_key(user)
    }

    /// The names, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.hashes.iter().map(|(name, _)| name.as_str())
    }

    /// Whether the pair is right, if that is in the cache. Fast; holds a lock for one table
    /// look-up.
    #[must_use]
    pub fn known(&self, user: &str, password: &[u8], now: Instant) -> Option<bool> {
        let tag = self.tag(user, password);
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = right.until(&tag, now) {
            right.renew(tag, (until, now));
            return Some(true);
        }
        drop(right);
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.until(&tag, now).map(|_| false)
    }

    /// Whether the pair is right. Uses a core for up to a second, so it must run on a thread that
    /// may block, for few callers at a time.
    #[must_use]
    pub fn verify(&self, user: &str, password: &[u8]) -> bool {
        let tag = self.tag(user, password);
        let own = self.by_name.get(user).copied();
        // An unknown name always uses the same hash of another user, as a known user always uses
        // one hash.
        let stand_in = tag_number(&self.tag(user, b"")) % self.hashes.len().max(1);
        let hash = self.hashes.get(own.unwrap_or(stand_in)).map(|(_, hash)| hash);
        let fits = password.len() <= MAX_PASSWORD_LEN && hash.is_some_and(|h| h.is_of(password));
        let right = fits && own.is_some();
        let (kept, time) =
            if right { (&self.right, RIGHT_KEPT) } else { (&self.wrong, WRONG_KEPT) };
        kept.lock().unwrap_or_else(PoisonError::into_inner).keep(tag, Instant::now() + time);
        right
    }

    /// Keyed hash of the pair. Tables may compare it byte by byte: timing reveals nothing without
    /// the key.
    fn tag(&self, user: &str, password: &[u8]) -> [u8; 32] {
        let mut mac = hmac::Context::with_key(&self.key);
        mac.update(&(user.len() as u64).to_be_bytes());
        mac.update(user.as_bytes());
        mac.update(password);
        mac.sign().as_ref().try_into().unwrap_or_default()
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("number", &self.hashes.len()).finish_non_exhaustive()
    }
}

fn tag_number(tag: &[u8; 32]) -> usize {
    tag.iter().take(4).fold(0, |number, byte| (number << 8) | usize::from(*byte))
}

/// Reads one line.
fn user(line: &str) -> Result<(&str, PasswordHash), LineError> {
    let (name, hash) = line.split_once(':').ok_or(LineError::NoHash)?;
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(LineError::Name);
    }
    hashed(hash).map(|hash| (name, hash))
}

fn hashed(hash: &str) -> Result<PasswordHash, LineError> {
    if ["$2y$", "$2b$", "$2a$"].iter().any(|kind| hash.starts_with(kind)) {
        let Ok(parts) = hash.parse::<bcrypt::HashParts>() else {
            return Err(LineError::Damaged { kind: "bcrypt" });
        };
        return if (4..=MAX_COST).contains(&parts.get_cost()) {
            Ok(PasswordHash::Bcrypt(hash.to_owned()))
        } else {
            Err(LineError::Cost { cost: parts.get_cost() })
        };
    }
    if hash.starts_with("$5$") || hash.starts_with("$6$") {
        let rounds = hash.split('$').nth(2).and_then(|part| part.strip_prefix("rounds="));
        if rounds.is_some_and(|rounds| rounds.parse::<u32>().is_ok_and(|n| n > MAX_ROUNDS)) {
            return Err(LineError::Rounds);
        }
        return if is_sha_crypt(hash) {
            Ok(PasswordHash::ShaCrypt(hash.to_owned()))
        } else {
            Err(LineError::Damaged { kind: "sha-crypt" })
        };
    }
    let kind = match hash {
        _ if hash.starts_with("$apr1$") || hash.starts_with("$1$") => {
            "MD5 (apr1), the default of `htpasswd`: a thousand million guesses a second"
        }
        _ if hash.starts_with("{SHA}") => "SHA-1 without salt",
        _ if hash.starts_with('$') => "of an unknown kind",
        _ if hash.len() == 13 => "DES crypt, which sees eight characters of a password",
        _ => "no hash at all, or a password in the clear",
    };
    Err(LineError::Kind { kind })
}

/// Whether all parts of a sha-crypt hash are there: kind, perhaps rounds, salt, digest.
fn is_sha_crypt(hash: &str) -> bool {
    let mut parts = hash.split('$').skip(1);
    let length = if parts.next() == Some("5") { 43 } else { 86 };
    let mut next = parts.next();
    if let Some(rounds) = next.and_then(|part| part.strip_prefix("rounds=")) {
        if !rounds.parse().is_ok_and(|rounds: u32| (1000..=MAX_ROUNDS).contains(&rounds)) {
            return false;
        }
        next = parts.next();
    }
    let of_its_letters =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'/');
    let salted = next.is_some_and(|salt| (1..=16).contains(&salt.len()) && of_its_letters(salt));
    let digest = parts.next().is_some_and(|hash| hash.len() == length && of_its_letters(hash));
    salted && digest && parts.next().is_none()
}

#[cfg(test)]
mod tests;
