//! `app-gateway healthcheck`: for containers, whose image has no curl.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::config;

use super::{complain, environment, say, say_wrong};

/// For connecting, and again for the answer.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn healthcheck(directory: &Path) -> ExitCode {
    // Warnings are for whoever starts the gateway, not for a health log every few seconds.
    let config = match config::load(directory, &environment) {
        Ok(loaded) => loaded.config,
        Err(refused) => {
            complain(&refused.sources, &refused.problems);
            return ExitCode::FAILURE;
        }
    };
    let Some(config::Admin { listen, .. }) = config.admin else {
        say_wrong("there is no [admin] listener to ask; add one to gateway.toml");
        return ExitCode::FAILURE;
    };
    match ask(reachable(listen)) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => {
            say("ready\n");
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            let body = answer.split_once("\r\n\r\n").map_or(answer.as_str(), |(_, body)| body);
            say_wrong(body.trim());
            ExitCode::FAILURE
        }
        Err(error) => {
            say_wrong(&format!("no answer from the gateway's admin listener on {listen}: {error}"));
            ExitCode::FAILURE
        }
    }
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

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer)
}
