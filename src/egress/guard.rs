//! Address guard: the last check of a resolved address before the forward proxy connects to it.
//!
//! A name proves nothing about its addresses: its owner can change them between two look-ups. So
//! every address of every answer is checked, and only a checked address can be dialled
//! ([`CheckedAddr`]).
//!
//! Every block of [`crate::addr::special`] is barred unless the rule lists it, by `private-networks` or by
//! an address or network in `allow`. A block is listed by its name, or by a network inside it:
//! `0.0.0.0/0` lists nothing. An IPv4 address inside an IPv6 address needs both listed, the form
//! and the embedded address; in a prefix of the network's own NAT64 translators only the embedded
//! address. The gateway's own addresses need their address listed; its own forward proxy and admin
//! listener are never dialled.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::{IpNet, Ipv6Net};

use crate::addr::Pattern;
use crate::addr::special::{Special, embedded, special, translated};
use crate::message::Reason;
use crate::net::{CheckedAddr, listen};

use super::EgressRule;

/// An address the gateway listens on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OwnAddress {
    /// Bound address; `0.0.0.0` and `::` stand for every address of this host.
    pub address: SocketAddr,
    /// Whether a rule may open it by listing its address.
    pub may_be_listed: bool,
}

/// Checks addresses.
#[derive(Debug)]
pub struct Guard {
    own: Vec<OwnAddress>,
    /// Prefixes of the network's own NAT64 translators.
    nat64: Vec<Ipv6Net>,
    /// Whether an address is one of this host's.
    is_local: fn(IpAddr) -> bool,
}

/// The reason why an address is not dialled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blocked {
    /// A special address that the rule does not list.
    Special {
        /// Checked address: for IPv4 inside IPv6, the embedded address if that is special.
        ip: IpAddr,
        /// The block it is in.
        block: IpNet,
        /// Kind of the block.
        what: Special,
    },
    /// The gateway listens on this address.
    Own {
        /// The address.
        ip: IpAddr,
        /// Whether listing it would open it.
        may_be_listed: bool,
    },
}

impl Blocked {
    /// The word for it.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        Reason::EgressAddress
    }

    /// Entry to add to the rule's `private-networks`; `None` if no entry would open it.
    #[must_use]
    pub fn listing(&self) -> Option<IpAddr> {
        match self {
            Self::Special { ip, .. } => Some(*ip),
            Self::Own { ip, may_be_listed } => may_be_listed.then_some(*ip),
        }
    }
}

impl std::fmt::Display for Blocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Special { ip, block, what } if block.prefix_len() == block.max_prefix_len() => {
                write!(f, "{ip} is a {what} address")
            }
            Self::Special { ip, block, what } => write!(f, "{ip} is {what}, in {block}"),
            Self::Own { ip, .. } => write!(f, "{ip} is an address this gateway listens on"),
        }
    }
}

impl Guard {
    /// A guard of a gateway that listens on these addresses.
    #[must_use]
    pub fn new(own: Vec<OwnAddress>) -> Self {
        Self { own, nat64: Vec::new(), is_local: listen::is_local }
    }

    /// The same on a network with NAT64 translators of these prefixes.
    #[must_use]
    pub fn behind(self, nat64: Vec<Ipv6Net>) -> Self {
        Self { nat64, ..self }
    }

    /// A guard with a given list of local addresses, as if on another host.
    #[cfg(test)]
    pub(super) fn with_locals(own: Vec<OwnAddress>, is_local: fn(IpAddr) -> bool) -> Self {
        Self { own, nat64: Vec::new(), is_local }
    }

    /// Checks one address under a rule.
    ///
    /// # Errors
    ///
    /// The reason why it must not be dialled.
    pub fn check(&self, rule: &EgressRule, ip: IpAddr, port: u16) -> Result<CheckedAddr, Blocked> {
        let translated = self.translated(ip);
        let inside = translated.or_else(|| embedded(ip)).map(IpAddr::V4);
        // A NAT64 translator of this network leads only to the embedded address.
        let outside = translated.is_none().then_some(ip);
        for ip in inside.into_iter().chain(outside) {
            if let Some((block, what)) = special(ip)
                && !lists(rule, ip, block)
            {
                return Err(Blocked::Special { ip, block, what });
            }
        }
        for ip in inside.into_iter().chain([ip]) {
            self.not_own(rule, ip, port)?;
        }
        // A socket for ::ffff:a.b.c.d connects by IPv4; say so from here on.
        #[expect(clippy::disallowed_methods, reason = "this is the guard")]
        Ok(CheckedAddr::vouched(SocketAddr::new(ip.to_canonical(), port)))
    }

    /// The IPv4 address to which a NAT64 translator of this network maps `ip`.
    fn translated(&self, ip: IpAddr) -> Option<Ipv4Addr> {
        let IpAddr::V6(ip) = ip else { return None };
        self.nat64.iter().find_map(|prefix| translated(*prefix, ip))
    }

    fn not_own(&self, rule: &EgressRule, ip: IpAddr, port: u16) -> Result<(), Blocked> {
        let here = |own: &&OwnAddress| {
            let bound = own.address.ip();
            own.address.port() == port
                && (bound == ip
                    || bound.is_unspecified()
                        && bound.is_ipv4() == ip.is_ipv4()
                        && (self.is_local)(ip))
        };
        let mut own = self.own.iter().filter(here);
        let barred = own.find(|own| !own.may_be_listed || !lists(rule, ip, IpNet::from(ip)));
        barred.map_or(Ok(()), |own| Err(Blocked::Own { ip, may_be_listed: own.may_be_listed }))
    }
}

/// Whether the rule names the block `ip` is in, or a part of it with `ip`.
fn lists(rule: &EgressRule, ip: IpAddr, block: IpNet) -> bool {
    let literal = rule.settings.destinations.iter().filter_map(|pattern| match pattern {
        Pattern::Net(net) => Some(net),
        _ => None,
    });
    let mut listed = rule.settings.private_networks.iter().chain(literal);
    listed.any(|net| net.contains(&ip) && block.contains(net))
}

#[cfg(test)]
mod tests;
