//! Reads a header from a socket without consuming bytes after it, which may be TLS.

use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::{Header, HeaderError, HeaderReader, MAX_HEADER};

/// The reason why no header was received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The bytes are not a valid header.
    #[error("{0}")]
    Malformed(#[from] HeaderError),
    /// The sender closed the connection before its first byte, as a TCP health check of a balancer
    /// does.
    #[error("closed before the first byte of a PROXY protocol header")]
    Nothing,
    /// The sender closed the connection within the header.
    #[error("closed after {0} bytes of a PROXY protocol header")]
    Cut(usize),
    /// Error of the socket.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads the header from `stream`. The caller sets the time limit.
///
/// Bytes are peeked before they are consumed, so that bytes after the header stay in the socket.
/// This takes two system calls if the header arrives in one piece, which the specification requires
/// of senders.
///
/// # Errors
///
/// [`ReceiveError`].
///
/// # Cancellation
///
/// A part of the header may be lost, so the connection can only be closed.
pub async fn receive(stream: &mut TcpStream) -> Result<Header, ReceiveError> {
    let mut reader = HeaderReader::new();
    // On the heap, because it is held across an await; freed with the header.
    let mut seen = vec![0; MAX_HEADER];
    loop {
        let length = match (stream.peek(&mut seen).await, reader.consumed()) {
            // Health checks of balancers often end with a reset, which is cheaper for them.
            (Ok(0) | Err(_), 0) => return Err(ReceiveError::Nothing),
            (Ok(0), consumed) => return Err(ReceiveError::Cut(consumed)),
            (length, _) => length?,
        };
        let (consumed, header) = reader.feed(&seen[..length])?;
        // The peeked bytes are in the socket's buffer, so this does not wait.
        stream.read_exact(&mut seen[..consumed]).await?;
        if let Some(header) = header {
            return Ok(header);
        }
    }
}
