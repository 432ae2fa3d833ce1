//! Requests of the commands to the running gateway, over its admin socket.
//!
//! While the gateway is stopped, any user of this host may listen on the port of the admin
//! listener. Therefore only the health check, whose answer is one word, falls back to that port.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::admin::CommandOptions;
use crate::admin::socket;
use crate::config;
use crate::net::http_client;

use super::{environment, say_escaped, say_wrong_escaped};

/// For connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The largest answer that is read, in bytes: a plan of many routes is long.
const MAX_ANSWER: usize = 64 << 20;

/// An answer.
pub(super) struct AdminAnswer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl AdminAnswer {
    /// Parses the body as JSON.
    ///
    /// # Errors
    ///
    /// The error message of the gateway.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_str(&self.body)
            .map_err(|_| format!("the gateway answered {}: {}", self.status, self.body.trim()))
    }
}

/// Address of the running gateway's admin API.
enum AdminEndpoint {
    Socket(PathBuf),
    Listener(SocketAddr),
}

/// The sockets at which the gateway that runs on `directory` may be, best first.
fn sockets(directory: &Path) -> impl Iterator<Item = AdminEndpoint> {
    let said = config::read_admin_addresses(directory, &environment);
    said.socket.into_iter().chain(socket::usual(directory)).map(AdminEndpoint::Socket)
}

/// Its admin listener, if it has one.
fn listener(directory: &Path) -> Option<AdminEndpoint> {
    config::read_admin_addresses(directory, &environment)
        .listen
        .map(|listen| AdminEndpoint::Listener(reachable(listen)))
}

/// The address by which this host reaches a listener: loopback for a wildcard address.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Asks the gateway that runs on `directory`, with a request line like `GET /status`, and waits
/// `patience` for the answer.
///
/// # Errors
///
/// The addresses tried, the failure of each, and advice.
pub(super) fn ask(
    directory: &Path,
    line: &str,
    question: &CommandOptions,
    patience: Duration,
) -> Result<AdminAnswer, String> {
    ask_at(sockets(directory), directory, (line, question, patience)).map_err(|tried| {
        format!(
            "{tried}\ncommands use the admin socket alone; one that is \"off\" in [admin], or in a directory \
             that the gateway cannot write, has to be configured first"
        )
    })
}

/// Like [`ask`], but falls back to the admin listener if there is no socket.
///
/// # Errors
///
/// The same as [`ask`].
pub(super) fn ask_health(
    directory: &Path,
    line: &str,
    patience: Duration,
) -> Result<AdminAnswer, String> {
    let doors = sockets(directory).chain(listener(directory));
    ask_at(doors, directory, (line, &CommandOptions::default(), patience))
}

fn ask_at(
    doors: impl Iterator<Item = AdminEndpoint>,
    directory: &Path,
    (line, question, patience): (&str, &CommandOptions, Duration),
) -> Result<AdminAnswer, String> {
    let mut tried = format!("no gateway that runs on {} answers:", directory.display());
    for door in doors {
        let (name, connected) = match &door {
            AdminEndpoint::Socket(path) => {
                (path.display().to_string(), UnixStream::connect(path).map(AdminStream::Unix))
            }
            AdminEndpoint::Listener(address) => (
                address.to_string(),
                TcpStream::connect_timeout(address, CONNECT_TIMEOUT).map(AdminStream::Tcp),
            ),
        };
        match connected {
            // Once it is connected, no other door is tried: a verb must not be done twice.
            Ok(stream) => {
                return exchange(stream, line, question, patience)
                    .map_err(|error| format!("no answer from the gateway at {name}: {error}"));
            }
            Err(error) => {
                let _ = write!(tried, "\n  {name}: {}", why(&error));
            }
        }
    }
    tried.push_str(
        "\nstart it with `app-gateway run`, or name the directory it runs on with `-c DIR`",
    );
    Err(tried)
}

/// Prints the answer of the gateway in plain words, or the reason why there is none.
pub(super) fn told(answer: Result<AdminAnswer, String>) -> ExitCode {
    match answer {
        Ok(answer) if answer.status < 300 => {
            say_escaped(&answer.body);
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            say_wrong_escaped(&answer.body);
            ExitCode::FAILURE
        }
        Err(message) => {
            say_wrong_escaped(&message);
            ExitCode::FAILURE
        }
    }
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such socket".to_owned(),
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; be root, or the user the gateway runs as".to_owned()
        }
        _ => error.to_string(),
    }
}

enum AdminStream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

fn exchange(
    stream: AdminStream,
    line: &str,
    question: &CommandOptions,
    patience: Duration,
) -> Result<AdminAnswer, String> {
    let request = request(line, question).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = async {
        let answer = match stream {
            AdminStream::Unix(stream) => {
                stream.set_nonblocking(true)?;
                timeout(patience, talk(tokio::net::UnixStream::from_std(stream)?, request)).await
            }
            AdminStream::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                timeout(patience, talk(tokio::net::TcpStream::from_std(stream)?, request)).await
            }
        };
        answer.unwrap_or_else(|_| {
            Err(io::Error::other(format!("no whole answer within {patience:?}")))
        })
    };
    runtime.and_then(|runtime| runtime.block_on(answer)).map_err(|error| error.to_string())
}

/// The request of a line like `POST /reload`, with its options if it is a command.
fn request(line: &str, question: &CommandOptions) -> http::Result<Request<Full<Bytes>>> {
    let (method, target) = line.split_once(' ').unwrap_or(("GET", line));
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "close");
    if method == "POST" {
        let body = serde_json::to_vec(question).unwrap_or_default();
        request.header(header::CONTENT_TYPE, "application/json").body(Full::from(body))
    } else {
        request.body(Full::default())
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> io::Result<AdminAnswer> {
    let mut answer =
        http_client::send(TokioIo::new(stream), request).await.map_err(io::Error::other)?;
    let mut body = Vec::new();
    answer.read_body(&mut body, MAX_ANSWER).await.map_err(io::Error::other)?;
    let body = String::from_utf8(body).map_err(io::Error::other)?;
    Ok(AdminAnswer { status: answer.head.status.as_u16(), body })
}
