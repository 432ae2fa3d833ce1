//! Sticky cookie: names the endpoint of a client, readable by every gateway with the same secret.
//!
//! ```text
//! value = base64(seat (16) | minutes since 1970 (4) | mac (16))
//! ```
//!
//! A seat is a keyed hash that stands for one endpoint of one upstream; it does not reveal the
//! address. A cookie that was changed, is too old or was made with another secret is ignored, and
//! the endpoint is selected as if there were no cookie. Gateways store no cookies, so they exchange
//! no state.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};

use crate::base64;
use crate::message::RequestHead;
use crate::message::field::{KnownField, cookies};

const SEAT_LEN: usize = 16;
const TIME_LEN: usize = 4;
const MAC_LEN: usize = 16;
const COOKIE_LEN: usize = SEAT_LEN + TIME_LEN + MAC_LEN;

/// Length as base64 text, without padding.
const TEXT_LEN: usize = COOKIE_LEN / 3 * 4;

/// Minutes for which a cookie counts, and after which it is renewed.
const VALID_MINUTES: u32 = 24 * 60;
const RENEW_MINUTES: u32 = 12 * 60;

/// Minutes that the clock of the gateway that made it may be ahead.
const MAX_AHEAD_MINUTES: u32 = 60;

/// The cookie of an upstream.
#[derive(Debug)]
pub struct StickyCookie {
    name: String,
    /// One for each secret; the first signs.
    signers: Vec<Signer>,
}

struct Signer {
    key: Key,
    /// Seats by index of the endpoint.
    seats: Vec<[u8; SEAT_LEN]>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

/// Content of a client's cookie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StickyTarget {
    /// Index of the endpoint.
    pub index: usize,
    /// The cookie should be renewed.
    pub stale: bool,
}

impl StickyCookie {
    /// Creates the cookie of an upstream from its endpoint labels; `keys` come from the secrets.
    pub fn new(
        name: &str,
        keys: impl Iterator<Item = [u8; 32]>,
        upstream: &str,
        endpoints: &[&str],
    ) -> Self {
        let signer = |bytes: [u8; 32]| {
            let key = Key::new(HMAC_SHA256, &bytes);
            let seat = |label: &str| {
                let whole = sign(&key, format!("seat\0{upstream}\0{label}").as_bytes());
                let mut seat = [0; SEAT_LEN];
                seat.iter_mut().zip(whole.as_ref()).for_each(|(to, from)| *to = *from);
                seat
            };
            let seats = endpoints.iter().map(|label| seat(label)).collect();
            Signer { key, seats }
        };
        Self { name: name.to_owned(), signers: keys.map(signer).collect() }
    }

    /// Name of the cookie.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Endpoint named by the request's cookie, if the cookie is valid and not expired.
    #[must_use]
    pub fn of(&self, head: &RequestHead) -> Option<StickyTarget> {
        self.at(head, minutes())
    }

    fn at(&self, head: &RequestHead, now: u32) -> Option<StickyTarget> {
        let fields = head.fields.all(KnownField::Cookie).flat_map(cookies);
        let mut ours = fields.filter(|(name, _)| *name == self.name.as_bytes());
        // A browser may send two cookies of this name, set for different paths. Ignore further
        // ones.
        ours.by_ref().take(2).find_map(|(_, value)| self.read(value, now))
    }

    fn read(&self, value: &[u8], now: u32) -> Option<StickyTarget> {
        if value.len() != TEXT_LEN {
            return None;
        }
        let bytes = base64::decode(value)?;
        let (signed, mac) = bytes.split_at_checked(SEAT_LEN + TIME_LEN)?;
        let (seat, time) = signed.split_at_checked(SEAT_LEN)?;
        let made = u32::from_be_bytes(time.try_into().ok()?);
        for (number, signer) in self.signers.iter().enumerate() {
            if verify_slices_are_equal(signer.mac(signed).as_slice(), mac).is_err() {
                continue;
            }
            let age = now.saturating_sub(made);
            if age > VALID_MINUTES || made > now.saturating_add(MAX_AHEAD_MINUTES) {
                return None;
            }
            let index = signer.seats.iter().position(|known| known == seat)?;
            return Some(StickyTarget { index, stale: number > 0 || age > RENEW_MINUTES });
        }
        None
    }

