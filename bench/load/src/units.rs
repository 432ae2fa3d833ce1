//! The units of work that connections repeat.

use crate::Target;
use crate::client::{Client, frame, invalid_data};
use crate::drive::{Source, Unit};
use crate::meter::Meter;
use crate::tls::connector;
use std::error::Error;
use std::io::Result;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Address of the origin's plain TCP listener. It differs from that of the forward proxies, as in
/// practice.
pub(crate) const ORIGIN: &str = "127.0.0.9";
/// Size of one download through a tunnel, in MiB.
const DOWNLOAD_MIB: usize = 64;

type Secure = Client<TlsStream<TcpStream>>;

/// A request head as a browser sends it, without its final empty line.
pub(crate) fn browser(method: &str, path: &str, port: u16) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 \
         (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\nAccept: */*\r\nAccept-Language: en-US,en;q=0.9\r\n\
         Accept-Encoding: gzip, deflate, br\r\nOrigin: https://localhost:{port}\r\n\
         Referer: https://localhost:{port}/customer-widget/index.html\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\n\
         Sec-Fetch-Site: same-origin\r\n"
    )
}

/// GET on a kept connection.
pub(crate) struct Get {
    connector: TlsConnector,
    port: u16,
    path: String,
}

pub(crate) struct GetUnit {
    client: Secure,
    request: Vec<u8>,
}

/// The plain request that `wrk` also sends.
pub(crate) fn plain(path: &str, port: u16) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n").into_bytes()
}

impl Get {
    pub(crate) fn of(target: &Target, path: String) -> std::result::Result<Self, Box<dyn Error>> {
        Ok(Self { connector: connector(target, false)?, port: target.port, path })
    }
}

impl Source for Get {
    type Unit = GetUnit;

    async fn open(&self) -> Result<GetUnit> {
        let (client, _) = Client::connect(&self.connector, self.port).await?;
        Ok(GetUnit { client, request: plain(&self.path, self.port) })
    }
}

impl Unit for GetUnit {
    async fn once(&mut self, meter: &Meter) -> Result<()> {
        self.client.exchange(&self.request, |bytes| meter.moved(bytes)).await.map(drop)
    }
}

/// POST on a kept connection. The origin answers with the number of bytes that it received.
pub(crate) struct Upload {
    connector: TlsConnector,
    port: u16,
    bytes: usize,
}

pub(crate) struct UploadUnit {
    client: Secure,
    head: Vec<u8>,
    left: usize,
    piece: Vec<u8>,
}

impl Upload {
    pub(crate) fn of(target: &Target, bytes: usize) -> std::result::Result<Self, Box<dyn Error>> {
        Ok(Self { connector: connector(target, false)?, port: target.port, bytes })
    }
}

impl Source for Upload {
    type Unit = UploadUnit;

    async fn open(&self) -> Result<UploadUnit> {
        let (client, _) = Client::connect(&self.connector, self.port).await?;
        let head = format!(
            "POST /upload HTTP/1.1\r\nHost: localhost:{}\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: {}\r\n\r\n",
            self.port, self.bytes
        );
        Ok(UploadUnit {
            client,
            head: head.into_bytes(),
            left: self.bytes,
            piece: vec![b'x'; 64 << 10],
        })
    }
}

impl Unit for UploadUnit {
    async fn once(&mut self, meter: &Meter) -> Result<()> {
        self.client.send(&self.head).await?;
        let mut left = self.left;
        while left > 0 {
            let piece = left.min(self.piece.len());
            self.client.send(&self.piece[..piece]).await?;
            meter.moved(piece);
            left -= piece;
        }
        let said = self.client.fetch(b"").await?;
        if said == self.left.to_string().as_bytes() {
            Ok(())
        } else {
            Err(invalid_data("not all bytes arrived"))
        }
    }
}

/// A new connection, one request, and the end of the connection.
pub(crate) struct Handshake {
    target: Target,
    resume: bool,
}

pub(crate) struct HandshakeUnit {
    connector: TlsConnector,
    port: u16,
    resume: bool,
    request: Vec<u8>,
}

impl Handshake {
    pub(crate) fn of(target: &Target, resume: bool) -> std::result::Result<Self, Box<dyn Error>> {
        // Report a missing CA here, once and before any connection.
        connector(target, resume)?;
        Ok(Self { target: target.clone(), resume })
    }
}

impl Source for Handshake {
    type Unit = HandshakeUnit;

    async fn open(&self) -> Result<HandshakeUnit> {
        let mut unit = HandshakeUnit {
            // Each connection has a session store of its own, because a proxy may send only one
            // ticket at a time.
            connector: connector(&self.target, self.resume)
                .map_err(|error| invalid_data(error.to_string()))?,
            port: self.target.port,
            resume: self.resume,
            request: plain("/1k", self.target.port),
        };
        if unit.resume {
            // The first connection brings a ticket.
            unit.connect().await?;
        }
        Ok(unit)
    }
}

impl HandshakeUnit {
    async fn connect(&mut self) -> Result<(bool, usize)> {
        let (mut client, resumed) = Client::connect(&self.connector, self.port).await?;
        let bytes = client.exchange(&self.request, drop).await?;
        Ok((resumed, bytes))
    }
}

impl Unit for HandshakeUnit {
    async fn once(&mut self, meter: &Meter) -> Result<()> {
        let (resumed, bytes) = self.connect().await?;
        meter.moved(bytes);
        if resumed == self.resume {
            Ok(())
        } else {
            Err(invalid_data(format!("resumed: {resumed}")))
        }
    }
}

/// A message over a WebSocket, and its echo.
pub(crate) struct Echo {
    connector: TlsConnector,
    port: u16,
    text: Vec<u8>,
}

pub(crate) struct EchoUnit {
    client: Secure,
    frame: Vec<u8>,
    length: usize,
}

impl Echo {
    pub(crate) fn of(target: &Target, bytes: u8) -> std::result::Result<Self, Box<dyn Error>> {
        let text = vec![b'm'; usize::from(bytes.min(125))];
        Ok(Self { connector: connector(target, false)?, port: target.port, text })
    }
}

impl Source for Echo {
    type Unit = EchoUnit;

    async fn open(&self) -> Result<EchoUnit> {
        let (mut client, _) = Client::connect(&self.connector, self.port).await?;
        client.upgrade("/websocket", self.port).await?;
        Ok(EchoUnit { client, frame: frame(&self.text), length: self.text.len() })
    }
}

impl Unit for EchoUnit {
    async fn once(&mut self, meter: &Meter) -> Result<()> {
        self.client.send(&self.frame).await?;
        let text = self.client.frame().await?;
        meter.moved(text.len());
        if text.len() == self.length {
            Ok(())
        } else {
            Err(invalid_data("not the echo of the message"))
        }
    }
}

/// Socket.IO over long polls.
pub(crate) struct Polls {
    connector: TlsConnector,
    port: u16,
}

/// A Socket.IO session. The pong that a GET fetches is available at once after the POST with the
/// ping, so no poll hangs.
pub(crate) struct PollingSession {
    client: Secure,
    post: Vec<u8>,
    poll: Vec<u8>,
    pinged: bool,
}

impl Polls {
    pub(crate) fn of(target: &Target) -> std::result::Result<Self, Box<dyn Error>> {
        Ok(Self { connector: connector(target, false)?, port: target.port })
    }
}

impl Source for Polls {
    type Unit = PollingSession;

    async fn open(&self) -> Result<PollingSession> {
        let (client, _) = Client::connect(&self.connector, self.port).await?;
        PollingSession::begin(client, self.port).await
    }
}

impl PollingSession {
    /// Opens a session with the first request of a Socket.IO client.
    pub(crate) async fn begin(mut client: Secure, port: u16) -> Result<Self> {
        let path = "/socket.io/?EIO=3&transport=polling";
        let opened = client.fetch(format!("{}\r\n", browser("GET", path, port)).as_bytes()).await?;
        let opened = String::from_utf8_lossy(&opened);
        let sid = opened
            .split('"')
            .nth(3)
            .ok_or_else(|| invalid_data(format!("no session: {opened}")))?;
        let path = format!("{path}&sid={sid}");
        let ping = format!(
            "{}Content-Type: text/plain;charset=UTF-8\r\nContent-Length: 3\r\n\r\n1:2",
            browser("POST", &path, port)
        );
        let poll = format!("{}\r\n", browser("GET", &path, port));
        Ok(Self { client, post: ping.into_bytes(), poll: poll.into_bytes(), pinged: false })
    }
}

impl Unit for PollingSession {
    async fn once(&mut self, meter: &Meter) -> Result<()> {
        let (request, expected) =
            if self.pinged { (&self.poll, &b"1:3"[..]) } else { (&self.post, &b"ok"[..]) };
        self.pinged = !self.pinged;
        let said = self.client.fetch(request).await?;
        meter.moved(said.len());
        if said == expected {
            Ok(())
        } else {
            Err(invalid_data(format!("{:?}", String::from_utf8_lossy(&said))))
        }
    }
}

/// CONNECT, a byte in each direction, and the end of the tunnel.
pub(crate) struct Tunnel {
    pub(crate) port: u16,
    pub(crate) origin: u16,
}

pub(crate) struct TunnelUnit {
    port: u16,
    origin: u16,
}

impl Source for Tunnel {
    type Unit = TunnelUnit;

    async fn open(&self) -> Result<TunnelUnit> {
        Ok(TunnelUnit { port: self.port, origin: self.origin })
    }
}

impl Unit for TunnelUnit {
    async fn once(&mut self, meter: &Meter) -> Result<()> {
        let mut tunnel = Client::tunnel(self.port, ORIGIN, self.origin).await?;
        ping(&mut tunnel).await?;
        meter.moved(1);
        Ok(())
    }
}

/// Exchanges a byte with the origin.
pub(crate) async fn ping(tunnel: &mut Client<TcpStream>) -> Result<()> {
    tunnel.send(b"?").await?;
    if tunnel.take(1).await? == b"!" { Ok(()) } else { Err(invalid_data("not the origin")) }
}

/// A download through a tunnel.
pub(crate) struct TunnelBulk {
    pub(crate) port: u16,
    pub(crate) origin: u16,
}

pub(crate) struct DownloadUnit(Client<TcpStream>);

impl Source for TunnelBulk {
    type Unit = DownloadUnit;

    async fn open(&self) -> Result<DownloadUnit> {
        Ok(DownloadUnit(Client::tunnel(self.port, ORIGIN, self.origin).await?))
    }
}

impl Unit for DownloadUnit {
    async fn once(&mut self, meter: &Meter) -> Result<()> {
        self.0.send(format!(">{DOWNLOAD_MIB}").as_bytes()).await?;
        self.0.skip(DOWNLOAD_MIB << 20, |bytes| meter.moved(bytes)).await
    }
}
