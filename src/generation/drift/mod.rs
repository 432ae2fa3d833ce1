//! Comparison of the configurations of two gateways that should be equal, by the name and a keyed
//! hash of each item.
//!
//! In: a configuration, the contents of its files, the shared secret. Out: a [`ConfigDigest`],
//! which answers another gateway and evaluates its answer. Never: reveals a value, or a hash that
//! can be tested without the secret.

mod items;
mod wire;

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use serde::{Deserialize, Serialize};

use crate::config::problem::{Problem, Span};
use crate::message::RequestHead;
use crate::tls::SharedSecrets;
use crate::units::display_hex;

use super::Generation;
use items::DriftItem;
use wire::{DriftAnswer, DriftKey};

pub use wire::REQUEST_FIELD;

/// Purpose in the derivation of the keys. A new format needs a new name.
const KEY_PURPOSE: &str = "drift 1";

/// Bytes of each hash that are sent.
const HASH_LEN: usize = 16;

/// Largest answer, in bytes: about 50,000 items.
pub const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// Classes of differences.
pub const CLASSES: [&str; 5] = ["configuration", "certificates", "secrets", "users", "version"];

/// Digest of a configuration, for comparison with that of another gateway.
pub struct ConfigDigest {
    items: Vec<DriftItem>,
    /// One per secret.
    by_secret: Vec<KeyedDigest>,
    /// Patterns of items that are allowed to differ.
    allowed: Vec<(String, Span)>,
}

/// The digest keyed with one secret, for gateways that know this secret.
struct KeyedDigest {
    wire: DriftKey,
    /// A JSON list of [`DigestRow`].
    body: String,
    digest: Vec<u8>,
}

/// Class, name and keyed hash.
type DigestRow = (String, String, String);

/// Result of the last comparison with a peer.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// Not compared yet.
    #[default]
    Waiting,
    /// No item differs, except those that are allowed to.
    Alike,
    /// Some items differ.
    Differs,
    /// The peer did not answer.
    Unreachable,
    /// The answer cannot be verified.
    Unverified,
    /// The clocks differ by too much.
    Clock,
    /// The address leads back to this gateway.
    Itself,
}

impl PeerState {
    /// The stable word, as shown in output and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Alike => "alike",
            Self::Differs => "differs",
            Self::Unreachable => "unreachable",
            Self::Unverified => "unverified",
            Self::Clock => "clock",
            Self::Itself => "itself",
        }
    }
}

/// One item that differs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DriftDifference {
    /// One of [`CLASSES`].
    pub class: String,
    /// Name of the item, as in `ignore` patterns: `profile.lan.hosts`.
    pub what: String,
    /// `differs`, `only here` or `only there`.
    pub how: String,
    /// The local value and its place in the configuration; empty for secrets and for items of the
    /// peer.
    pub here: String,
}

/// A gateway that this one is compared with.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct DriftPeer {
    /// Host and port.
    pub peer: String,
    /// Result of the last comparison.
    pub state: PeerState,
    /// Explanation for people; empty after a successful comparison.
    pub detail: String,
    /// Time of the last comparison, in seconds since 1970; 0 if there was none.
    pub compared: i64,
    /// Differences found by the last comparison.
    pub differences: Vec<DriftDifference>,
}

impl ConfigDigest {
    /// Computes the digest of a generation. Blocks: hashes every key of the configuration.
    pub(super) fn new(generation: &Generation, secrets: &SharedSecrets) -> Self {
        let items = items::collect(generation, secrets);
        let keys = secrets.keys(KEY_PURPOSE, &[b"wire"]).zip(secrets.keys(KEY_PURPOSE, &[b"item"]));
        let by_secret = keys.map(|(wire, item)| KeyedDigest::new(&items, &wire, &item)).collect();
        let drift = generation.config.drift.as_ref();
        let allowed = drift.map_or(Vec::new(), |drift| drift.ignore.clone());
        Self { items, by_secret, allowed }
    }

    /// Warnings about `ignore` patterns that match no item.
    pub(super) fn unused_patterns(&self) -> impl Iterator<Item = Problem> {
        let unused = self
            .allowed
            .iter()
            .filter(|(pattern, _)| !self.items.iter().any(|item| matches(pattern, &item.what)));
        unused.map(|(pattern, place)| {
            Problem::warning("drift.differs", *place, format!("no item matches `{pattern}`"))
                .with_label("this pattern has no effect")
                .with_help("`app-gateway drift` shows the names; `*` matches any text")
        })
    }

    /// The answer to a request; `None` unless it is authenticated with a secret of this gateway.
    #[must_use]
    pub fn answer(&self, head: &RequestHead) -> Option<String> {
        self.answer_at(head.fields.named(REQUEST_FIELD)?, now())
    }

