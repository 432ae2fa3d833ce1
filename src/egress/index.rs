//! Index from a destination to the rules that list it.
//!
//! A look-up costs one hash of the name and one for each parent domain, or, for an address, one for
//! each prefix length in use. The number of rules makes no difference.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::addr::{Host, HostName, Pattern};

/// Number of a rule.
type RuleIndex = usize;

/// Index of the destinations of all rules.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: HashMap<Box<str>, Vec<RuleIndex>>,
    below: HashMap<Box<str>, Vec<RuleIndex>>,
    /// Networks by family and prefix length, one entry per length.
    nets: Vec<NetworkSet>,
}

/// The networks of one family and length.
#[derive(Debug)]
struct NetworkSet {
    v4: bool,
    length: u8,
    rules: HashMap<IpNet, Vec<RuleIndex>>,
}

impl Index {
    /// Adds one line of a rule.
    pub(super) fn add(&mut self, pattern: &Pattern, rule: RuleIndex) {
        let rules = match pattern {
            Pattern::Exact(name) => self.exact.entry(name.as_str().into()).or_default(),
            Pattern::Below(name) => self.below.entry(name.as_str().into()).or_default(),
            Pattern::Net(net) => self.nets_like(*net).entry(*net).or_default(),
        };
        if rules.last() != Some(&rule) {
            rules.push(rule);
        }
    }

    fn nets_like(&mut self, net: IpNet) -> &mut HashMap<IpNet, Vec<RuleIndex>> {
        let (v4, length) = (net.addr().is_ipv4(), net.prefix_len());
        let known = self.nets.iter().position(|nets| nets.v4 == v4 && nets.length == length);
        let at = known.unwrap_or_else(|| {
            self.nets.push(NetworkSet { v4, length, rules: HashMap::new() });
            self.nets.len() - 1
        });
        &mut self.nets[at].rules
    }

    /// The rules that list `host`, in no order, some perhaps twice.
    pub(super) fn rules(&self, host: &Host) -> impl Iterator<Item = RuleIndex> {
        let (name, ip) = match host {
            Host::Name(name) => (Some(name), None),
            Host::Addr(ip) => (None, Some(*ip)),
        };
        let exact = name.and_then(|name| self.exact.get(name.as_str()));
        let below = name.filter(|_| !self.below.is_empty()).into_iter();
        let below = below.flat_map(HostName::parents).filter_map(|name| self.below.get(name));
        let nets = ip.into_iter().flat_map(|ip| self.holding(ip));
        exact.into_iter().chain(below).chain(nets).flatten().copied()
    }

    fn holding(&self, ip: IpAddr) -> impl Iterator<Item = &Vec<RuleIndex>> {
        let alike = self.nets.iter().filter(move |nets| nets.v4 == ip.is_ipv4());
        alike.filter_map(move |nets| nets.rules.get(&IpNet::new(ip, nets.length).ok()?.trunc()))
    }
}
