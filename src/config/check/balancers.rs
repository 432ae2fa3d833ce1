//! `proxy-protocol` of a listener: its balancers.
//!
//! Produces a [`ProxyProtocol`]. An empty list is rejected, because it would reject all
//! connections.

use crate::config::checked::{ProxyProtocol, UnlistedPeers};
use crate::config::file::{ProxyProtocolFile, UnlistedFile, Written};
use crate::config::problem::Problem;

use super::Checker;

impl Checker<'_> {
    /// `None`: the table is invalid. `Some(None)`: there is none.
    #[expect(clippy::option_option, reason = "wrong, absent and present are three things")]
    pub(super) fn proxy_protocol(
        &mut self,
        written: Option<&Written<ProxyProtocolFile>>,
    ) -> Option<Option<ProxyProtocol>> {
        let Some(file) = written.map(|written| &written.value) else { return Some(None) };
        let list = &file.from;
        if list.value.is_empty() {
            if !self.found.is_damaged(self.place(list)) {
                let message = "this list of balancers is empty";
                self.found.push(
                    Problem::error("listener.proxy-protocol", self.place(list), message)
                        .with_label("no client could connect")
                        .with_help(
                            "name the addresses the balancers connect from, or leave `proxy-protocol` out",
                        ),
                );
            }
            return None;
        }
        let (mut from, mut good) = (Vec::new(), true);
        for written in &list.value {
            let place = self.place(written);
            let Some(network) = self.network(written, "listener.proxy-protocol") else {
                good = false;
                continue;
            };
            if network.prefix_len() == 0 {
                let message = "every client is treated as a balancer";
                self.found.push(
                    Problem::warning("listener.trusts-everyone", place, message)
                        .with_label("any client could claim any address")
                        .with_help("name the addresses the balancers connect from"),
                );
            }
            from.push(network);
        }
        let unlisted = match file.unlisted.as_ref().map(|written| written.value) {
            Some(UnlistedFile::Direct) => UnlistedPeers::Direct,
            Some(UnlistedFile::Refuse) | None => UnlistedPeers::Refuse,
        };
        good.then_some(Some(ProxyProtocol { from, unlisted }))
    }
}