    fn answer_at(&self, question: &[u8], now: i64) -> Option<String> {
        self.by_secret.iter().find_map(|keyed| {
            let time = keyed.wire.verify_question(question)?;
            Some(keyed.wire.answer((question, time), now, (&keyed.body, &keyed.digest)))
        })
    }

    /// Whether a request is authenticated with a secret of this gateway.
    #[must_use]
    pub fn is_authenticated(&self, head: &RequestHead) -> bool {
        let question = head.fields.named(REQUEST_FIELD);
        question.is_some_and(|text| {
            self.by_secret.iter().any(|keyed| keyed.wire.verify_question(text).is_some())
        })
    }

    /// A new question for another gateway; `None` if the system has no random numbers.
    #[must_use]
    pub fn question(&self) -> Option<String> {
        self.by_secret.first()?.wire.question(now())
    }

    /// Evaluates the answer to a question: state, explanation, differences.
    #[must_use]
    pub fn judge(
        &self,
        question: &str,
        answer: &[u8],
    ) -> (PeerState, String, Vec<DriftDifference>) {
        let failed = |state, why: &str| (state, why.to_owned(), Vec::new());
        let unverified = "its answer was not made with the same secret";
        let Some(keyed) = self.by_secret.first() else {
            return failed(PeerState::Unverified, unverified);
        };
        match keyed.wire.verify_answer(question, answer, now()) {
            None => failed(PeerState::Unverified, unverified),
            Some(DriftAnswer::Itself) => {
                failed(PeerState::Itself, "the address is this gateway itself")
            }
            Some(DriftAnswer::Clock(ahead)) => {
                let way = if ahead < 0 { "behind" } else { "ahead" };
                failed(PeerState::Clock, &format!("its clock is {} s {way}", ahead.unsigned_abs()))
            }
            Some(DriftAnswer::Sheet(body)) => {
                match serde_json::from_slice::<Vec<DigestRow>>(body) {
                    Err(_) => failed(PeerState::Unverified, "its answer cannot be read"),
                    Ok(rows) => {
                        let differences = self.compare(keyed, rows);
                        let alike = differences.is_empty();
                        let state = if alike { PeerState::Alike } else { PeerState::Differs };
                        (state, String::new(), differences)
                    }
                }
            }
        }
    }

    fn compare(&self, keyed: &KeyedDigest, theirs: Vec<DigestRow>) -> Vec<DriftDifference> {
        let ours: Vec<DigestRow> = serde_json::from_str(&keyed.body).unwrap_or_default();
        // Only known classes are kept, because they become metric labels. Names are cleaned below,
        // because they are written to the log.
        let theirs = theirs.into_iter().filter(|(class, ..)| CLASSES.contains(&class.as_str()));
        let mut theirs: BTreeMap<_, _> =
            theirs.map(|(class, what, hash)| ((class, what), hash)).collect();
        let mut found = Vec::new();
        for ((class, what, hash), item) in ours.into_iter().zip(&self.items) {
            let how = match theirs.remove(&(class.clone(), what.clone())) {
                Some(there) if there == hash => continue,
                Some(_) => "differs",
                None => "only here",
            };
            let here = item.here.clone();
            found.push(DriftDifference { class, what, how: how.to_owned(), here });
        }
        found.extend(theirs.into_keys().map(|(class, what)| DriftDifference {
            class,
            what: what.replace(char::is_control, "?"),
            how: "only there".to_owned(),
            here: String::new(),
        }));
        found.retain(|one| !self.allowed.iter().any(|(pattern, _)| matches(pattern, &one.what)));
        found
    }
}

impl KeyedDigest {
    fn new(items: &[DriftItem], wire: &[u8; 32], key: &[u8; 32]) -> Self {
        let key = Key::new(HMAC_SHA256, key);
        let row = |item: &DriftItem| -> DigestRow {
            let name = [item.class, "\0", &item.what, "\0"].concat();
            let hash = sign(&key, &[name.as_bytes(), &item.value].concat());
            let sent = hash.as_ref().get(..HASH_LEN).unwrap_or_default();
            (item.class.to_owned(), item.what.clone(), display_hex(sent))
        };
        let rows: Vec<DigestRow> = items.iter().map(row).collect();
        let body = serde_json::json!(rows).to_string();
        let digest = digest(&SHA256, body.as_bytes()).as_ref().to_vec();
        Self { wire: DriftKey::new(wire), body, digest }
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Whether a pattern matches a name; `*` matches any text.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    true
}

#[cfg(test)]
mod tests;
