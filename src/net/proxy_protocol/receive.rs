//! Takes a header off a socket, and not one byte more: what follows may be TLS.

use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::{Header, HeaderError, HeaderReader, MAX_HEADER};

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// What came is none.
    #[error("{0}")]
    Malformed(#[from] HeaderError),
    /// The sender closed the connection before its first byte: a balancer that only tries whether
    /// the port is open.
    #[error("closed before the first byte of a PROXY protocol header")]
    Nothing,
    /// The sender closed the connection within the header.
    #[error("closed after {0} bytes of a PROXY protocol header")]
    Cut(usize),
    /// The socket's error.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Takes the header off `stream`. How long that may take is for the caller to say.
///
/// The bytes are looked at before they are taken, so none that follows is: two system calls if the
/// header is there in one piece, which senders must see to.
///
/// # Errors
///
/// [`ReceiveError`].
///
/// # Cancellation
///
/// A part of the header may be lost; nothing can be done with the connection but to close it.
pub async fn receive(stream: &mut TcpStream) -> Result<Header, ReceiveError> {
    let mut reader = HeaderReader::new();
    // On the heap, because it lives across waiting, and gone with the header.
    let mut seen = vec![0; MAX_HEADER];
    loop {
        let length = match (stream.peek(&mut seen).await, reader.taken()) {
            // Checks of balancers end with a reset, which costs them less.
            (Ok(0) | Err(_), 0) => return Err(ReceiveError::Nothing),
            (Ok(0), taken) => return Err(ReceiveError::Cut(taken)),
            (length, _) => length?,
        };
        let (taken, header) = reader.feed(&seen[..length])?;
        // What was seen is in the socket's buffer, so this does not wait.
        stream.read_exact(&mut seen[..taken]).await?;
        if let Some(header) = header {
            return Ok(header);
        }
    }
}
