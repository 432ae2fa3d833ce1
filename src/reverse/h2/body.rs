//! The request body of an HTTP/2 stream.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;

use crate::downstream::drive::{RequestSource, Upload};
use crate::message::body::passable_trailers;
use crate::message::forward::field;
use crate::message::{Reason, ResponseHead};
use crate::net::CoarseClock;
use crate::reverse::ClientConn;
use crate::upstream::Exchange;

/// Reads the request body of a stream.
pub(super) struct StreamRequestBody {
    pub(super) body: RecvStream,
    pub(super) upload: Upload,
    pub(super) stated: Option<u64>,
    /// Trailer fields as text, as received.
    pub(super) trailers: Vec<u8>,
    pub(super) clock: CoarseClock,
    pub(super) client_conn: Rc<ClientConn>,
}

impl StreamRequestBody {
    /// The next piece of the body. `None` after the end of the body and its trailers.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if let Some(piece) = ready!(self.body.poll_data(cx)) {
            return Poll::Ready(Some(piece));
        }
        match ready!(self.body.poll_trailers(cx)) {
            Ok(trailers) => {
                for (name, value) in trailers.iter().flatten() {
                    field(&mut self.trailers, name.as_str(), value.as_bytes());
                }
                Poll::Ready(None)
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    fn pass(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        exchange: &mut Exchange,
    ) -> Result<(), Reason> {
        // Checked before sending, so that an upstream never gets more than the announced length.
        let sum = self.upload.bytes + data.len() as u64;
        if self.stated.is_some_and(|stated| sum > stated) {
            return Err(Reason::AmbiguousFraming);
        }
        self.upload.pass(cx, self.clock.now(), data, exchange)?;
        // The data has been consumed, so the client may send as much again.
        let released = self.body.flow_control().release_capacity(data.len());
        released.map_err(|_| Reason::Internal)
    }

    fn end(&mut self, cx: &mut Context<'_>, exchange: &mut Exchange) -> Result<(), Reason> {
        if self.stated.is_some_and(|stated| self.upload.bytes != stated) {
            return Err(Reason::AmbiguousFraming);
        }
        let trailers = passable_trailers(&std::mem::take(&mut self.trailers))
            .map_err(|_| Reason::BadRequest)?;
        self.upload.end(cx, &trailers, exchange);
        Ok(())
    }
}

impl RequestSource for StreamRequestBody {
    fn poll_upload(&mut self, cx: &mut Context<'_>, exchange: &mut Exchange) -> Result<(), Reason> {
        while !self.upload.is_done() && exchange.takes_more() {
            match self.poll_piece(cx) {
                Poll::Pending => return self.upload.wait(self.clock.now()),
                Poll::Ready(Some(Err(error))) => return Err(ended_by(&error, &self.client_conn)),
                Poll::Ready(Some(Ok(data))) => self.pass(cx, &data, exchange)?,
                Poll::Ready(None) => self.end(cx, exchange)?,
            }
        }
        // The upload waits for the upstream, or is complete, so the client is not too slow.
        self.upload.pace.moved(self.clock.now(), 0);
        Ok(())
    }

    fn upload(&mut self) -> &mut Upload {
        &mut self.upload
    }

    fn interim(&mut self, _: &mut Context<'_>, _: Option<&ResponseHead>) {}

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // The task of the stream ends the request when the stream is reset.
        Poll::Pending
    }
}

/// The reason why a stream ended before its request: the client, or a protocol error detected by
/// h2.
pub(super) fn ended_by(error: &h2::Error, client_conn: &ClientConn) -> Reason {
    if error.is_library() && error.is_reset() {
        return Reason::Http2Protocol;
    }
    client_conn.ended.get().unwrap_or(Reason::ClientGone)
}
