//! One end of a connection, client's or upstream's, with or without TLS: bytes out, bytes in, and
//! how it ended.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, ServerConnection, StreamOwned};
use socket2::SockRef;

/// How long anything may take that is to happen at once.
pub(crate) const IO_TIMEOUT: Duration = Duration::from_secs(8);

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// The peer said that it was done: `close_notify`, or FIN without TLS.
    Clean,
    /// A TLS connection ended without `close_notify`.
    Cut,
    /// The peer's host refused what was sent.
    Reset,
}

enum Io {
    Plain(TcpStream),
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

/// See the module.
pub(crate) struct Wire {
    io: Io,
    /// Received and not yet asked for.
    pub(crate) input: Vec<u8>,
    /// How it ended, once it has.
    pub(crate) ended: Option<End>,
}

/// A message as it was received.
#[derive(Debug)]
pub(crate) struct Message {
    /// Down to the empty line, byte for byte.
    pub(crate) head: Vec<u8>,
    /// Taken out of its chunks, if there were any.
    pub(crate) body: Vec<u8>,
    /// Trailer fields, as text.
    pub(crate) trailers: String,
}

impl Wire {
    /// Without TLS.
    pub(crate) fn plain(tcp: TcpStream) -> Self {
        Self::new(Io::Plain(tcp))
    }

    /// The client's end of a TLS connection; the handshake is made with the first bytes.
    pub(crate) fn client(tls: ClientConnection, tcp: TcpStream) -> Self {
        Self::new(Io::Client(Box::new(StreamOwned::new(tls, tcp))))
    }

    /// The server's end of one.
    pub(crate) fn server(tls: ServerConnection, tcp: TcpStream) -> Self {
        Self::new(Io::Server(Box::new(StreamOwned::new(tls, tcp))))
    }

    fn new(io: Io) -> Self {
        let wire = Self { io, input: Vec::new(), ended: None };
        wire.tcp().set_nodelay(true).unwrap();
        wire.tcp().set_write_timeout(Some(IO_TIMEOUT)).unwrap();
        wire
    }

    /// The socket.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match &self.io {
            Io::Plain(tcp) => tcp,
            Io::Client(tls) => &tls.sock,
            Io::Server(tls) => &tls.sock,
        }
    }

    /// Our address.
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

    /// Sends; the peer takes it within [`IO_TIMEOUT`].
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.try_send(bytes)
            .unwrap_or_else(|error| panic!("cannot send {:?}: {error}", text(bytes)));
        self
    }

    /// Sends, if the peer still takes it.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.io {
            Io::Plain(tcp) => tcp.write_all(bytes),
            Io::Client(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
            Io::Server(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }

    /// Says that nothing more follows, and reads on.
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

    /// Closes the way a process that dies does: with a reset.
    pub(crate) fn reset(self) {
        SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Ends TCP without ending TLS.
    pub(crate) fn cut(self) {
        self.tcp().shutdown(Shutdown::Both).unwrap();
    }

    /// Reads what comes until `deadline`; false if nothing came, or the end.
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
            Ok(0) => self.ended = Some(End::Clean),
            Ok(length) => self.input.extend_from_slice(&buffer[..*length]),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {}
                io::ErrorKind::Interrupted => return true,
                io::ErrorKind::UnexpectedEof => self.ended = Some(End::Cut),
                _ => self.ended = Some(End::Reset),
            },
        }
        matches!(read, Ok(1..))
    }

    /// Reads until `found` says how many bytes it is about, and takes those out.
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

    /// Takes the next `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Vec<u8> {
        self.until(&format!("{length} bytes"), |input| (input.len() >= length).then_some(length))
    }

    /// Takes exactly this text.
    pub(crate) fn expect(&mut self, expected: &str) {
        let taken = self.take(expected.len());
        assert_eq!(text(&taken), text(expected.as_bytes()));
    }

    /// Takes a head.
    pub(crate) fn head(&mut self) -> Vec<u8> {
        self.until("end of a head", |input| Some(find(input, b"\r\n\r\n")? + 4))
    }

    /// Takes a message whose head says where it ends. `bodyless`: it has no body, whatever it says.
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

    /// Takes an answer.
    pub(crate) fn answer(&mut self) -> Message {
        self.message(false)
    }

    /// Takes an answer with a body that it hands over; checks the status.
    pub(crate) fn answered(&mut self, status: u16) -> String {
        let answer = self.answer();
        assert_eq!(answer.status(), status, "{}", text(&answer.head));
        text(&answer.body)
    }

    /// Takes a refusal of the gateway's own; checks status and reason, the body's included.
    pub(crate) fn refused(&mut self, status: u16, reason: &str) {
        let answer = self.answer();
        let said = answer.field("gateway-reason").unwrap_or_default();
        assert_eq!((answer.status(), said.as_str()), (status, reason), "{}", text(&answer.head));
        assert!(text(&answer.body).contains(&format!("reason: {reason}")));
    }

    /// Reads to the end of the connection; what came stays in `input`.
    pub(crate) fn end(&mut self) -> End {
        let deadline = Instant::now() + IO_TIMEOUT;
        while self.ended.is_none() {
            self.fill(deadline);
            assert!(Instant::now() < deadline, "still open; received:\n{}", text(&self.input));
        }
        self.ended.unwrap()
    }

    /// Checks that nothing comes for a moment, neither bytes nor the end.
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
    /// Of an answer; 0 of a request.
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

    /// The value of a field, any case.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let head = text(&self.head);
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let mut values = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value.trim().to_owned())
    }

    /// The head as text, with what differs from run to run replaced, and without the trace that every
    /// request is given (`exact.rs` looks at that).
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

/// Where `wanted` begins.
pub(crate) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Bytes as readable text: CRLF is a line end, everything else that is not printable is escaped.
pub(crate) fn text(bytes: &[u8]) -> String {
    bytes
        .escape_ascii()
        .to_string()
        .replace("\\r\\n", "\n")
        .replace("\\\"", "\"")
        .replace("\\'", "'")
}
