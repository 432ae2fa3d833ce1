//! Wire format of drift comparison: question and answer as text, authenticated with keyed hashes.
//!
//! ```text
//! question = "1 " time " " nonce " " mac                     the field `gateway-drift`
//! answer   = "1 " word " " time " " process " " mac LF body  word: sheet or clock
//! ```
//!
//! The MAC of an answer covers the question, so that an answer cannot be used for another question.
//! Questions have no side effects. A question replayed within two minutes is answered again; an
//! attacker who read one inside TLS learns names and keyed hashes, but no values.
//!
//! In: keys and text. Out: text, or its verified content. Never: lets a peer without the secret
//! distinguish an answer from a missing route.

use std::sync::LazyLock;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
use aws_lc_rs::rand;

use crate::units::display_hex;

/// Request field that carries a question.
pub const REQUEST_FIELD: &str = "gateway-drift";

/// Largest difference between the clocks, in seconds.
const MAX_CLOCK_SKEW: i64 = 120;

/// Longest question, and longest first line of an answer, in bytes.
const MAX_LINE: usize = 256;

const VERSION: &str = "1";
const SHEET: &str = "sheet";
const CLOCK: &str = "clock";

/// Random identifier of this process, by which a gateway recognises its own answers.
static PROCESS: LazyLock<String> = LazyLock::new(|| random().unwrap_or_default());

/// 16 random bytes as hexadecimal digits; `None` if the system has no random numbers.
fn random() -> Option<String> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).ok()?;
    Some(display_hex(&bytes))
}

/// MAC key derived from one secret.
pub(super) struct DriftKey(Key);

/// Verified content of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum DriftAnswer<'a> {
    /// Digest rows of the other gateway, as JSON.
    Sheet(&'a [u8]),
    /// Seconds by which the other clock is ahead; negative if it is behind.
    Clock(i64),
    /// The answer was made by this process.
    Itself,
}

impl DriftKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(Key::new(HMAC_SHA256, key))
    }

    fn mac(&self, parts: [&[u8]; 3]) -> String {
        let mut context = Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        display_hex(context.sign().as_ref())
    }

    /// A new question; `None` if the system has no random numbers.
    pub(super) fn question(&self, now: i64) -> Option<String> {
        let text = format!("{VERSION} {now} {}", random()?);
        let mac = self.mac([b"question", text.as_bytes(), b""]);
        Some(format!("{text} {mac}"))
    }

    /// Time of a question; `None` if it was not made with this secret.
    pub(super) fn verify_question(&self, question: &[u8]) -> Option<i64> {
        if question.len() > MAX_LINE {
            return None;
        }
        let (text, mac) = split_last(question)?;
        let good = self.mac([b"question", text, b""]);
        verify_slices_are_equal(good.as_bytes(), mac).ok()?;
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        if words.next() != Some(VERSION) {
            return None;
        }
        words.next()?.parse().ok()
    }

    /// The answer to a question. `time` is the time in the question, `digest` the hash of `body`.
    pub(super) fn answer(
        &self,
        (question, time): (&[u8], i64),
        now: i64,
        (body, digest): (&str, &[u8]),
    ) -> String {
        self.answer_as(question, &PROCESS, (now, now.abs_diff(time)), (body, digest))
    }

    fn answer_as(
        &self,
        question: &[u8],
        process: &str,
        (now, apart): (i64, u64),
        (body, hash): (&str, &[u8]),
    ) -> String {
        let (word, body, hash) = if apart > MAX_CLOCK_SKEW.unsigned_abs() {
            (CLOCK, "", digest(&SHA256, b"").as_ref().to_vec())
        } else {
            (SHEET, body, hash.to_vec())
        };
        let line = format!("{VERSION} {word} {now} {process}");
        let mac = self.mac([question, line.as_bytes(), &hash]);
        format!("{line} {mac}\n{body}")
    }

    /// Content of an answer to this question; `None` if it was not made with this secret.
    pub(super) fn verify_answer<'a>(
        &self,
        question: &str,
        answer: &'a [u8],
        now: i64,
    ) -> Option<DriftAnswer<'a>> {
        let end = memchr::memchr(b'\n', answer.get(..MAX_LINE.min(answer.len()))?)?;
        let (line, body) = (answer.get(..end)?, answer.get(end + 1..)?);
        let (text, mac) = split_last(line)?;
        let good = self.mac([question.as_bytes(), text, digest(&SHA256, body).as_ref()]);
        verify_slices_are_equal(good.as_bytes(), mac).ok()?;
        let mut words = std::str::from_utf8(text).ok()?.split(' ').skip(1);
        let (word, time, process) = (words.next()?, words.next()?, words.next()?);
        if process == *PROCESS {
            return Some(DriftAnswer::Itself);
        }
        match word {
            SHEET => Some(DriftAnswer::Sheet(body)),
            _ => Some(DriftAnswer::Clock(time.parse::<i64>().ok()?.saturating_sub(now))),
        }
    }
}