    /// Value of a `Set-Cookie` field that names this endpoint. `Partitioned` makes it work in
    /// frames on pages of other origins. Browsers keep it until they are closed.
    #[must_use]
    pub fn set(&self, index: usize) -> Option<String> {
        let value = self.value(index, minutes())?;
        let name = &self.name;
        Some(format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=None; Partitioned"))
    }

    fn value(&self, index: usize, now: u32) -> Option<String> {
        let signer = self.signers.first()?;
        let mut bytes = signer.seats.get(index)?.to_vec();
        bytes.extend(now.to_be_bytes());
        let mac = signer.mac(&bytes);
        bytes.extend(mac);
        Some(base64::encode(&bytes))
    }
}

impl Signer {
    fn mac(&self, signed: &[u8]) -> [u8; MAC_LEN] {
        let mut mac = [0; MAC_LEN];
        // The prefix keeps the two uses of the key apart: the input of a seat is hashed text and
        // never begins with a seat.
        let whole = sign(&self.key, &[b"mac\0", signed].concat());
        mac.iter_mut().zip(whole.as_ref()).for_each(|(to, from)| *to = *from);
        mac
    }
}

fn minutes() -> u32 {
    let past = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(past.as_secs() / 60).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u32 = 29_000_000;
    const LABELS: [&str; 2] = ["10.0.0.5:8444", "10.0.0.6:8444"];

    fn cookie(keys: &[u8]) -> StickyCookie {
        let keys = keys.iter().map(|byte| [*byte; 32]);
        StickyCookie::new("__Host-affinity", keys, "chat", &LABELS)
    }

    #[test]
    fn any_gateway_with_the_secret_reads_it() {
        let (one, other) = (cookie(&[1]), cookie(&[1]));
        for index in [0, 1] {
            let value = one.value(index, NOW).unwrap();
            assert_eq!(value.len(), TEXT_LEN);
            assert_eq!(
                other.read(value.as_bytes(), NOW),
                Some(StickyTarget { index, stale: false })
            );
            assert!(
                !value.contains("10.0")
                    && !base64::decode(value.as_bytes())
                        .unwrap()
                        .windows(4)
                        .any(|w| w == [10, 0, 0, 5])
            );
        }
        assert_eq!(one.value(2, NOW), None);
        let set = one.set(0).unwrap();
        assert!(set.ends_with("; Path=/; Secure; HttpOnly; SameSite=None; Partitioned"), "{set}");
    }

    #[test]
    fn counts_for_a_day_and_is_renewed_before() {
        let cookie = cookie(&[1]);
        let value = cookie.value(0, NOW).unwrap();
        let at = |now| cookie.read(value.as_bytes(), now).map(|seat| seat.stale);
        assert_eq!(at(NOW + RENEW_MINUTES), Some(false));
        assert_eq!(at(NOW + RENEW_MINUTES + 1), Some(true));
        assert_eq!(at(NOW + VALID_MINUTES + 1), None);
        assert_eq!(at(NOW - MAX_AHEAD_MINUTES), Some(false));
        assert_eq!(at(NOW - MAX_AHEAD_MINUTES - 1), None, "made in the future");
    }

    #[test]
    fn what_is_not_ours_is_nothing() {
        let value = cookie(&[1]).value(0, NOW).unwrap();
        assert_eq!(cookie(&[2]).read(value.as_bytes(), NOW), None, "another secret");
        let rotated = cookie(&[2, 1]);
        assert_eq!(
            rotated.read(value.as_bytes(), NOW),
            Some(StickyTarget { index: 0, stale: true })
        );
        let keys = || [[1; 32]].into_iter();
        let files = StickyCookie::new("__Host-affinity", keys(), "files", &LABELS);
        assert_eq!(files.read(value.as_bytes(), NOW), None, "of another upstream");
        let moved = StickyCookie::new("__Host-affinity", keys(), "chat", &[LABELS[1], LABELS[0]]);
        assert_eq!(
            moved.read(value.as_bytes(), NOW).unwrap().index,
            1,
            "order makes no difference"
        );
        for index in 0..TEXT_LEN {
            let mut bent = value.clone().into_bytes();
            bent[index] = if bent[index] == b'A' { b'B' } else { b'A' };
            assert_eq!(cookie(&[1]).read(&bent, NOW), None, "character {index}");
        }
    }

    proptest! {
        #[test]
        fn survives_anything(value in any::<Vec<u8>>()) {
            prop_assert_eq!(cookie(&[1]).read(&value, NOW), None);
        }
    }
}
