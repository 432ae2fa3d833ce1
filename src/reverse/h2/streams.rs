//! What the streams of one HTTP/2 connection share, and who watches over them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;

use tokio::time::Instant;

use crate::net::clock::TICK;
use crate::net::{Alarm, Clock};

/// What the streams of one connection share.
pub(super) struct Streams {
    pub(super) clock: Clock,
    pub(super) open: Cell<usize>,
    pub(super) used: Cell<Instant>,
    /// The stream whose task is running.
    pub(super) current: RefCell<Option<Rc<Stall>>>,
    /// The connection's own.
    pub(super) alarm: Alarm,
    /// The connection is to carry no new streams.
    pub(super) leaves: Cell<bool>,
}

impl Streams {
    /// Lets the connection end once its streams have; its client is told within a tick.
    pub(super) fn leave(&self) {
        self.leaves.set(true);
        self.alarm.set_at(self.clock.now());
    }
}

/// Whether a stream waits for its client to make room.
#[derive(Default)]
pub(super) struct Stall {
    pub(super) deadline: Cell<Option<Instant>>,
}

/// Runs the tasks of a connection's streams, and ends one whose client makes no room for too long:
/// hyper asks for no more of an answer then, so nothing inside it could notice.
#[derive(Clone)]
pub(super) struct Spawner(pub(super) Rc<Streams>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, task: F) {
        let open = OpenStream::new(Rc::clone(&self.0));
        tokio::task::spawn_local(async move {
            let mut task = pin!(task);
            let stall = Rc::<Stall>::default();
            let alarm = open.0.clock.alarm();
            poll_fn(|cx| {
                open.0.current.replace(Some(Rc::clone(&stall)));
                let done = task.as_mut().poll(cx);
                open.0.current.replace(None);
                let Some(deadline) = stall.deadline.get().filter(|_| done.is_pending()) else {
                    return done;
                };
                alarm.set_at(deadline + TICK);
                alarm.poll(cx)
            })
            .await;
        });
    }
}

struct OpenStream(Rc<Streams>);

impl OpenStream {
    fn new(streams: Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Self(streams)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.used.set(self.0.clock.now());
    }
}