fn split_last(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memrchr(b' ', text)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(wire: &DriftKey, question: &str, now: i64) -> Option<String> {
        let time = wire.verify_question(question.as_bytes())?;
        let hash = digest(&SHA256, b"[]");
        let moment = (now, now.abs_diff(time));
        Some(wire.answer_as(question.as_bytes(), "another", moment, ("[]", hash.as_ref())))
    }

    #[test]
    fn a_peer_with_the_same_secret_is_answered() {
        let wire = DriftKey::new(&[7; 32]);
        let question = wire.question(1000).unwrap();
        let reply = answer(&wire, &question, 1100).unwrap();
        assert_eq!(
            wire.verify_answer(&question, reply.as_bytes(), 1000),
            Some(DriftAnswer::Sheet(b"[]"))
        );
        let late = answer(&wire, &question, 1121).unwrap();
        assert_eq!(
            wire.verify_answer(&question, late.as_bytes(), 1000),
            Some(DriftAnswer::Clock(121))
        );
        let early = answer(&wire, &question, 800).unwrap();
        assert_eq!(
            wire.verify_answer(&question, early.as_bytes(), 1000),
            Some(DriftAnswer::Clock(-200))
        );
        let hash = digest(&SHA256, b"[]");
        let own = wire.answer((question.as_bytes(), 1000), 1000, ("[]", hash.as_ref()));
        assert_eq!(wire.verify_answer(&question, own.as_bytes(), 1000), Some(DriftAnswer::Itself));
    }

    #[test]
    fn a_question_without_the_secret_is_rejected() {
        let (wire, other) = (DriftKey::new(&[7; 32]), DriftKey::new(&[8; 32]));
        let question = wire.question(1000).unwrap();
        assert_ne!(question, wire.question(1000).unwrap(), "each question has a new nonce");
        assert_eq!(other.verify_question(question.as_bytes()), None);
        for index in 0..question.len() {
            let mut bent = question.clone().into_bytes();
            bent[index] ^= 1;
            assert_eq!(wire.verify_question(&bent), None, "{}", String::from_utf8_lossy(&bent));
        }
        for other in ["", "1", "1 1000", "1 1000 x ", &" ".repeat(300)] {
            assert_eq!(wire.verify_question(other.as_bytes()), None);
        }
    }

    #[test]
    fn an_answer_is_valid_for_one_question_and_unmodified() {
        let (wire, other) = (DriftKey::new(&[7; 32]), DriftKey::new(&[8; 32]));
        let question = wire.question(1000).unwrap();
        let reply = answer(&wire, &question, 1000).unwrap();
        assert_eq!(other.verify_answer(&question, reply.as_bytes(), 1000), None);
        let second = wire.question(1000).unwrap();
        assert_eq!(wire.verify_answer(&second, reply.as_bytes(), 1000), None);
        for index in 0..reply.len() {
            let mut bent = reply.clone().into_bytes();
            bent[index] ^= 1;
            assert_eq!(wire.verify_answer(&question, &bent, 1000), None);
        }
        for other in [&b""[..], b"\n", b"404 Not Found\n", question.as_bytes()] {
            assert_eq!(wire.verify_answer(&question, other, 1000), None);
        }
    }
}
