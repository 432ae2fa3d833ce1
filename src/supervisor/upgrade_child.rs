//! Sockets that were listening before this process began: from the process it succeeds, or from a
//! service manager.
//!
//! In: standard input, if [`CHILD_VARIABLE`] is set; `LISTEN_FDS`. Out: sockets by their address, and
//! a word to the predecessor when we serve, or why we do not.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

use crate::net::activation;
use crate::net::handover::HandoverChannel;
use crate::tls::tickets::LocalKeys;

/// Set in the environment of a process that is started to succeed this one.
pub(super) const CHILD_VARIABLE: &str = "APP_GATEWAY_SUCCEEDING";
/// First message of the predecessor. Another version of the program may say something else.
pub(super) const GREETING: &str = "app-gateway handover 1";
/// A listening socket comes with this.
pub(super) const SOCKET: &str = "socket";
/// Keys of session tickets follow on the next line.
pub(super) const TICKETS: &str = "tickets";
/// No more sockets.
pub(super) const ALL: &str = "all";
/// The successor serves.
pub(super) const READY: &str = "ready";
/// The successor does not serve; why follows on the next lines.
pub(super) const REFUSED: &str = "refused";
/// The predecessor has stopped accepting, also on its admin listener.
pub(super) const GO: &str = "go";

/// How long a predecessor may take for each message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// What this process was given.
#[derive(Default)]
pub struct InheritedState {
    predecessor: Option<HandoverChannel>,
    sockets: Vec<(SocketAddr, TcpListener)>,
    tickets: Option<String>,
}

impl InheritedState {
    /// Takes over what there is; mostly that is nothing.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn receive() -> Result<Self, String> {
        let mut found = Self::default();
        let predecessor =
            std::env::var_os(CHILD_VARIABLE).is_some().then(HandoverChannel::from_stdin);
        // The variable may come from a predecessor that is long gone, by way of a shell.
        if let Some(Ok(channel)) = predecessor {
            found.succeed(&channel).map_err(|error| {
                format!("the process to succeed does not hand its sockets over: {error}")
            })?;
            found.predecessor = Some(channel);
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

    fn succeed(&mut self, channel: &HandoverChannel) -> io::Result<()> {
        let (greeting, _) = channel.receive(MESSAGE_TIMEOUT)?;
        if greeting != GREETING {
            let words = format!("it speaks another language ({greeting:?}): restart instead");
            return Err(io::Error::other(words));
        }
        loop {
            match channel.receive(MESSAGE_TIMEOUT)? {
                (word, Some(descriptor)) if word == SOCKET => self.keep(descriptor)?,
                (word, None) if word == ALL => return Ok(()),
                (words, None) if words.starts_with(TICKETS) => {
                    self.tickets = words.split_once('\n').map(|(_, keys)| keys.to_owned());
                }
                (word, _) => return Err(io::Error::other(format!("it said {word:?}"))),
            }
        }
    }

    /// Keeps a listening TCP socket. Others are refused: nothing here would serve them.
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

    /// Takes the ticket keys of the predecessor over, so that its clients can go on here.
    pub fn hand_tickets(&mut self, to: &LocalKeys) {
        if self.tickets.take().is_some_and(|keys| !to.inherit(&keys)) {
            tracing::warn!(
                "the ticket keys of the process before cannot be read; clients make full handshakes"
            );
        }
    }

    /// Whether another process already listens on this port in our stead.
    pub(super) fn knows(&self, port: u16) -> bool {
        self.sockets.iter().any(|(address, _)| address.port() == port)
    }

    /// Says which sockets of a service manager nothing is configured for. A predecessor's are no
    /// news: their listener was removed.
    pub(super) fn complain(&self) {
        if self.predecessor.is_some() {
            return;
        }
        for (address, _) in &self.sockets {
            tracing::warn!(
                "the service manager's socket on {address} is closed: no listener has this address; add one, or take it out of the .socket unit"
            );
        }
    }

    /// Tells the predecessor that we serve, and waits until it has stopped to.
    ///
    /// # Errors
    ///
    /// If it has gone or changed its mind.
    pub fn ready(&self) -> io::Result<()> {
        let Some(channel) = &self.predecessor else { return Ok(()) };
        channel.send(READY, None)?;
        match channel.receive(MESSAGE_TIMEOUT)? {
            (word, _) if word == GO => Ok(()),
            (word, _) => Err(io::Error::other(format!("it said {word:?}"))),
        }
    }

    /// Whether this process succeeds another.
    #[must_use]
    pub fn succeeds(&self) -> bool {
        self.predecessor.is_some()
    }

    /// Tells the predecessor why we do not serve.
    pub fn refuse(&self, why: &str) {
        if let Some(channel) = &self.predecessor {
            // If it has gone, there is nobody to tell.
            let _ = channel.send(&format!("{REFUSED}\n{why}"), None);
        }
    }
}
