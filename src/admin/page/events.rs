//! The page's server-sent events: all sections, every two seconds.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc;

use super::{AdminApi, live};

/// Interval between two events.
const EVENT_INTERVAL: Duration = Duration::from_secs(2);
/// Most streams at a time.
const MAX_EVENT_STREAMS: usize = 8;

/// A stream of events, as a body.
pub(in crate::admin) struct EventStream(mpsc::Receiver<Bytes>);

/// Counts a stream for as long as it is open.
struct StreamPermit(Rc<Cell<usize>>);

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn seat(streams: &Rc<Cell<usize>>) -> Option<StreamPermit> {
    if streams.get() >= MAX_EVENT_STREAMS {
        return None;
    }
    streams.set(streams.get() + 1);
    Some(StreamPermit(Rc::clone(streams)))
}

/// Opens a stream; `None` if there are too many. It ends when the body is dropped.
pub(super) fn open(api: &Rc<AdminApi>) -> Option<EventStream> {
    let seat = seat(&api.page.streams)?;
    let (sender, receiver) = mpsc::channel(1);
    let api = Rc::clone(api);
    tokio::task::spawn_local(async move {
        let _seat = seat;
        while let Some(sections) = live(&api).await {
            if sender.send(event(&sections)).await.is_err() {
                break;
            }
            tokio::select! {
                () = sender.closed() => break,
                () = tokio::time::sleep(EVENT_INTERVAL) => {}
            }
        }
    });
    Some(EventStream(receiver))
}

/// One event, as the HTML standard writes it.
fn event(text: &str) -> Bytes {
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.split('\n') {
        out.push_str("data: ");
        out.push_str(line);
        out.push('\n');
    }
    out.push('\n');
    Bytes::from(out)
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_and_lines_stay_in_their_event() {
        let streams = Rc::default();
        let seats: Vec<_> = (0..MAX_EVENT_STREAMS).map_while(|_| seat(&streams)).collect();
        assert_eq!(seats.len(), MAX_EVENT_STREAMS);
        assert!(seat(&streams).is_none());
        drop(seats);
        assert!(seat(&streams).is_some());
        assert_eq!(event("a\n\nb"), "data: a\ndata: \ndata: b\n\n");
    }
}
