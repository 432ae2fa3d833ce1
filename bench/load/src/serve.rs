//! The origin: HTTPS with bodies of known sizes, WebSocket echo, an upload sink and Socket.IO
//! polls; and a plain TCP port for tunnels.

use crate::Origin;
use crate::tls::acceptor;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const BACKLOG: u32 = 4096;
const MAX_READ: usize = 64 << 10;
/// Length of the body of `/10m`.
const LARGE_BODY: usize = 10_000_000;

/// Serves until SIGTERM.
pub(crate) async fn run(origin: &Origin) -> Result<(), Box<dyn Error>> {
    let acceptor = acceptor(&origin.chain, &origin.key)?;
    let secure = listen(([127, 0, 0, 1], origin.port).into())?;
    let bare = listen(origin.raw)?;
    tokio::task::spawn_local(accept_bare(bare));
    tokio::task::spawn_local(accept_secure(secure, acceptor));
    let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    end.recv().await;
    Ok(())
}

fn listen(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            return stream;
        }
        // Most likely the file descriptors are exhausted.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn accept_secure(listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        let (stream, acceptor) = (accept(&listener).await, acceptor.clone());
        tokio::task::spawn_local(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                // Errors of a connection are ignored, because the load tool reports them.
                let _ = Connection { stream, kept: Vec::new() }.serve().await;
            }
        });
    }
}

async fn accept_bare(listener: TcpListener) {
    loop {
        let stream = accept(&listener).await;
        tokio::task::spawn_local(answer_bare(stream));
    }
}

/// Answers `?` with one byte, and `>N` with N MiB.
async fn answer_bare(mut stream: TcpStream) -> io::Result<()> {
    let mut asked = [0; 32];
    let mut piece = Vec::new();
    loop {
        let got = stream.read(&mut asked).await?;
        match asked[..got].split_first() {
            None => return Ok(()),
            Some((b'>', digits)) => {
                piece.resize(1 << 20, b'x');
                let count = std::str::from_utf8(digits)
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(0);
                for _ in 0..count {
                    stream.write_all(&piece).await?;
                }
            }
            Some(_) => stream.write_all(b"!").await?,
        }
    }
}

struct Connection {
    stream: TlsStream<TcpStream>,
    kept: Vec<u8>,
}

/// The parts of a request that the origin uses.
struct Request {
    line: String,
    length: usize,
    websocket_key: Option<String>,
}

impl Connection {
    async fn serve(mut self) -> io::Result<()> {
        while let Some(request) = self.request().await? {
            if let Some(key) = request.websocket_key {
                // The client always sends this key, and no proxy should change it.
                let answer = if key == SAMPLE_KEY { SWITCHING } else { REFUSED };
                self.stream.write_all(answer.as_bytes()).await?;
                return self.echo().await;
            }
            let body =
                self.body(request.length, request.line.starts_with("POST /socket.io/")).await?;
            self.answer(&request.line, request.length, &body).await?;
        }
        Ok(())
    }

