//! Requests of the commands to the running gateway, over its admin socket.
//!
//! While the gateway is stopped, any user of this host may listen on the port of the admin
//! listener. Therefore only the health check, whose answer is one word, falls back to that port.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::CommandOptions;
use crate::admin::socket;
use crate::config;

use super::{environment, say_escaped, say_wrong_escaped};

/// For connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The largest answer that is read, in bytes: a plan of many routes is long.
const MAX_ANSWER: u64 = 64 << 20;

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
    let body = serde_json::to_string(question).unwrap_or_default();
    let mut request = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    if line.starts_with("POST") {
        let _ = write!(
            request,
            "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    } else {
        request.push_str("\r\n");
    }
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
            Ok(mut stream) => {
                return exchange(&mut stream, &request, patience)
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
    stream: &mut AdminStream,
    request: &str,
    patience: Duration,
) -> io::Result<AdminAnswer> {
    match stream {
        AdminStream::Unix(stream) => {
            stream.set_read_timeout(Some(patience))?;
            talk(stream, request)
        }
        AdminStream::Tcp(stream) => {
            stream.set_read_timeout(Some(patience))?;
            talk(stream, request)
        }
    }
}

fn talk(stream: &mut (impl Read + Write), request: &str) -> io::Result<AdminAnswer> {
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    let status = answer.get(9..12).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    let both = status.zip(body).map(|(status, body)| AdminAnswer { status, body });
    both.ok_or_else(|| io::Error::other("the answer is not HTTP"))
}
