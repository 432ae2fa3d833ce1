//! Classification of special-purpose addresses.
//!
//! Covers the IANA special-purpose registries (RFC 6890 and its successors), the metadata addresses
//! at which clouds hand out credentials, and the IPv6 forms that embed an IPv4 address.
//!
//! In: an address. Out: the narrowest special block that contains it. Never: decides whether the
//! address is allowed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Kind of a special-purpose address.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Special {
    /// This host.
    Loopback,
    /// No host: `0.0.0.0`, `::`, and the rest of `0.0.0.0/8`, which some systems treat as this
    /// host.
    Unspecified,
    /// Valid on the same link only.
    LinkLocal,
    /// Metadata service of a cloud, which hands out credentials.
    Metadata,
    /// Private networks (RFC 1918).
    Private,
    /// Shared addresses between a provider and its customers (RFC 6598).
    CarrierNat,
    /// Unique local addresses (RFC 4193), and the older site-local ones.
    UniqueLocal,
    /// A group of hosts.
    Multicast,
    /// All hosts of the link.
    Broadcast,
    /// Examples in documentation.
    Documentation,
    /// Benchmarks of network devices.
    Benchmark,
    /// Reserved, without hosts.
    Reserved,
    /// IPv4-mapped IPv6, `::ffff:0:0/96`: the kernel would connect over IPv4.
    Mapped,
    /// IPv4-compatible IPv6, `::/96`, deprecated.
    Compatible,
    /// IPv4 behind a NAT64 translator (RFC 6052, RFC 8215).
    Nat64,
    /// IPv4 behind a 6to4 relay (RFC 3056).
    SixToFour,
    /// IPv4 behind a Teredo relay (RFC 4380).
    Teredo,
    /// IPv4 in the last half of an IPv6 address (RFC 5214).
    Isatap,
}

impl Special {
    /// Name of the kind for error messages.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Unspecified => "unspecified",
            Self::LinkLocal => "link-local",
            Self::Metadata => "cloud metadata",
            Self::Private => "private (RFC 1918)",
            Self::CarrierNat => "carrier NAT (RFC 6598)",
            Self::UniqueLocal => "unique local",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Documentation => "documentation",
            Self::Benchmark => "benchmarking",
            Self::Reserved => "reserved",
            Self::Mapped => "IPv4-mapped",
            Self::Compatible => "IPv4-compatible",
            Self::Nat64 => "NAT64",
            Self::SixToFour => "6to4",
            Self::Teredo => "Teredo",
            Self::Isatap => "ISATAP",
        }
    }
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(parts: [u16; 8], length: u8) -> Ipv6Net {
    let [p0, p1, p2, p3, p4, p5, p6, p7] = parts;
    Ipv6Net::new_assert(Ipv6Addr::new(p0, p1, p2, p3, p4, p5, p6, p7), length)
}

/// Special IPv4 blocks. A block precedes the blocks that contain it.
const IPV4_BLOCKS: &[(Ipv4Net, Special)] = &[
    (v4(169, 254, 169, 254, 32), Special::Metadata), // AWS, Azure, GCP, OpenStack and most others
    (v4(169, 254, 169, 253, 32), Special::Metadata), // AWS: resolver
    (v4(169, 254, 170, 2, 32), Special::Metadata),   // AWS: credentials of containers
    (v4(169, 254, 170, 23, 32), Special::Metadata),  // AWS: credentials of pods
    (v4(100, 100, 100, 200, 32), Special::Metadata), // Alibaba
    (v4(192, 0, 0, 192, 32), Special::Metadata),     // Oracle
    (v4(168, 63, 129, 16, 32), Special::Metadata),   // Azure, in the middle of the public internet
    (v4(0, 0, 0, 0, 8), Special::Unspecified),
    (v4(10, 0, 0, 0, 8), Special::Private),
    (v4(100, 64, 0, 0, 10), Special::CarrierNat),
    (v4(127, 0, 0, 0, 8), Special::Loopback),
    (v4(169, 254, 0, 0, 16), Special::LinkLocal),
    (v4(172, 16, 0, 0, 12), Special::Private),
    (v4(192, 0, 0, 0, 24), Special::Reserved),
    (v4(192, 0, 2, 0, 24), Special::Documentation),
    (v4(192, 88, 99, 0, 24), Special::SixToFour), // its relays (RFC 7526)
    (v4(192, 168, 0, 0, 16), Special::Private),
    (v4(198, 18, 0, 0, 15), Special::Benchmark),
    (v4(198, 51, 100, 0, 24), Special::Documentation),
    (v4(203, 0, 113, 0, 24), Special::Documentation),
    (v4(224, 0, 0, 0, 4), Special::Multicast),
    (v4(255, 255, 255, 255, 32), Special::Broadcast),
    (v4(240, 0, 0, 0, 4), Special::Reserved),
];

