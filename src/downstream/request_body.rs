//! Request bodies of HTTP/1 clients, from the client to the upstream.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::ReadBuf;

use crate::message::forward::{ResponseEdits, ResponseFraming, write_response};
use crate::message::{DecodeStep, Reason, ResponseHead, Version};
use crate::net::{Io, WorkerLocal};
use crate::upstream::Exchange;

use super::MAX_READS_PER_POLL;
use super::conn::Conn;
use super::drive::{RequestSource, Upload};

/// A client connection with the request body that is read from it.
pub(crate) struct RequestBody<'a, T> {
    pub(crate) conn: &'a mut Conn<T>,
    pub(crate) upload: Upload,
    pub(crate) version: Version,
}

impl<T: Io> RequestSource for RequestBody<'_, T> {
    fn poll_upload(&mut self, cx: &mut Context<'_>, exchange: &mut Exchange) -> Result<(), Reason> {
        let (conn, upload) = (&mut *self.conn, &mut self.upload);
        if upload.held {
            if conn.input.is_empty() && matches!(conn.poll_fill(cx), Poll::Ready(Ok(0) | Err(_))) {
                return Err(Reason::ClientGone);
            }
            upload.held = conn.input.is_empty();
        }
        let local = Rc::clone(&conn.local);
        let mut reads_left = MAX_READS_PER_POLL;
        while !upload.is_done() && !upload.held && exchange.takes_more() {
            if reads_left == 0 {
                cx.waker().wake_by_ref();
                return Ok(());
            }
            reads_left -= 1;
            if !conn.input.is_empty() {
                let mut at = 0;
                let result = feed(upload, cx, (&local, exchange), &conn.input, &mut at);
                conn.input.advance(at);
                result?;
                continue;
            }
            conn.input = BytesMut::new();
            let (io, input) = (&mut conn.io, &mut conn.input);
            let read = local.with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(io).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Reason::ClientGone)),
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                        return Poll::Ready(Err(Reason::ClientGone));
                    }
                    Poll::Ready(Ok(())) => {}
                }
                let mut at = 0;
                let result = feed(upload, cx, (&local, exchange), buffer.filled(), &mut at);
                input.extend_from_slice(buffer.filled().get(at..).unwrap_or_default());
                Poll::Ready(result)
            });
            match read {
                Poll::Ready(result) => result?,
                Poll::Pending => return upload.wait(local.clock.now()),
            }
        }
        // The upstream blocks or the body is complete, so waiting time does not count.
        upload.pace.moved(local.clock.now(), 0);
        Ok(())
    }

    fn upload(&mut self) -> &mut Upload {
        &mut self.upload
    }

    fn interim(&mut self, _: &mut Context<'_>, head: Option<&ResponseHead>) {
        if self.version != Version::Http11 {
            return;
        }
        let out = self.conn.out.staged();
        let is_continue = head.is_none_or(|head| head.status == 100);
        // A client that has not sent `Expect: 100-continue` could take the 100 for the final
        // response.
        if is_continue && !std::mem::take(&mut self.upload.may_continue) {
            return;
        }
        match head {
            None => out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"),
            Some(head) => {
                write_response(out, head, &ResponseEdits::default(), ResponseFraming::Nothing, b"");
            }
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(Err(_)) = self.conn.out.poll_flush(cx, &mut self.conn.io) {
            return Poll::Ready(());
        }
        if self.upload.is_done() { self.conn.poll_gone(cx) } else { Poll::Pending }
    }
}

/// Decodes the body in `input` and sends it to the upstream.
fn feed(
    upload: &mut Upload,
    cx: &mut Context<'_>,
    (local, exchange): (&WorkerLocal, &mut Exchange),
    input: &[u8],
    at: &mut usize,
) -> Result<(), Reason> {
    let now = local.clock.now();
    loop {
        match upload.decoder.decode(input, at).map_err(|_| Reason::BadChunk)? {
            DecodeStep::Data(range) => {
                upload.pass(cx, now, input.get(range).unwrap_or_default(), exchange)?;
                if upload.decoder.is_done() {
                    upload.end(cx, b"", exchange);
                    return Ok(());
                }
            }
            DecodeStep::More => return Ok(()),
            DecodeStep::End => {
                let trailers = upload.decoder.trailers().map_err(|_| Reason::BadChunk)?;
                upload.end(cx, &trailers, exchange);
                return Ok(());
            }
        }
    }
}
