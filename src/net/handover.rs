//! Passes sockets to another process, each with a text message.
//!
//! The channel is a pair of connected `SOCK_SEQPACKET` sockets. One packet is one message, at most
//! one descriptor travels with it (`SCM_RIGHTS`, unix(7)), and each process sees end of file when
//! the other exits. One end becomes the standard input of the other process, because that
//! descriptor can be passed to a new process without agreeing on a number.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// Longest message, in bytes. Longer messages are truncated.
const MAX_MESSAGE: usize = 60 * 1024;
/// Time limit for a send, in case the other process does not read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// One end of a handover channel. All calls block.
#[derive(Debug)]
pub struct HandoverChannel(OwnedFd);

impl HandoverChannel {
    /// Two connected ends; the second is for the other process.
    ///
    /// # Errors
    ///
    /// Error of the system, for example no free descriptor.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(ours), theirs))
    }

    /// Takes the end that this process received as its standard input, and replaces standard input
    /// with `/dev/null`.
    ///
    /// # Errors
    ///
    /// Standard input is not such a socket.
    pub fn from_stdin() -> io::Result<Self> {
        let end = io::stdin().as_fd().try_clone_to_owned()?;
        if socket_type(&end)? != SocketType::SEQPACKET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a handover socket"));
        }
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        Ok(Self(end))
    }

    /// Sends a message, with a descriptor if one is given.
    ///
    /// # Errors
    ///
    /// Error of the system; `BrokenPipe` if the other process has exited, `WouldBlock` if it does
    /// not read in time.
    pub fn send(&self, words: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let words = words.as_bytes();
        let words = words.get(..MAX_MESSAGE).unwrap_or(words);
        set_socket_timeout(&self.0, Timeout::Send, Some(READ_TIMEOUT))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights = descriptor.as_slice();
        // The buffer has room for one descriptor, and there is at most one.
        let fits = rights.is_empty() || control.push(SendAncillaryMessage::ScmRights(rights));
        debug_assert!(fits);
        sendmsg(&self.0, &[IoSlice::new(words)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives the next message, and the descriptor sent with it.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if the other process has exited, `WouldBlock` if no message arrives `within`
    /// the given time.
    pub fn receive(&self, within: Duration) -> io::Result<(String, Option<OwnedFd>)> {
        set_socket_timeout(&self.0, Timeout::Recv, Some(within))?;
        let mut words = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut words)];
        let received = recvmsg(&self.0, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut descriptor = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptor = rights.last();
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            // The kernel closes descriptors that it cannot install. The buffer has room for one, so
            // this process has no free descriptor.
            return Err(io::Error::other("a descriptor was lost: this process has no free one"));
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        words.truncate(received.bytes);
        Ok((String::from_utf8_lossy(&words).into_owned(), descriptor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const SOON: Duration = Duration::from_secs(5);

    fn pair() -> (HandoverChannel, HandoverChannel) {
        let (ours, theirs) = HandoverChannel::pair().unwrap();
        (ours, HandoverChannel(theirs))
    }

    #[test]
    fn a_received_listening_socket_still_listens() {
        let (here, there) = pair();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        here.send("socket", Some(listener.as_fd())).unwrap();
        drop(listener);
        let (words, descriptor) = there.receive(SOON).unwrap();
        assert_eq!(words, "socket");
        let listener = TcpListener::from(descriptor.unwrap());
        assert_eq!(listener.local_addr().unwrap(), address);
        let _client = std::net::TcpStream::connect(address).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn messages_keep_their_boundaries_and_the_end_is_reported() {
        let (here, there) = pair();
        here.send("one", None).unwrap();
        here.send(&"x".repeat(100_000), None).unwrap();
        drop(here);
        assert_eq!(there.receive(SOON).unwrap().0, "one");
        assert_eq!(there.receive(SOON).unwrap().0.len(), MAX_MESSAGE);
        let end = there.receive(SOON).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        assert!(there.send("late", None).is_err());
    }

    #[test]
    fn receiving_from_a_silent_peer_times_out() {
        let (_here, there) = pair();
        let silence = there.receive(Duration::from_millis(20)).unwrap_err();
        assert_eq!(silence.kind(), io::ErrorKind::WouldBlock);
    }
}
