//! `nat64`: the prefixes of the network's own translators.

use ipnet::{IpNet, Ipv6Net};

use crate::addr::special::{Special, special};
use crate::config::file::Written;
use crate::config::problem::Problem;

use super::Checker;

impl Checker<'_> {
    pub(super) fn nat64(
        &mut self,
        list: Option<&Written<Vec<Written<String>>>>,
    ) -> Option<Vec<Ipv6Net>> {
        let all = list.into_iter().flat_map(|list| &list.value);
        let all: Vec<_> = all.map(|written| self.nat64_prefix(written)).collect();
        all.into_iter().collect()
    }

    fn nat64_prefix(&mut self, written: &Written<String>) -> Option<Ipv6Net> {
        let network = self.network(written, "forward.nat64")?;
        let (label, help) = match network {
            IpNet::V4(_) => ("this is IPv4", "a NAT64 prefix is IPv6, e.g. `64:ff9b::/96`"),
            IpNet::V6(net) if !matches!(net.prefix_len(), 32 | 40 | 48 | 56 | 64 | 96) => (
                "a prefix of RFC 6052 has 32, 40, 48, 56, 64 or 96 bits",
                "write it as the translator has it, e.g. `64:ff9b::/96`",
            ),
            IpNet::V6(net) => match special(net.addr().into()) {
                None
                | Some((_, Special::Nat64 | Special::UniqueLocal | Special::Documentation)) => {
                    return Some(net);
                }
                Some(_) => (
                    "no translator can have this prefix",
                    "it is part of the network's own addresses, or `64:ff9b::/96`",
                ),
            },
        };
        let message = format!("`{}` is not the prefix of a NAT64 translator", written.value);
        self.found.push(
            Problem::error("forward.nat64", self.place(written), message)
                .with_label(label)
                .with_help(help),
        );
        None
    }
}