/// Special IPv6 blocks, in the same order. Addresses outside `2000::/3` are unallocated.
const IPV6_BLOCKS: &[(Ipv6Net, Special)] = &[
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), Special::Unspecified),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Special::Loopback),
    (v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254], 128), Special::Metadata), // AWS
    (v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x253], 128), Special::Metadata), // AWS: resolver
    (v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x23], 128), Special::Metadata),  // AWS: pods
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), Special::Metadata),   // GCP
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), Special::Mapped),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), Special::Compatible),
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), Special::Nat64),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), Special::Nat64),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), Special::Teredo),
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), Special::Benchmark),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), Special::Documentation),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), Special::Reserved),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), Special::SixToFour),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Special::Documentation),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Special::UniqueLocal),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), Special::LinkLocal),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), Special::UniqueLocal),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Special::Multicast),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 3), Special::Reserved),
    (v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 2), Special::Reserved),
    (v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 1), Special::Reserved),
];

/// The narrowest special block that contains `ip`, and its kind; `None` for an ordinary public
/// address.
#[must_use]
pub fn special(ip: IpAddr) -> Option<(IpNet, Special)> {
    match ip {
        IpAddr::V4(ip) => {
            let (block, what) = IPV4_BLOCKS.iter().find(|(block, _)| block.contains(&ip))?;
            Some((IpNet::V4(*block), *what))
        }
        IpAddr::V6(ip) => {
            let known = IPV6_BLOCKS.iter().find(|(block, _)| block.contains(&ip));
            let known = known.map(|(block, what)| (IpNet::V6(*block), *what));
            known.or_else(|| is_isatap(ip).then(|| (IpNet::V6(Ipv6Net::from(ip)), Special::Isatap)))
        }
    }
}

/// The IPv4 address embedded in an IPv6 address, if its form has one.
#[must_use]
pub fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let [_, p1, p2, _, _, _, p6, p7] = ip.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match special(IpAddr::V6(ip)).map(|(_, what)| what) {
        // Operators of 64:ff9b:1::/48 choose the position of the address; most choose the end.
        Some(Special::Mapped | Special::Compatible | Special::Nat64) => Some(join(p6, p7)),
        Some(Special::SixToFour) => Some(join(p1, p2)),
        Some(Special::Teredo) => Some(join(!p6, !p7)),
        _ => is_isatap(ip).then(|| join(p6, p7)),
    }
}

/// The IPv4 address inside an address of a NAT64 prefix, by RFC 6052 section 2.2: it follows the
/// prefix and skips the eight bits 64 to 71. `None` for a length that is not in that section, or an
/// address outside the prefix.
#[must_use]
pub fn translated(prefix: Ipv6Net, ip: Ipv6Addr) -> Option<Ipv4Addr> {
    if !prefix.contains(&ip) {
        return None;
    }
    let first = match prefix.prefix_len() {
        length @ (32 | 40 | 48 | 56 | 96) => usize::from(length / 8),
        64 => 9,
        _ => return None,
    };
    // The ninth byte is skipped.
    let bytes = ip.octets().into_iter().enumerate().skip(first);
    let mut bytes = bytes.filter(|(index, _)| *index != 8).map(|(_, byte)| byte);
    let mut inside = [0; 4];
    for byte in &mut inside {
        *byte = bytes.next()?;
    }
    Some(inside.into())
}

/// Whether the interface identifier has the form of RFC 5214 section 6.1.
const fn is_isatap(ip: Ipv6Addr) -> bool {
    let [_, _, _, _, p4, p5, _, _] = ip.segments();
    p5 == 0x5efe && (p4 == 0 || p4 == 0x0200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_stands_before_those_that_contain_it() {
        let v4: Vec<_> = IPV4_BLOCKS.iter().map(|(net, _)| IpNet::V4(*net)).collect();
        let v6: Vec<_> = IPV6_BLOCKS.iter().map(|(net, _)| IpNet::V6(*net)).collect();
        for nets in [v4, v6] {
            for (at, net) in nets.iter().enumerate() {
                assert_eq!(net.trunc(), *net);
                assert!(nets[..at].iter().all(|before| !before.contains(net)), "{net} is shadowed");
            }
        }
    }

    #[test]
    fn every_carrier_gives_up_its_address() {
        let inside = |text: &str| embedded(text.parse().unwrap()).map(|ip| ip.to_string());
        for text in [
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "2001::5601:5601",
            "2a00:1450::5efe:169.254.169.254",
            "2a00:1450::200:5efe:169.254.169.254",
            "fe80::5efe:169.254.169.254",
        ] {
            assert_eq!(inside(text).as_deref(), Some("169.254.169.254"), "{text}");
        }
        assert_eq!(inside("2a00:1450::1"), None);
        assert_eq!(embedded("1.2.3.4".parse().unwrap()), None);
    }

    #[test]
    fn the_examples_of_rfc_6052_are_translated() {
        for (prefix, ip) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ] {
            let inside = translated(prefix.parse().unwrap(), ip.parse().unwrap());
            assert_eq!(inside, Some(Ipv4Addr::new(192, 0, 2, 33)), "{prefix}");
        }
        let other = translated("64:ff9b::/96".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert_eq!(other, None);
    }
}
