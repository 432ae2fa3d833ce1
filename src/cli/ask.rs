//! Asking the running gateway, over its admin listener.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::config;

use super::{complain, environment, say_wrong};

/// For connecting.
const PATIENCE: Duration = Duration::from_secs(3);
/// The largest answer that is read, in bytes: a drawn configuration error can be long.
const MOST: u64 = 4 << 20;

/// The admin listener's address in a configuration directory; what is wrong has been said if there
/// is none. Warnings are for whoever starts the gateway, not for each question to it.
pub(super) fn admin_of(directory: &Path) -> Option<SocketAddr> {
    let config = match config::load(directory, &environment) {
        Ok(loaded) => loaded.config,
        Err(refused) => {
            complain(&refused.sources, &refused.problems);
            return None;
        }
    };
    let admin = config.admin.map(|admin| reachable(admin.listen));
    if admin.is_none() {
        say_wrong("there is no [admin] listener to ask; add one to gateway.toml");
    }
    admin
}

/// Where a wildcard address is reached from this host.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Sends a request line with further fields, and waits `patience` for the answer: status and body.
///
/// # Errors
///
/// The system's, or an answer that is not HTTP.
pub(super) fn ask(
    address: SocketAddr,
    request: &str,
    patience: Duration,
) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(patience))?;
    let text = format!("{request}\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer)?;
    let status = answer.get(9..12).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    status.zip(body).ok_or_else(|| io::Error::other("the answer is not HTTP"))
}
