//! Echo server for the WebSockets of the self-test. It first reports how the request arrived.
//!
//! It implements the necessary part of RFC 6455: unfragmented messages of a few KiB, no extensions.
//! Other frames are answered with the appropriate Close code. Apart from the first message, it
//! never sends more than it received.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::generation::SelfTestServer;
use crate::net::Timer;

use super::origin::SelfTestOrigin;

/// Longest lifetime of a WebSocket, in addition to the silence under test.
const MAX_LIFETIME: Duration = Duration::from_mins(1);
/// Time to wait for the answer to our Close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that a client may send in all, frame headers included.
const MAX_BYTES: usize = 64 << 10;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Longest payload of a control frame, and of a frame with a short header.
const MAX_CONTROL_PAYLOAD: usize = 125;

/// Codes of Close frames (RFC 6455 section 7.4.1).
const NORMAL: u16 = 1000;
const PROTOCOL: u16 = 1002;
const UNSUPPORTED: u16 = 1003;
const POLICY: u16 = 1008;
const TOO_BIG: u16 = 1009;

/// Echoes until the client closes, its byte limit is reached or its time is over.
///
/// # Cancellation
///
/// Dropping the future closes the stream, without a Close frame.
pub(super) async fn serve<T: AsyncRead + AsyncWrite + Unpin>(mut io: T, origin: &SelfTestOrigin) {
    let timer = origin.clock.timer();
    timer.set(origin.test.idle + MAX_LIFETIME);
    let hello = origin.hello();
    let code = {
        let mut session = pin!(session(&mut io, hello.as_bytes()));
        poll_fn(|cx| match session.as_mut().poll(cx) {
            Poll::Ready(Ok(code)) => Poll::Ready(Some(code)),
            Poll::Ready(Err(_)) => Poll::Ready(None),
            Poll::Pending => timer.poll(cx).map(|()| Some(NORMAL)),
        })
        .await
    };
    if let Some(code) = code {
        // An error means that the client has disconnected.
        let _ = send_close(&mut io, code, &timer).await;
    }
}

