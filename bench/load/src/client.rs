//! A client connection: TLS to the proxy, HTTP/1.1, and WebSocket frames after a 101.

use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use std::io::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Maximum bytes of one read: four TLS records.
const MAX_READ: usize = 64 << 10;
/// Maximum length of a response head from the test origin.
const MAX_HEAD: usize = 16 << 10;

pub(crate) fn invalid_data(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, text.into())
}

/// A connection, with bytes that were read but not consumed yet.
pub(crate) struct Client<S> {
    stream: S,
    /// The unconsumed bytes. Empty between exchanges, so that idle connections take no memory here.
    kept: Vec<u8>,
}

/// The status and body length of an answer.
struct Answer {
    status: u16,
    length: usize,
}

impl Client<TlsStream<TcpStream>> {
    /// Connects over TLS. The second value is whether the session was resumed.
    pub(crate) async fn connect(connector: &TlsConnector, port: u16) -> Result<(Self, bool)> {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(Error::other)?;
        let stream = connector.connect(name, tcp).await?;
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok((Self { stream, kept: Vec::new() }, resumed))
    }

    /// Opens a WebSocket.
    pub(crate) async fn upgrade(&mut self, path: &str, port: u16) -> Result<()> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: https://localhost:{port}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.send(request.as_bytes()).await?;
        match self.head().await?.status {
            101 => Ok(()),
            status => Err(invalid_data(format!("no WebSocket: {status}"))),
        }
    }
}

impl Client<TcpStream> {
    /// Opens a tunnel through the proxy on this port to the origin's plain TCP listener.
    pub(crate) async fn tunnel(port: u16, host: &str, origin: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, kept: Vec::new() };
        let request = format!("CONNECT {host}:{origin} HTTP/1.1\r\nHost: {host}:{origin}\r\n\r\n");
        client.send(request.as_bytes()).await?;
        match client.head().await?.status {
            200 => Ok(client),
            status => Err(invalid_data(format!("no tunnel: {status}"))),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Sends a request, reads the whole response and returns the length of its body.
    ///
    /// # Errors
    ///
    /// A status other than 200 is an error. `UnexpectedEof` means that the connection was closed
    /// before the first byte of a response.
    pub(crate) async fn exchange(
        &mut self,
        request: &[u8],
        moved: impl FnMut(usize),
    ) -> Result<usize> {
        self.send(request).await?;
        let answer = self.head().await?;
        if answer.status != 200 {
            return Err(invalid_data(format!("status {}", answer.status)));
        }
        self.skip(answer.length, moved).await?;
        Ok(answer.length)
    }

    /// Sends a request and returns the short body of the response.
    pub(crate) async fn fetch(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        self.send(request).await?;
        let answer = self.head().await?;
        if answer.status != 200 || answer.length > MAX_HEAD {
            return Err(invalid_data(format!("status {}, {} bytes", answer.status, answer.length)));
        }
        self.take(answer.length).await
    }

    /// Reads exactly `count` bytes.
    pub(crate) async fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.kept.len() < count {
            self.more().await?;
        }
        let rest = self.kept.split_off(count);
        Ok(std::mem::replace(&mut self.kept, rest))
    }

    /// Reads and discards exactly `count` bytes.
    pub(crate) async fn skip(&mut self, count: usize, mut moved: impl FnMut(usize)) -> Result<()> {
        let here = self.kept.len().min(count);
        moved(here);
        self.kept.drain(..here);
        let mut left = count - here;
        if left == 0 {
            if self.kept.is_empty() {
                self.kept = Vec::new();
            }
            return Ok(());
        }
        let mut piece = vec![0; MAX_READ.min(left)];
        while left > 0 {
            let room = left.min(piece.len());
            let got = self.stream.read(&mut piece[..room]).await?;
            if got == 0 {
                return Err(invalid_data(format!("cut {left} bytes before the end")));
            }
            moved(got);
            left -= got;
        }
        Ok(())
    }

    /// Sends a masked text frame of at most 125 bytes. The masking key is zero, which proxies do
    /// not change.
    pub(crate) async fn send_text(&mut self, text: &[u8]) -> Result<()> {
        self.send(&frame(text)).await
    }

    /// Reads one frame of at most 125 bytes.
    pub(crate) async fn frame(&mut self) -> Result<Vec<u8>> {
        let head = self.take(2).await?;
        if head[0] != 0x81 || head[1] > 125 {
            return Err(invalid_data(format!("not a short text frame: {head:02x?}")));
        }
        self.take(usize::from(head[1])).await
    }

    async fn more(&mut self) -> Result<()> {
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece).await? {
            0 if self.kept.is_empty() => Err(ErrorKind::UnexpectedEof.into()),
            0 => Err(invalid_data("cut in the middle")),
            got => {
                self.kept.extend_from_slice(&piece[..got]);
                Ok(())
            }
        }
    }

    async fn head(&mut self) -> Result<Answer> {
        let end = loop {
            if let Some(at) = self.kept.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            if self.kept.len() > MAX_HEAD {
                return Err(invalid_data("an endless head"));
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.kept[..end]).into_owned();
        self.kept.drain(..end);
        let status = head.get(9..12).and_then(|digits| digits.parse().ok());
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        match (status, length) {
            (Some(status), Some(length)) => Ok(Answer { status, length }),
            // A 101 and the response to a CONNECT have no body.
            (Some(status @ (101 | 200)), None) => Ok(Answer { status, length: 0 }),
            _ => Err(invalid_data(format!("not understood: {head}"))),
        }
    }
}

/// Encodes the frame of [`Client::send_text`].
pub(crate) fn frame(text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap_or(125).min(125);
    let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
    frame.extend_from_slice(&text[..usize::from(length)]);
    frame
}
