//! One end of a connection, of a client or an upstream, with or without TLS: sends and receives
//! bytes, and records how the connection ended.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, ServerConnection, StreamOwned};
use socket2::SockRef;

/// Limit for every operation that a test waits for.
pub(crate) const IO_TIMEOUT: Duration = Duration::from_secs(8);

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ConnEnd {
    /// The peer sent `close_notify`, or FIN without TLS.
    Clean,
    /// A TLS connection ended without `close_notify`.
    Cut,
    /// The peer sent RST.
    Reset,
}

enum Io {
    Plain(TcpStream),
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

/// One end of a connection; see the module.
pub(crate) struct RawConn {
    io: Io,
    /// Bytes received and not yet consumed.
    pub(crate) input: Vec<u8>,
    /// How the connection ended, once it has.
    pub(crate) ended: Option<ConnEnd>,
}

/// A received message.
#[derive(Debug)]
pub(crate) struct Message {
    /// The head up to and including the empty line, byte for byte.
    pub(crate) head: Vec<u8>,
    /// The body, without chunk framing.
    pub(crate) body: Vec<u8>,
    /// Trailer fields as text.
    pub(crate) trailers: String,
}

impl RawConn {
    /// A connection without TLS.
    pub(crate) fn plain(tcp: TcpStream) -> Self {
        Self::new(Io::Plain(tcp))
    }

    /// The client's end of a TLS connection. The handshake is made with the first bytes.
    pub(crate) fn client(tls: ClientConnection, tcp: TcpStream) -> Self {
        Self::new(Io::Client(Box::new(StreamOwned::new(tls, tcp))))
    }

    /// The server's end of a TLS connection.
    pub(crate) fn server(tls: ServerConnection, tcp: TcpStream) -> Self {
        Self::new(Io::Server(Box::new(StreamOwned::new(tls, tcp))))
    }

    fn new(io: Io) -> Self {
        let conn = Self { io, input: Vec::new(), ended: None };
        conn.tcp().set_nodelay(true).unwrap();
        conn.tcp().set_write_timeout(Some(IO_TIMEOUT)).unwrap();
        conn
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        match &self.io {
            Io::Plain(tcp) => tcp,
            Io::Client(tls) => &tls.sock,
            Io::Server(tls) => &tls.sock,
        }
    }

    /// The local address.
    pub(crate) fn local(&self) -> SocketAddr {
        self.tcp().local_addr().unwrap()
    }

    /// Completes the TLS handshake.
    pub(crate) fn handshake(&mut self) -> io::Result<()> {
        self.tcp().set_read_timeout(Some(IO_TIMEOUT))?;
        match &mut self.io {
            Io::Plain(_) => {}
            Io::Client(tls) => {
                while tls.conn.is_handshaking() {
                    tls.conn.complete_io(&mut tls.sock)?;
                }
            }
            Io::Server(tls) => {
                while tls.conn.is_handshaking() {
                    tls.conn.complete_io(&mut tls.sock)?;
                }
            }
        }
        Ok(())
    }

    /// Sends, and panics if the peer does not take the bytes.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.try_send(bytes)
            .unwrap_or_else(|error| panic!("cannot send {:?}: {error}", text(bytes)));
        self
    }

