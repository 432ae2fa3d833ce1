//! HTTP/1.1 client for requests of the gateway itself and of its commands: one request per
//! connection, on hyper.
//!
//! Never carries a request of a client: hyper accepts more than `message` does. Deadlines are the
//! caller's, because dropping a future closes the connection.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};

use bytes::Bytes;
use http::{Request, response};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{Builder, Connection};
use hyper::rt::{Read, Write};

/// Bytes of the head of an answer.
const MAX_HEAD: usize = 64 * 1024;

/// Fields of the head of an answer.
const MAX_HEADER_FIELDS: usize = 128;

/// An answer whose body has not been read.
pub struct HttpAnswer<T: Read + Write> {
    /// Status and header fields.
    pub head: response::Parts,
    body: Incoming,
    connection: Connection<T, Full<Bytes>>,
    /// The connection has more to do.
    open: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// The server closed the connection before the first byte of an answer.
    #[error("the connection was closed before an answer")]
    Closed,
    /// The answer is not HTTP/1.1, or ends too early; the bytes of it that were not understood.
    #[error("the answer is not HTTP, or not complete")]
    Malformed(Bytes),
    /// The body has more bytes than the caller reads.
    #[error("the answer is too long")]
    TooLong,
    /// The socket failed, or TLS.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Sends a request on an open connection and reads the head of the answer. The request needs its
/// `Host` field.
///
/// # Errors
///
/// [`HttpClientError`], never `TooLong`.
///
/// # Cancellation
///
/// Dropping the future drops `io`.
pub async fn send<T: Read + Write + Unpin>(
    io: T,
    request: Request<Full<Bytes>>,
) -> Result<HttpAnswer<T>, HttpClientError> {
    let mut builder = Builder::new();
    builder.title_case_headers(true).max_headers(MAX_HEADER_FIELDS).max_buf_size(MAX_HEAD);
    let (mut sender, mut connection) =
        builder.handshake(io).await.map_err(|error| failure(&error, Bytes::new()))?;
    let mut open = true;
    let answer = {
        let mut answer = pin!(sender.send_request(request));
        poll_fn(|cx| {
            open = open && connection.poll_without_shutdown(cx).is_pending();
            answer.as_mut().poll(cx)
        })
        .await
    };
    match answer {
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            Ok(HttpAnswer { head, body, connection, open })
        }
        Err(error) => Err(failure(&error, connection.into_parts().read_buf)),
    }
}

impl<T: Read + Write + Unpin> HttpAnswer<T> {
    /// Appends the body to `body`, and stops at `most` bytes. The bytes before a failure are kept.
    ///
    /// # Errors
    ///
    /// [`HttpClientError`].
    ///
    /// # Cancellation
    ///
    /// `body` has the bytes received so far.
    pub async fn read_body(
        &mut self,
        body: &mut Vec<u8>,
        most: usize,
    ) -> Result<(), HttpClientError> {
        loop {
            let frame = poll_fn(|cx| {
                self.open = self.open && self.connection.poll_without_shutdown(cx).is_pending();
                Pin::new(&mut self.body).poll_frame(cx)
            });
            let Some(frame) = frame.await else { return Ok(()) };
            let frame = frame.map_err(|error| failure(&error, Bytes::new()))?;
            let Ok(data) = frame.into_data() else { continue };
            let room = most.saturating_sub(body.len());
            body.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
            if data.len() > room {
                return Err(HttpClientError::TooLong);
            }
        }
    }
}

/// The failure behind an error of hyper. `received`: bytes that it did not understand.
fn failure(error: &hyper::Error, received: Bytes) -> HttpClientError {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause {
        // The cause cannot be moved out of hyper's error; one of TLS keeps its type.
        Some(cause) => HttpClientError::Io(copied(cause)),
        None if error.is_parse() || !received.is_empty() => HttpClientError::Malformed(received),
        None => HttpClientError::Closed,
    }
}

fn copied(error: &io::Error) -> io::Error {
    if let Some(code) = error.raw_os_error() {
        return io::Error::from_raw_os_error(code);
    }
    match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(tls) => io::Error::new(error.kind(), tls.clone()),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Status and body of an answer with these bytes, of which `most` are read.
    async fn answer(said: &'static [u8], most: usize) -> Result<(u16, String), HttpClientError> {
        let (ours, mut theirs) = duplex(1 << 16);
        let server = async move {
            let mut request = [0; 1024];
            let length = theirs.read(&mut request).await.unwrap();
            theirs.write_all(said).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        };
        let request =
            Request::get("/x?y").header(http::header::HOST, "a.test").body(Full::default());
        let client = async {
            let mut answer = send(TokioIo::new(ours), request.unwrap()).await?;
            let mut body = Vec::new();
            answer.read_body(&mut body, most).await?;
            Ok((answer.head.status.as_u16(), String::from_utf8(body).unwrap()))
        };
        let (asked, answered) = tokio::join!(server, client);
        assert_eq!(asked, "GET /x?y HTTP/1.1\r\nHost: a.test\r\n\r\n");
        answered
    }

    #[tokio::test]
    async fn bodies_of_every_framing_are_read() {
        for said in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n3\r\nody\r\n0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nbody",
        ] {
            assert_eq!(answer(said, 4).await.unwrap(), (200, "body".to_owned()));
            assert!(matches!(answer(said, 3).await, Err(HttpClientError::TooLong)));
        }
    }

    #[tokio::test]
    async fn broken_answers_are_told_apart() {
        assert!(matches!(answer(b"", 9).await, Err(HttpClientError::Closed)));
        for said in [&b"SSH-2.0-x\r\n"[..], b"HTTP/1.1 200 OK\r\nDate"] {
            match answer(said, 9).await {
                Err(HttpClientError::Malformed(received)) => assert_eq!(received, said),
                other => panic!("{other:?}"),
            }
        }
        let short = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbo";
        assert!(answer(short, 9).await.is_err());
    }
}
