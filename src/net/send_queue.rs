//! Bytes that the kernel holds for a connection and that the other host has not acknowledged.
//!
//! A slow client takes bytes out of this queue long before the queue has room for more, so the queue
//! shows progress that writing does not.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::ioctl::{Getter, Opcode, ioctl};
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use super::{Io, ReadAhead};

/// `SIOCOUTQ` of tcp(7); the same number on every architecture that the gateway is built for.
const SIOCOUTQ: Opcode = 0x5411;

/// Length of the send queue of a TCP socket, or `None` if the kernel does not say.
#[expect(unsafe_code, reason = "rustix has no safe function for SIOCOUTQ")]
fn unacknowledged(socket: BorrowedFd<'_>) -> Option<i64> {
    // SAFETY: SIOCOUTQ writes one `int` (tcp(7)), the type that the getter makes room for.
    let length = unsafe { ioctl(socket, Getter::<SIOCOUTQ, std::ffi::c_int>::new()) };
    length.ok().map(i64::from)
}

impl Io for TcpStream {
    fn unacknowledged(&self) -> Option<i64> {
        unacknowledged(self.as_fd())
    }
}

impl<T: Io> Io for server::TlsStream<T> {
    fn unacknowledged(&self) -> Option<i64> {
        self.get_ref().0.unacknowledged()
    }
}

impl<T: Io> Io for client::TlsStream<T> {
    fn unacknowledged(&self) -> Option<i64> {
        self.get_ref().0.unacknowledged()
    }
}

impl<T: Io> Io for ReadAhead<T> {
    fn unacknowledged(&self) -> Option<i64> {
        self.socket().unacknowledged()
    }
}

impl<T: Io> Io for Box<T> {
    fn unacknowledged(&self) -> Option<i64> {
        (**self).unacknowledged()
    }
}

/// A pipe within the process has no socket.
impl Io for DuplexStream {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    #[tokio::test]
    async fn the_queue_shrinks_while_the_peer_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_eq!(stream.unacknowledged(), Some(0));
        let piece = vec![0; 65_536];
        let full = timeout(Duration::from_millis(200), async {
            loop {
                stream.write_all(&piece).await.unwrap();
            }
        });
        full.await.unwrap_err();
        let before = stream.unacknowledged().unwrap();
        assert!(before > 65_536, "{before}");
        peer.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut buffer = vec![0; 1 << 20];
        while peer.read(&mut buffer).is_ok() {}
        assert_eq!(stream.unacknowledged(), Some(0));
    }
}
