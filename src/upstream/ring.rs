//! Consistent hashing: a client stays on one endpoint while that is up, and only the clients of an
//! unavailable endpoint are spread over the others.
//!
//! Point for point what nginx does with `hash ... consistent` (Ketama), so that this gateway and an
//! nginx in front of the same endpoints agree. The `pingora-ketama` crate does the same for
//! endpoints that are addresses; ours may be names.

use crc::{CRC_32_ISO_HDLC, Crc};

/// The checksum of nginx's `ngx_crc32_long`.
static CRC_32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Points of an endpoint of weight 1.
const POINTS_PER_WEIGHT: u32 = 160;

/// Points on the circle of 32-bit numbers, each with the index of an endpoint.
#[derive(Debug, Default)]
pub struct HashRing(Vec<(u32, u16)>);

impl HashRing {
    /// Builds a ring from endpoints: index, host as written (IPv6 in brackets), port, weight.
    pub fn new<'a>(endpoints: impl Iterator<Item = (u16, &'a str, u16, u16)>) -> Self {
        let mut points = Vec::new();
        for (index, host, port, weight) in endpoints {
            let mut name = CRC_32.digest();
            name.update(host.as_bytes());
            name.update(b"\0");
            name.update(port.to_string().as_bytes());
            let mut previous = 0_u32;
            for _ in 0..POINTS_PER_WEIGHT * u32::from(weight) {
                let mut point = name.clone();
                point.update(&previous.to_le_bytes());
                previous = point.finalize();
                points.push((previous, index));
            }
        }
        points.sort_unstable();
        points.dedup_by_key(|point| point.0);
        Self(points)
    }

    /// The endpoint at `key`, or the next on the circle that `admits` takes.
    pub fn find(&self, key: u32, admits: impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.0.partition_point(|(point, _)| *point < key);
        let (before, after) = self.0.split_at(start);
        let mut last = None;
        let mut around = after.iter().chain(before).map(|(_, index)| usize::from(*index));
        around.find(|index| {
            // Neighbours are often of one endpoint.
            if last == Some(*index) {
                return false;
            }
            last = Some(*index);
            admits(*index)
        })
    }
}

/// The place of a text on the circle.
#[must_use]
pub fn place(text: &[u8]) -> u32 {
    CRC_32.checksum(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_check_value_of_crc_32() {
        assert_eq!(place(b"123456789"), 0xcbf4_3926);
    }

    fn ring(weights: &[u16]) -> HashRing {
        let all = weights.iter().enumerate();
        HashRing::new(all.map(|(index, weight)| {
            (u16::try_from(index).unwrap(), "10.0.0.1", 80 + u16::try_from(index).unwrap(), *weight)
        }))
    }

    #[test]
    fn only_the_clients_of_one_that_is_gone_move() {
        let ring = ring(&[1, 1, 1, 2]);
        let mut counts = [0; 4];
        for client in 0..10_000_u32 {
            let key = place(&client.to_le_bytes());
            let affinity = ring.find(key, |_| true).unwrap();
            counts[affinity] += 1;
            let without = ring.find(key, |index| index != 2).unwrap();
            assert!(affinity == 2 || affinity == without);
            assert_ne!(without, 2);
        }
        for (index, count) in counts.into_iter().enumerate() {
            let expected = if index == 3 { 4000 } else { 2000 };
            assert!((expected * 3 / 4..=expected * 5 / 4).contains(&count), "{counts:?}");
        }
        assert_eq!(ring.find(7, |_| false), None);
        assert_eq!(HashRing::default().find(7, |_| true), None);
    }

    #[test]
    fn agrees_with_pingora_ketama() {
        use pingora_ketama::{Bucket, Continuum};
        // Without IPv6: pingora writes it without brackets, and nginx hashes the text of the file.
        let addresses = ["127.0.0.1:1024", "127.0.0.1:1025", "10.1.2.3:8444", "10.1.2.4:1"];
        let parsed = addresses.map(|address| address.parse::<std::net::SocketAddr>().unwrap());
        let buckets = parsed.map(|address| Bucket::new(address, 2));
        let theirs = Continuum::new(&buckets);
        let ours = HashRing::new((0..4).map(|index| {
            let (host, port) = addresses[usize::from(index)].rsplit_once(':').unwrap();
            (index, host, port.parse().unwrap(), 2)
        }));
        for client in 0..2000_u32 {
            let text = format!("10.0.{}.{}", client / 256, client % 256);
            let affinity = ours.find(place(text.as_bytes()), |_| true).unwrap();
            assert_eq!(Some(parsed[affinity]), theirs.node(text.as_bytes()), "{text}");
        }
    }
}
