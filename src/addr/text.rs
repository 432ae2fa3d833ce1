//! Addresses as text, written without the `fmt` machinery, because each request and each log line
//! needs one.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

/// Appends an address as `Display` writes it.
pub fn write_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            number(out, a.into());
            for part in [b, c, d] {
                out.push(b'.');
                number(out, part.into());
            }
        }
        // `Display` implements the compression of zeros. Writing to a Vec cannot fail.
        IpAddr::V6(ip) => drop(write!(out, "{ip}")),
    }
}

/// Appends an address and port as `Display` writes them.
pub fn write_socket(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(_) => {
            write_ip(out, address.ip());
            out.push(b':');
            number(out, address.port());
        }
        SocketAddr::V6(_) => drop(write!(out, "{address}")),
    }
}

fn number(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_display_writes() {
        for text in [
            "0.0.0.0:0",
            "192.0.2.17:51234",
            "255.255.255.255:65535",
            "[::1]:443",
            "[2001:db8::17]:8443",
            "[::ffff:192.0.2.1]:1",
        ] {
            let address: SocketAddr = text.parse().unwrap();
            let (mut ip, mut socket) = (Vec::new(), Vec::new());
            write_ip(&mut ip, address.ip());
            write_socket(&mut socket, address);
            assert_eq!(ip, address.ip().to_string().into_bytes());
            assert_eq!(socket, address.to_string().into_bytes());
        }
    }
}