    /// Reads the next head; `None` if the proxy has closed the connection.
    async fn request(&mut self) -> io::Result<Option<Request>> {
        let end = loop {
            if let Some(at) = self.kept.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await? {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.kept[..end]).into_owned();
        self.kept.drain(..end);
        let field = |name: &str| {
            head.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        Ok(Some(Request {
            line: head.lines().next().unwrap_or_default().to_owned(),
            length: field("content-length").and_then(|digits| digits.parse().ok()).unwrap_or(0),
            websocket_key: field("sec-websocket-key"),
        }))
    }

    /// Reads a request body. It is returned only if `wanted`, for short bodies.
    async fn body(&mut self, length: usize, wanted: bool) -> io::Result<Vec<u8>> {
        let here = self.kept.len().min(length);
        let mut body: Vec<u8> = self.kept.drain(..here).collect();
        let mut left = length - here;
        let mut piece = if left > 0 { vec![0; MAX_READ.min(left)] } else { Vec::new() };
        while left > 0 {
            let room = left.min(piece.len());
            let got = self.stream.read(&mut piece[..room]).await?;
            if got == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if wanted {
                body.extend_from_slice(&piece[..got]);
            }
            left -= got;
        }
        Ok(body)
    }

    async fn answer(&mut self, line: &str, length: usize, body: &[u8]) -> io::Result<()> {
        let path = line.split(' ').nth(1).unwrap_or_default();
        let octets = "application/octet-stream";
        if path.starts_with("/socket.io/") {
            return match (path.contains("sid="), line.starts_with("POST"), body) {
                (false, ..) => {
                    self.text(&format!("{}:0{OPEN_PACKET}", OPEN_PACKET.len() + 1)).await
                }
                (true, true, b"1:2") => self.text("ok").await,
                (true, false, _) => self.text("1:3").await,
                _ => self.text("error").await,
            };
        }
        match path {
            "/upload" => self.text(&length.to_string()).await,
            "/10m" => self.repeat(LARGE_BODY, octets).await,
            "/100k" => self.repeat(100_000, octets).await,
            path if path.starts_with("/api/") => self.text(QUEUE_STATISTICS).await,
            _ => self.repeat(1024, octets).await,
        }
    }

    async fn text(&mut self, text: &str) -> io::Result<()> {
        let answer = format!("{}{text}", head(text.len(), "text/plain; charset=UTF-8"));
        self.stream.write_all(answer.as_bytes()).await?;
        self.stream.flush().await
    }

    async fn repeat(&mut self, length: usize, kind: &str) -> io::Result<()> {
        let mut piece = head(length, kind).into_bytes();
        let mut left = length;
        while left > 0 {
            let more = left.min(MAX_READ - piece.len().min(MAX_READ / 2));
            piece.resize(piece.len() + more, b'x');
            self.stream.write_all(&piece).await?;
            left -= more;
            piece.clear();
        }
        self.stream.flush().await
    }

    /// Echoes every text frame, and answers Socket.IO's ping `2` with a pong `3`.
    async fn echo(mut self) -> io::Result<()> {
        loop {
            while self.kept.len() < 2 || self.kept.len() < 6 + usize::from(self.kept[1] & 0x7f) {
                if !self.more().await? {
                    return Ok(());
                }
            }
            let length = usize::from(self.kept[1] & 0x7f);
            let (opcode, end) = (self.kept[0] & 0x0f, 6 + length);
            let mask = [self.kept[2], self.kept[3], self.kept[4], self.kept[5]];
            let mut frame = vec![self.kept[0], self.kept[1] & 0x7f];
            frame.extend(
                self.kept[6..end].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask),
            );
            self.kept.drain(..end);
            if self.kept.is_empty() {
                // Frees the buffer, because thousands of connections are idle.
                self.kept = Vec::new();
            }
            match opcode {
                1 if frame == b"\x81\x012" => self.stream.write_all(b"\x81\x013").await?,
                1 => self.stream.write_all(&frame).await?,
                8 => {
                    self.stream.write_all(&frame).await?;
                    return self.stream.shutdown().await;
                }
                _ => {}
            }
            self.stream.flush().await?;
        }
    }

    async fn more(&mut self) -> io::Result<bool> {
        let mut piece = [0; 4096];
        let got = self.stream.read(&mut piece).await?;
        self.kept.extend_from_slice(&piece[..got]);
        Ok(got > 0)
    }
}

/// The open packet of a Socket.IO session. Engine.IO 3 puts length and type before it.
const OPEN_PACKET: &str = r#"{"sid":"bench-0000000000000001","upgrades":["websocket"],"pingInterval":3000,"pingTimeout":6000}"#;

/// The example key of RFC 6455 section 1.3, and the responses to it and to other keys.
const SAMPLE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const REFUSED: &str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";

/// Statistics of a queue, in the size of the product's.
const QUEUE_STATISTICS: &str = r#"{"queue":"support","agents":{"ready":31,"busy":17,"away":2},"chats":{"active":214,"waiting":6},"longestWait":41,"averageWait":18,"estimatedWait":25,"serviceLevel":0.91,"answered":1873,"abandoned":42,"updated":1700000000}"#;

fn head(length: usize, kind: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n")
}
