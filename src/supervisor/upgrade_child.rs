//! Child side of a binary upgrade, and socket activation: listening sockets inherited from the
//! parent process or a service manager.
//!
//! The parent passes its sockets over standard input if [`CHILD_VARIABLE`] is set, and is told when
//! this process serves, or why it cannot. A service manager passes sockets with `LISTEN_FDS`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

use crate::net::activation;
use crate::net::handover::HandoverChannel;
use crate::tls::tickets::LocalKeys;

/// Environment variable that marks the child of a binary upgrade.
pub(super) const CHILD_VARIABLE: &str = "APP_GATEWAY_SUCCEEDING";
/// First message of the parent. Identifies the version of the handover protocol.
pub(super) const GREETING: &str = "app-gateway handover 1";
/// Message of the parent that carries a listening socket.
pub(super) const SOCKET: &str = "socket";
/// Message of the parent with the keys of TLS session tickets on the next line.
pub(super) const TICKETS: &str = "tickets";
/// Message of the parent after the last socket.
pub(super) const ALL: &str = "all";
/// Message of the child: it serves.
pub(super) const READY: &str = "ready";
/// Message of the child: it cannot serve. The reason follows on the next lines.
pub(super) const REFUSED: &str = "refused";
/// Last message of the parent: it has stopped accepting, also on its admin listener.
pub(super) const GO: &str = "go";

/// Time limit for each message of the parent.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Sockets and ticket keys that this process has inherited.
#[derive(Default)]
pub struct InheritedState {
    parent: Option<HandoverChannel>,
    sockets: Vec<(SocketAddr, TcpListener)>,
    tickets: Option<String>,
}

impl InheritedState {
    /// Receives the sockets of a parent or service manager. Without either, the result is empty.
    ///
    /// # Errors
    ///
    /// An error message, if the parent breaks the protocol or a socket cannot be used.
    pub fn receive() -> Result<Self, String> {
        let mut found = Self::default();
        let parent = std::env::var_os(CHILD_VARIABLE).is_some().then(HandoverChannel::from_stdin);
        // The variable alone proves nothing: a shell may have inherited it from a former parent.
        if let Some(Ok(channel)) = parent {
            found.receive_from_parent(&channel).map_err(|error| {
                format!("the parent process did not hand over its sockets: {error}")
            })?;
            found.parent = Some(channel);
        }
        let activated = activation::take()
            .map_err(|error| format!("LISTEN_FDS, the service manager's sockets: {error}"))?;
        for descriptor in activated {
            found.keep(descriptor).map_err(|error| {
                format!("a socket of the service manager cannot be used: {error}")
            })?;
        }
        Ok(found)
    }

    fn receive_from_parent(&mut self, channel: &HandoverChannel) -> io::Result<()> {
        let (greeting, _) = channel.receive(MESSAGE_TIMEOUT)?;
        if greeting != GREETING {
            let words = format!(
                "it uses another version of the handover protocol ({greeting:?}): restart instead"
            );
            return Err(io::Error::other(words));
        }
        loop {
            match channel.receive(MESSAGE_TIMEOUT)? {
                (word, Some(descriptor)) if word == SOCKET => self.keep(descriptor)?,
                (word, None) if word == ALL => return Ok(()),
                (words, None) if words.starts_with(TICKETS) => {
                    self.tickets = words.split_once('\n').map(|(_, keys)| keys.to_owned());
                }
                (word, _) => return Err(io::Error::other(format!("unexpected message {word:?}"))),
            }
        }
    }

    /// Keeps a listening TCP socket. Other sockets are an error, because no listener can use them.
    fn keep(&mut self, descriptor: OwnedFd) -> io::Result<()> {
        let domain = socket_domain(&descriptor)?;
        let tcp = domain == AddressFamily::INET || domain == AddressFamily::INET6;
        if !tcp
            || socket_type(&descriptor)? != SocketType::STREAM
            || !socket_acceptconn(&descriptor)?
        {
            return Err(io::Error::other(
                "only listening TCP sockets are served (ListenStream=ADDRESS:PORT, Accept=no)",
            ));
        }
        let listener = TcpListener::from(descriptor);
        listener.set_nonblocking(true)?;
        self.sockets.push((listener.local_addr()?, listener));
        Ok(())
    }

    /// Takes the sockets that listen on `address`.
    pub(super) fn take(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        let all = std::mem::take(&mut self.sockets);
        let (found, rest) = all.into_iter().partition(|(bound, _)| *bound == address);
        self.sockets = rest;
        let found: Vec<(SocketAddr, TcpListener)> = found;
        found.into_iter().map(|(_, listener)| listener).collect()
    }

    /// Hands the ticket keys of the parent to `to`, so that its clients can resume their TLS sessions.
    pub fn hand_over_tickets(&mut self, to: &LocalKeys) {
        if self.tickets.take().is_some_and(|keys| !to.import(&keys)) {
            tracing::warn!(
                "cannot read the ticket keys of the parent process; clients make full handshakes"
            );
        }
    }

    /// Whether an inherited socket listens on this port.
    pub(super) fn has_port(&self, port: u16) -> bool {
        self.sockets.iter().any(|(address, _)| address.port() == port)
    }

    /// Logs unused sockets of a service manager. Unused sockets of a parent are normal, because
    /// their listeners were removed from the configuration.
    pub(super) fn log_unused(&self) {
        if self.parent.is_some() {
            return;
        }
        for (address, _) in &self.sockets {
            tracing::warn!(
                "the service manager's socket on {address} is closed: no listener has this address; add one, or take it out of the .socket unit"
            );
        }
    }

    /// Tells the parent that this process serves, and waits until the parent has stopped accepting.
    ///
    /// # Errors
    ///
    /// If the parent has exited or given up the upgrade.
    pub fn ready(&self) -> io::Result<()> {
        let Some(channel) = &self.parent else { return Ok(()) };
        channel.send(READY, None)?;
        match channel.receive(MESSAGE_TIMEOUT)? {
            (word, _) if word == GO => Ok(()),
            (word, _) => Err(io::Error::other(format!("unexpected message {word:?}"))),
        }
    }

    /// Whether this process is the child of a binary upgrade.
    #[must_use]
    pub fn is_child(&self) -> bool {
        self.parent.is_some()
    }

    /// Tells the parent why this process cannot serve.
    pub fn refuse(&self, why: &str) {
        if let Some(channel) = &self.parent {
            // The send fails only if the parent has exited.
            let _ = channel.send(&format!("{REFUSED}\n{why}"), None);
        }
    }
}
