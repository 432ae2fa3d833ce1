//! Order in which the addresses of an endpoint are tried, and whether they may be out of date.
//!
//! A name with several addresses stands for several machines. Connections start with each address
//! in turn, or with the address that a hash of the client selects, if the client must return to the
//! same machine. An address that failed comes last for a while.
//!
//! Only connections to endpoints with several addresses, and failed connections, use this module; a
//! failure costs an atomic store.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::net::CheckedAddr;
use crate::net::dial::in_turns;

/// Addresses of an endpoint that are used; the rest is dropped.
pub const MAX_ADDRESSES: usize = 32;

/// Time for which an address with a failed connection is tried last.
const FAILED_FOR: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Rotation {
    permit: AtomicU32,
    /// A bit per address that could not be connected to, by its place in the endpoint's list.
    failed: AtomicU64,
    /// Milliseconds after `birth` until which `failed` counts.
    failed_until: AtomicU64,
    /// A connection has failed since the name was looked up.
    stale: AtomicBool,
    /// There is more than one address.
    several: AtomicBool,
    birth: Instant,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            permit: AtomicU32::new(0),
            failed: AtomicU64::new(0),
            failed_until: AtomicU64::new(0),
            stale: AtomicBool::new(false),
            several: AtomicBool::new(false),
            birth: Instant::now(),
        }
    }
}

impl Rotation {
    /// Addresses in the order in which to try them. Equal keys give equal orders while all
    /// addresses work, whatever the order of `addresses`.
    #[must_use]
    pub fn order(&self, addresses: &[CheckedAddr], key: Option<u32>) -> Vec<CheckedAddr> {
        let failed = self.failed();
        let mut all: Vec<_> = addresses.iter().copied().enumerate().collect();
        if let Some(key) = key {
            all.sort_by_key(|(_, address)| std::cmp::Reverse(weight(key, *address)));
        } else {
            let good = all.iter().filter(|(index, _)| !is_set(failed, *index)).count();
            let permit = self.permit.fetch_add(1, Ordering::Relaxed) as usize;
            // Those that failed are moved back first, so that all good ones get equal shares.
            all.sort_by_key(|(index, _)| is_set(failed, *index));
            if let Some(good) = all.get_mut(..good).filter(|good| !good.is_empty()) {
                good.rotate_left(permit % good.len());
            }
        }
        all.sort_by_key(|(index, _)| is_set(failed, *index));
        let order: Vec<_> = all.into_iter().map(|(_, address)| address).collect();
        in_turns(&order)
    }

    /// The address that a key chooses while all can be connected to, as a number for pools.
    #[must_use]
    pub fn choice(addresses: &[CheckedAddr], key: u32) -> u64 {
        addresses.iter().map(|address| weight(key, *address)).max().unwrap_or(0) | 1
    }

    /// Records which address of `order` was connected to: those before it were not.
    pub fn connected(&self, addresses: &[CheckedAddr], order: &[CheckedAddr], to: IpAddr) {
        let place = |ip: IpAddr| addresses.iter().position(|address| address.get().ip() == ip);
        let before = order.iter().map(|address| address.get().ip()).take_while(|ip| *ip != to);
        let passed_over = before.filter_map(place).fold(0_u64, |bits, index| bits | 1 << index);
        let good = place(to).map_or(0, |index| 1_u64 << index);
        let known = self.failed();
        let failed = (known | passed_over) & !good;
        if failed != known {
            self.failed.store(failed, Ordering::Relaxed);
        }
        if passed_over != 0 {
            self.failed_until.store(self.age() + millis(FAILED_FOR), Ordering::Relaxed);
            self.mark_stale();
        }
    }

    /// Begins anew with so many other addresses.
    pub fn begin(&self, count: usize) {
        self.failed.store(0, Ordering::Relaxed);
        self.several.store(count > 1, Ordering::Relaxed);
    }

    /// Whether there is more than one address, without loading them: for the request path.
    #[must_use]
    pub fn has_several(&self) -> bool {
        self.several.load(Ordering::Relaxed)
    }

