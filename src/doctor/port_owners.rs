//! Finds the program that listens on a TCP port of this host, in `/proc`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A program that listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortOwner {
    /// Its process; `None`: another user's, which only root may look at.
    pub pid: Option<i32>,
    /// Its name; empty if it is not known.
    pub program: String,
}

/// Processes that prevent listening on `address`; empty if there are none.
#[must_use]
pub fn holders(address: SocketAddr) -> Vec<PortOwner> {
    let mut inodes = Vec::new();
    for (file, length) in [("/proc/net/tcp", 8), ("/proc/net/tcp6", 32)] {
        let text = fs::read_to_string(file).unwrap_or_default();
        let listening = text.lines().skip(1).filter_map(|line| listening(line, length));
        inodes.extend(listening.filter(|(held, _)| meets(*held, address)).map(|(_, inode)| inode));
    }
    let mut holders: Vec<PortOwner> = Vec::new();
    for inode in inodes {
        let holder = owner(&inode).unwrap_or(PortOwner { pid: None, program: String::new() });
        if !holders.contains(&holder) {
            holders.push(holder);
        }
    }
    holders
}

/// Whether one address in use keeps another from being used.
fn meets(held: SocketAddr, wanted: SocketAddr) -> bool {
    let (held_ip, wanted_ip) = (held.ip().to_canonical(), wanted.ip().to_canonical());
    held.port() == wanted.port()
        && (held_ip == wanted_ip
            || held_ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            || held_ip.is_ipv4() == wanted_ip.is_ipv4()
                && (held_ip.is_unspecified() || wanted_ip.is_unspecified()))
}

/// Address and inode of a line of `/proc/net/tcp`, if it is a socket that listens.
fn listening(line: &str, length: usize) -> Option<(SocketAddr, String)> {
    let mut fields = line.split_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    // 0A: TCP_LISTEN, after the remote address.
    let listens = fields.nth(1)? == "0A";
    let inode = fields.nth(5)?.to_owned();
    if ip.len() != length || !listens {
        return None;
    }
    // Words of 32 bits, each in the order of this machine.
    let mut bytes = Vec::new();
    for at in (0..length).step_by(8) {
        bytes.extend(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let ip = match length {
        8 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some((SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?), inode))
}

/// The process that has a socket open.
fn owner(inode: &str) -> Option<PortOwner> {
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Another user's cannot be read, unless one is root.
        let Ok(open) = fs::read_dir(process.path().join("fd")) else { continue };
        let has = |link: fs::DirEntry| {
            fs::read_link(link.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str())
        };
        if open.flatten().any(has) {
            let program = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(PortOwner { pid: Some(pid), program: program.trim().to_owned() });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn finds_this_very_process() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let found = holders(listener.local_addr().unwrap());
            let pid = i32::try_from(std::process::id()).unwrap();
            assert_eq!(found.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [Some(pid)]);
        }
    }

    #[test]
    fn wildcards_meet_every_address() {
        let cases = [
            ("0.0.0.0:1", "127.0.0.2:1", true),
            ("127.0.0.2:1", "0.0.0.0:1", true),
            ("[::]:1", "0.0.0.0:1", true),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("[::1]:1", "0.0.0.0:1", false),
        ];
        for (held, wanted, meet) in cases {
            assert_eq!(
                meets(held.parse().unwrap(), wanted.parse().unwrap()),
                meet,
                "{held} {wanted}"
            );
        }
    }
}
