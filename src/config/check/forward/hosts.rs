//! `[forward.hosts]`: names that are not looked up.
//!
//! Their addresses are still untrusted: the guard checks each of them like an answer of the
//! resolver.

use std::net::IpAddr;

use crate::addr::HostName;
use crate::config::checked::PinnedHost;
use crate::config::file::{Hosts, Written};
use crate::config::problem::{Problem, Span};

use crate::config::check::Checker;

impl Checker<'_> {
    /// Checks the table; invalid entries are reported and left out.
    pub(super) fn pinned_hosts(&mut self, written: Option<&Written<Hosts>>) -> Vec<PinnedHost> {
        let mut pinned: Vec<PinnedHost> = Vec::new();
        for (key, list) in written.into_iter().flat_map(|table| &table.value) {
            let place = Span::of(self.file, &key.span());
            let name = match HostName::parse(key.get_ref()) {
                Ok(name) => name,
                Err(error) => {
                    let message = format!("`{}` is not a host name: {error}", key.get_ref());
                    self.found.push(
                        Problem::error("forward.hosts-name", place, message)
                            .with_label("a name that clients ask for"),
                    );
                    continue;
                }
            };
            if pinned.iter().any(|known| known.name == name) {
                let message = format!("the host `{name}` is listed twice");
                self.found.push(
                    Problem::error("forward.hosts-twice", place, message)
                        .with_label("upper and lower case make no difference"),
                );
            }
            let addresses: Vec<IpAddr> =
                list.value.iter().filter_map(|one| self.pinned_address(one)).collect();
            if list.value.is_empty() {
                let message = format!("the host `{name}` has no address");
                self.found.push(
                    Problem::error("forward.hosts-empty", self.place(list), message)
                        .with_label("give it one, or take the line out"),
                );
            }
            pinned.push(PinnedHost { name, addresses });
        }
        pinned
    }

    fn pinned_address(&mut self, written: &Written<String>) -> Option<IpAddr> {
        let parsed = written.value.parse().ok();
        if parsed.is_none() {
            let message = format!("`{}` is not an address", written.value);
            self.found.push(
                Problem::error("forward.hosts-address", self.place(written), message)
                    .with_label("an IPv4 or IPv6 address, without port or brackets"),
            );
        }
        parsed
    }
}