    /// Sends, unless the peer has closed the connection.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.io {
            Io::Plain(tcp) => tcp.write_all(bytes),
            Io::Client(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
            Io::Server(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }

    /// Ends the sending direction; reading remains possible.
    pub(crate) fn finish(&mut self) {
        match &mut self.io {
            Io::Plain(_) => {}
            Io::Client(tls) => {
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
            Io::Server(tls) => {
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
        }
        let _ = self.tcp().shutdown(Shutdown::Write);
    }

    /// Closes with a RST, like a process that dies.
    pub(crate) fn reset(self) {
        SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Closes TCP without `close_notify`.
    pub(crate) fn cut(self) {
        self.tcp().shutdown(Shutdown::Both).unwrap();
    }

    /// Reads once, until `deadline`; false if no byte arrived.
    pub(crate) fn fill(&mut self, deadline: Instant) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.tcp().set_read_timeout(Some(left)).unwrap();
        let mut buffer = [0; 16 * 1024];
        let read = match &mut self.io {
            Io::Plain(tcp) => tcp.read(&mut buffer),
            Io::Client(tls) => tls.read(&mut buffer),
            Io::Server(tls) => tls.read(&mut buffer),
        };
        match &read {
            Ok(0) => self.ended = Some(ConnEnd::Clean),
            Ok(length) => self.input.extend_from_slice(&buffer[..*length]),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {}
                io::ErrorKind::Interrupted => return true,
                io::ErrorKind::UnexpectedEof => self.ended = Some(ConnEnd::Cut),
                _ => self.ended = Some(ConnEnd::Reset),
            },
        }
        matches!(read, Ok(1..))
    }

    /// Reads until `found` returns a length, and consumes that many bytes of the input.
    pub(crate) fn until(&mut self, what: &str, found: impl Fn(&[u8]) -> Option<usize>) -> Vec<u8> {
        let deadline = Instant::now() + IO_TIMEOUT;
        loop {
            if let Some(length) = found(&self.input) {
                return self.input.drain(..length).collect();
            }
            let comes = self.fill(deadline) || self.ended.is_none() && Instant::now() < deadline;
            let received = || text(&self.input);
            assert!(comes, "no {what}; ended: {:?}; received:\n{}", self.ended, received());
        }
    }

    /// Consumes the next `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Vec<u8> {
        self.until(&format!("{length} bytes"), |input| (input.len() >= length).then_some(length))
    }

    /// Consumes exactly this text.
    pub(crate) fn expect(&mut self, expected: &str) {
        let taken = self.take(expected.len());
        assert_eq!(text(&taken), text(expected.as_bytes()));
    }

    /// Consumes a head.
    pub(crate) fn head(&mut self) -> Vec<u8> {
        self.until("end of a head", |input| Some(find(input, b"\r\n\r\n")? + 4))
    }

    /// Consumes a message, delimited by its head. A `bodyless` message has no body despite its
    /// fields.
    pub(crate) fn message(&mut self, bodyless: bool) -> Message {
        let mut message = Message { head: self.head(), body: Vec::new(), trailers: String::new() };
        if bodyless || matches!(message.status(), 100..200 | 204 | 304) {
            return message;
        }
        if message.field("transfer-encoding").is_some() {
            loop {
                let line = self.until("chunk size", |input| Some(find(input, b"\r\n")? + 2));
                let size = usize::from_str_radix(text(&line).trim(), 16).expect("a chunk size");
                if size == 0 {
                    break;
                }
                message.body.extend(self.take(size));
                self.expect("\r\n");
            }
            let ends = |input: &[u8]| {
                if input.starts_with(b"\r\n") {
                    Some(2)
                } else {
                    Some(find(input, b"\r\n\r\n")? + 4)
                }
            };
            message.trailers = text(&self.until("end of the trailer", ends));
        } else if let Some(length) = message.field("content-length") {
            message.body = self.take(length.parse().unwrap());
        } else if message.head.starts_with(b"HTTP/") {
            self.end();
            message.body = std::mem::take(&mut self.input);
        }
        message
    }

    /// Consumes an answer.
    pub(crate) fn answer(&mut self) -> Message {
        self.message(false)
    }

    /// Consumes an answer, checks its status and returns its body.
    pub(crate) fn answered(&mut self, status: u16) -> String {
        let answer = self.answer();
        assert_eq!(answer.status(), status, "{}", text(&answer.head));
        text(&answer.body)
    }

    /// Consumes a rejection by the gateway, and checks its status and its reason in head and body.
    pub(crate) fn refused(&mut self, status: u16, reason: &str) {
        let answer = self.answer();
        let said = answer.field("gateway-reason").unwrap_or_default();
        assert_eq!((answer.status(), said.as_str()), (status, reason), "{}", text(&answer.head));
        assert!(text(&answer.body).contains(&format!("reason: {reason}")));
    }

    /// Reads to the end of the connection; received bytes stay in `input`.
    pub(crate) fn end(&mut self) -> ConnEnd {
        let deadline = Instant::now() + IO_TIMEOUT;
        while self.ended.is_none() {
            self.fill(deadline);
            assert!(Instant::now() < deadline, "still open; received:\n{}", text(&self.input));
        }
        self.ended.unwrap()
    }

    /// Asserts that neither bytes nor the end arrive for a moment.
    pub(crate) fn is_silent(&mut self) {
        let deadline = Instant::now() + Duration::from_millis(150);
        while Instant::now() < deadline {
            self.fill(deadline);
            let received = text(&self.input);
            assert!(self.ended.is_none() && received.is_empty(), "{:?}: {received}", self.ended);
        }
    }
}

impl Message {
    /// The status of an answer; 0 for a request.
    pub(crate) fn status(&self) -> u16 {
        if !self.head.starts_with(b"HTTP/") {
            return 0;
        }
        text(&self.head)
            .split(' ')
            .nth(1)
            .and_then(|code| code.trim().parse().ok())
            .unwrap_or_default()
    }

    /// The value of a field, by its case-insensitive name.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let head = text(&self.head);
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let mut values = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value.trim().to_owned())
    }

    /// The head as text. Values that differ in each run are replaced, and the trace field is left
    /// out (`exact.rs` tests it).
    pub(crate) fn golden(&self) -> String {
        let head = text(&self.head);
        let line = |line: &str| match line.split_once(": ") {
            Some((name, value)) if name == "X-Request-Id" && value.len() == 32 => {
                format!("{name}: ID\n")
            }
            Some((name, _)) if name == "Date" => format!("{name}: DATE\n"),
            Some(("traceparent", _)) => String::new(),
            _ => format!("{line}\n"),
        };
        head.lines().map(line).collect()
    }
}

/// The position of `wanted`.
pub(crate) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Bytes as readable text: CRLF is a line end, other bytes that are not printable are escaped.
pub(crate) fn text(bytes: &[u8]) -> String {
    bytes
        .escape_ascii()
        .to_string()
        .replace("\\r\\n", "\n")
        .replace("\\\"", "\"")
        .replace("\\'", "'")
}