/// Echoes messages. Returns the code to close with.
async fn session<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T, hello: &[u8]) -> io::Result<u16> {
    io.write_all(&encode(TEXT, hello)).await?;
    let (mut input, mut left) = (BytesMut::new(), MAX_BYTES);
    loop {
        match take(&mut input) {
            Err(code) => return Ok(code),
            Ok(Some((opcode, payload))) => {
                let Some(rest) = left.checked_sub(payload.len() + 6) else { return Ok(POLICY) };
                left = rest;
                match opcode {
                    TEXT | BINARY => io.write_all(&encode(opcode, &payload)).await?,
                    PING => io.write_all(&encode(PONG, &payload)).await?,
                    CLOSE => return Ok(NORMAL),
                    _ => {}
                }
            }
            Ok(None) => {
                if io.read_buf(&mut input).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

/// Sends a Close frame, and waits a moment for the client to close.
async fn send_close<T: AsyncRead + AsyncWrite + Unpin>(
    io: &mut T,
    code: u16,
    timer: &Timer,
) -> io::Result<()> {
    timer.set(CLOSE_TIMEOUT);
    let frame = encode(CLOSE, &code.to_be_bytes());
    let mut parting = pin!(async {
        io.write_all(&frame).await?;
        io.shutdown().await?;
        let mut rest = [0; 256];
        while io.read(&mut rest).await? > 0 {}
        Ok(())
    });
    poll_fn(|cx| match parting.as_mut().poll(cx) {
        Poll::Pending => timer.poll(cx).map(Ok),
        done @ Poll::Ready(_) => done,
    })
    .await
}

/// Takes a complete frame of a client from `input`. Returns opcode and payload.
///
/// # Errors
///
/// Echoes messages. Returns the code to close with.
fn take(input: &mut BytesMut) -> Result<Option<(u8, Vec<u8>)>, u16> {
    let [first, second, ..] = **input else { return Ok(None) };
    let opcode = first & 0x0f;
    match opcode {
        // No extension was negotiated, so the reserved bits must be 0.
        _ if first & 0x70 != 0 || second & MASKED == 0 => return Err(PROTOCOL),
        0 => return Err(UNSUPPORTED),
        TEXT | BINARY if first & FINAL == 0 => return Err(UNSUPPORTED),
        CLOSE..=PONG if first & FINAL == 0 => return Err(PROTOCOL),
        TEXT | BINARY | CLOSE..=PONG => {}
        _ => return Err(PROTOCOL),
    }
    let (length, at) = match usize::from(second & !MASKED) {
        length @ 0..=MAX_CONTROL_PAYLOAD => (length, 2),
        _ if opcode >= CLOSE => return Err(PROTOCOL),
        126 => match **input {
            [_, _, high, low, ..] => (usize::from(u16::from_be_bytes([high, low])), 4),
            _ => return Ok(None),
        },
        _ => return Err(TOO_BIG),
    };
    if length as u64 > SelfTestServer::LONGEST_BODY {
        return Err(TOO_BIG);
    }
    if input.len() < at + 4 + length {
        return Ok(None);
    }
    input.advance(at);
    let key = input.split_to(4);
    let payload = input.split_to(length);
    Ok(Some((opcode, payload.iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b).collect())))
}

/// Encodes an unmasked frame.
fn encode(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![FINAL | opcode];
    match u8::try_from(payload.len()) {
        Ok(length) if usize::from(length) <= MAX_CONTROL_PAYLOAD => frame.push(length),
        _ => {
            // Payloads of the gateway fit into sixteen bits.
            let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
            frame.push(126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = encode(0, payload);
        frame[0] = first;
        frame[1] |= MASKED;
        let at = frame.len() - payload.len();
        frame.splice(at..at, [0; 4]);
        frame
    }

    fn taken(bytes: &[u8]) -> Result<Option<(u8, Vec<u8>)>, u16> {
        take(&mut BytesMut::from(bytes))
    }

    #[test]
    fn complete_frames_are_taken_and_partial_ones_wait() {
        for payload in [vec![], vec![7; 125], vec![7; 126], vec![7; 4096]] {
            let frame = masked(FINAL | BINARY, &payload);
            assert_eq!(taken(&frame), Ok(Some((BINARY, payload))));
            for short in [0, 1, 3, frame.len() - 1] {
                assert_eq!(taken(&frame[..short.min(frame.len() - 1)]), Ok(None));
            }
        }
        // The example of RFC 6455 section 5.7.
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(taken(&hello), Ok(Some((TEXT, b"Hello".to_vec()))));
    }

    #[test]
    fn unsupported_frames_are_closed_with_the_right_code() {
        assert_eq!(taken(&encode(TEXT, b"not masked")), Err(PROTOCOL));
        assert_eq!(taken(&masked(FINAL | 0x40 | TEXT, b"compressed")), Err(PROTOCOL));
        assert_eq!(taken(&masked(FINAL | 3, b"")), Err(PROTOCOL));
        assert_eq!(taken(&masked(PING, b"")), Err(PROTOCOL));
        assert_eq!(taken(&masked(FINAL | PING, &[0; 126])), Err(PROTOCOL));
        assert_eq!(taken(&masked(TEXT, b"fragment")), Err(UNSUPPORTED));
        assert_eq!(taken(&masked(FINAL, b"continuation")), Err(UNSUPPORTED));
        assert_eq!(taken(&masked(FINAL | TEXT, &[0; 4097])), Err(TOO_BIG));
        assert_eq!(taken(&[FINAL | TEXT, MASKED | 127]), Err(TOO_BIG));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let mut input = BytesMut::from(&*bytes);
            while let Ok(Some((_, payload))) = take(&mut input) {
                prop_assert!(payload.len() <= bytes.len());
            }
        }
    }
}