    /// Records that a connection failed: the name is to be looked up soon.
    pub fn mark_stale(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    /// Whether a connection has failed since this was asked last.
    pub fn take_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed) && self.stale.swap(false, Ordering::Relaxed)
    }

    fn failed(&self) -> u64 {
        let failed = self.failed.load(Ordering::Relaxed);
        let counts = failed != 0 && self.age() < self.failed_until.load(Ordering::Relaxed);
        if counts { failed } else { 0 }
    }

    fn age(&self) -> u64 {
        millis(self.birth.elapsed())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX >> 1)
}

const fn is_set(bits: u64, index: usize) -> bool {
    index < 64 && bits >> index & 1 == 1
}

/// Weight of an address for a key (rendezvous hashing): when an address disappears, only its own
/// keys move.
fn weight(key: u32, address: CheckedAddr) -> u64 {
    let bytes = match address.get().ip() {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    let folded = bytes as u64 ^ (bytes >> 64) as u64;
    // The finalizer of SplitMix64, twice.
    mixed(mixed(folded) ^ u64::from(key))
}

const fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn addresses(count: u8) -> Vec<CheckedAddr> {
        #[expect(clippy::disallowed_methods, reason = "a test vouches for anything")]
        (1..=count).map(|last| CheckedAddr::vouched(([192, 0, 2, last], 1).into())).collect()
    }

    fn first(rotation: &Rotation, all: &[CheckedAddr], key: Option<u32>) -> IpAddr {
        rotation.order(all, key)[0].get().ip()
    }

    #[test]
    fn each_address_has_its_turn() {
        let (rotation, all) = (Rotation::default(), addresses(3));
        let mut counts = HashMap::<IpAddr, usize>::new();
        for _ in 0..300 {
            *counts.entry(first(&rotation, &all, None)).or_default() += 1;
        }
        assert!(counts.len() == 3 && counts.values().all(|count| *count == 100), "{counts:?}");
        assert_eq!(rotation.order(&all, None).len(), 3);
    }

    #[test]
    fn one_that_failed_comes_last_and_the_others_share_its_work() {
        let (rotation, all) = (Rotation::default(), addresses(3));
        let order = rotation.order(&all, None);
        rotation.connected(&all, &order, order[1].get().ip());
        assert!(rotation.take_stale());
        let dead = order[0].get().ip();
        let mut counts = HashMap::<IpAddr, usize>::new();
        for _ in 0..100 {
            let order = rotation.order(&all, None);
            *counts.entry(order[0].get().ip()).or_default() += 1;
            assert_eq!(order[2].get().ip(), dead);
        }
        assert!(counts.values().all(|count| *count == 50), "{counts:?}");
        // It was connected to after all.
        let order = rotation.order(&all, None);
        rotation.connected(&all, &[order[2]], dead);
        assert!((0..3).any(|_| first(&rotation, &all, None) == dead));
    }

    #[test]
    fn a_key_keeps_its_address_whatever_the_order_and_moves_only_if_that_fails() {
        let (rotation, all) = (Rotation::default(), addresses(4));
        let mut turned = all.clone();
        turned.reverse();
        let chosen: Vec<_> = (0..200).map(|key| first(&rotation, &all, Some(key))).collect();
        for (key, ip) in (0..).zip(&chosen) {
            assert_eq!(first(&rotation, &turned, Some(key)), *ip);
            assert_eq!(Rotation::choice(&all, key), Rotation::choice(&turned, key));
        }
        for address in &all {
            assert!(chosen.iter().filter(|ip| **ip == address.get().ip()).count() > 20);
        }
        let order = rotation.order(&all, Some(7));
        rotation.connected(&all, &order, order[1].get().ip());
        let dead = order[0].get().ip();
        for (key, ip) in (0..).zip(&chosen) {
            let now = first(&rotation, &all, Some(key));
            assert!(now == *ip || *ip == dead, "{key} moved from {ip} to {now}");
            assert!(now != dead);
        }
    }
}
