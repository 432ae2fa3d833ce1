//! STUN client messages: ask a server for our address as it sees it (RFC 8489).
//!
//! Encodes and parses messages only; does not authenticate or allocate. Written here because the
//! crates for it bring ring (`stun`) or MD5, SHA-1 and a random generator (`stun-types`, `stun-rs`)
//! for the part of STUN that authenticates.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Constant field of every message (RFC 8489 section 5).
const MAGIC_COOKIE: [u8; 4] = 0x2112_A442_u32.to_be_bytes();

const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;
const ERROR: u16 = 0x0111;

const MAPPED_ADDRESS: u16 = 0x0001;
const ERROR_CODE: u16 = 0x0009;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const SOFTWARE: u16 = 0x8022;

/// Bytes of a message before its attributes.
pub const HEADER_LEN: usize = 20;

/// Transaction identifier.
pub type Transaction = [u8; 12];

/// A server's answer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StunAnswer {
    /// Our address as the server sees it.
    pub mapped: Option<SocketAddr>,
    /// Software name of the server.
    pub software: Option<String>,
    /// The code, if it is an error.
    pub error: Option<u16>,
}

/// A binding request without attributes.
#[must_use]
pub fn request(transaction: &Transaction) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_LEN);
    message.extend(REQUEST.to_be_bytes());
    message.extend([0, 0]);
    message.extend(MAGIC_COOKIE);
    message.extend(transaction);
    message
}

/// Length of the message that begins here; `None` if it is no STUN message.
#[must_use]
pub fn length(header: &[u8]) -> Option<usize> {
    let (first, rest) = (header.get(..2)?, header.get(2..8)?);
    // The two first bits are 0, the length is in whole words.
    let length = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
    let plausible =
        first.first()? & 0xC0 == 0 && length.is_multiple_of(4) && rest.get(2..)? == MAGIC_COOKIE;
    plausible.then_some(HEADER_LEN + length)
}

/// Reads the answer to a binding request.
///
/// # Errors
///
/// Description of the message, if it is not a valid answer.
pub fn answer(message: &[u8], transaction: &Transaction) -> Result<StunAnswer, &'static str> {
    let length = length(message).ok_or("not a STUN message")?;
    let kind = word(message, 0).ok_or("not a STUN message")?;
    let body = message.get(HEADER_LEN..length).ok_or("a STUN message that is cut off")?;
    if message.get(8..HEADER_LEN) != Some(transaction) {
        return Err("an answer to another request");
    }
    if kind != SUCCESS && kind != ERROR {
        return Err("a STUN message that is no answer to a binding request");
    }
    let mut answer = StunAnswer::default();
    let mut plain = None;
    let mut rest = body;
    while let (Some(kind), Some(size)) = (word(rest, 0), word(rest, 2)) {
        let size = usize::from(size);
        let value = rest.get(4..4 + size).ok_or("an attribute that is cut off")?;
        match kind {
            XOR_MAPPED_ADDRESS => answer.mapped = address(value, Some(transaction)),
            MAPPED_ADDRESS => plain = address(value, None),
            SOFTWARE => answer.software = Some(String::from_utf8_lossy(value).into_owned()),
            ERROR_CODE => {
                let (class, number) = (value.get(2).unwrap_or(&0) & 7, value.get(3).unwrap_or(&0));
                answer.error = Some(u16::from(class) * 100 + u16::from(*number));
            }
            _ => {}
        }
        rest = rest.get(4 + size.next_multiple_of(4)..).unwrap_or_default();
    }
    // Servers of the time of RFC 3489 know no other.
    answer.mapped = answer.mapped.or(plain);
    if kind == ERROR {
        answer.error = answer.error.or(Some(0));
    } else if answer.mapped.is_none() {
        return Err("an answer without an address");
    }
    Ok(answer)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// An address, hidden by XOR with cookie and transaction if there is one (section 14.2).
fn address(value: &[u8], hidden: Option<&Transaction>) -> Option<SocketAddr> {
    let mut key = [0; 16];
    if let Some(transaction) = hidden {
        key[..4].copy_from_slice(&MAGIC_COOKIE);
        key[4..].copy_from_slice(transaction);
    }
    let port = word(value, 2)? ^ u16::from_be_bytes([key[0], key[1]]);
    let clear: Vec<u8> = value.get(4..)?.iter().zip(key).map(|(byte, key)| byte ^ key).collect();
    let ip = match value.get(1)? {
        1 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(clear).ok()?)),
        2 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(clear).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    const TRANSACTION: &str = "b7e7a701 bc34d686 fa87dfae";

    /// RFC 5769 section 2.2.
    const IPV4: &str = "0101003c 2112a442 b7e7a701 bc34d686 fa87dfae \
        8022000b 74657374 20766563 746f7220 00200008 0001a147 e112a643 \
        00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7 80280004 c07d4c96";

    /// RFC 5769 section 2.3.
    const IPV6: &str = "01010048 2112a442 b7e7a701 bc34d686 fa87dfae \
        8022000b 74657374 20766563 746f7220 00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9 \
        00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41 80280004 c8fb0b4c";

    fn transaction() -> Transaction {
        bytes(TRANSACTION).try_into().unwrap()
    }

    #[test]
    fn reads_the_vectors_of_rfc_5769() {
        for (vector, mapped) in
            [(IPV4, "192.0.2.1:32853"), (IPV6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
        {
            let message = bytes(vector);
            assert_eq!(length(&message), Some(message.len()));
            let answer = answer(&message, &transaction()).unwrap();
            assert_eq!(answer.mapped, Some(mapped.parse().unwrap()));
            assert_eq!(answer.software.as_deref(), Some("test vector"));
            assert_eq!(answer.error, None);
        }
    }

    #[test]
    fn writes_the_header_of_rfc_5769() {
        // Section 2.1 with attributes taken off, so with another length.
        let expected = bytes("00010000 2112a442 b7e7a701 bc34d686 fa87dfae");
        assert_eq!(request(&transaction()), expected);
        assert_eq!(length(&expected), Some(HEADER_LEN));
    }

    #[test]
    fn reads_old_answers_and_errors() {
        let old = bytes(&format!("0101000c 2112a442 {TRANSACTION} 00010008 00011234 c0000201"));
        let mapped = answer(&old, &transaction()).unwrap().mapped;
        assert_eq!(mapped, Some("192.0.2.1:4660".parse().unwrap()));
        let error = bytes(&format!("01110008 2112a442 {TRANSACTION} 00090004 00000414"));
        assert_eq!(answer(&error, &transaction()).unwrap().error, Some(420));
    }

    #[test]
    fn refuses_what_is_not_an_answer() {
        let good = bytes(IPV4);
        for cut in 0..good.len() {
            assert!(answer(&good[..cut], &transaction()).is_err(), "{cut}");
        }
        assert!(answer(&good, &[0; 12]).is_err());
        assert!(answer(b"HTTP/1.1 400 Bad Request\r\n\r\n", &transaction()).is_err());
        assert!(answer(&request(&transaction()), &transaction()).is_err());
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 0xff;
            let _ = answer(&bad, &transaction());
        }
    }
}
