//! Memory limits for buffered answers of HTTP/2 clients: per connection, per client and for the
//! process.
//!
//! Every piece of an answer is charged from the time it is read from the upstream until h2 has
//! written its last byte. Above a limit each stream may still have one small piece at a time, so
//! that no stream starves while others stall, and new streams are rejected.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use prometheus::IntGauge;

use crate::net::quota::ClientUses;

/// Bytes read at a time within the limits: the size of a worker's scratch buffer.
const MAX_PIECE: usize = 64 * 1024;
/// Bytes that a stream may always have.
const MIN_PIECE: usize = 4 * 1024;
/// Divisor of the remaining budget that limits one piece, so that the last streams get a share too.
const PIECE_SHARE: usize = 4;
/// Pieces up to this length are not charged, because counting costs more than they hold.
const UNCHARGED: usize = 1024;
/// Divisor of the process limit that gives the limit of one client network.
const CLIENT_SHARE: usize = 8;

/// Limits on buffered bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct SendLimits {
    pub(super) connection: usize,
    pub(super) process: usize,
}

/// Counters for the buffered bytes of one connection and of the process.
#[derive(Debug)]
pub(super) struct SendBudget {
    held: AtomicUsize,
    process: IntGauge,
}

/// The budget of one stream.
#[derive(Debug)]
pub(super) struct StreamBudget {
    connection: Arc<SendBudget>,
    client: Option<Arc<ClientUses>>,
    limits: SendLimits,
    held: AtomicUsize,
    /// The task of the stream, while it waits for its own bytes to be sent.
    waits: Mutex<Option<Waker>>,
}

/// A piece of an answer. Dropping it releases its charge.
struct Charged {
    data: Box<[u8]>,
    stream: Arc<StreamBudget>,
}

impl SendBudget {
    /// The budget of a new connection. `process` counts all connections.
    pub(super) fn new(process: &IntGauge) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), process: process.clone() })
    }

    /// Whether the limit of the connection is reached, or that of the process while this connection
    /// has more than a piece.
    pub(super) fn is_full(&self, limits: SendLimits) -> bool {
        let held = self.held.load(Ordering::Relaxed);
        held >= limits.connection || (held > MAX_PIECE && self.process() >= limits.process)
    }

    fn process(&self) -> usize {
        usize::try_from(self.process.get()).unwrap_or_default()
    }
}

impl StreamBudget {
    /// The budget of a new stream, and the client of its request.
    pub(super) fn new(
        connection: &Arc<SendBudget>,
        client: Option<Arc<ClientUses>>,
        limits: SendLimits,
    ) -> Arc<Self> {
        let connection = Arc::clone(connection);
        let held = AtomicUsize::new(0);
        Arc::new(Self { connection, client, limits, held, waits: Mutex::default() })
    }

    /// Number of bytes that may be read from the upstream now.
    pub(super) fn piece(&self) -> usize {
        (self.left() / PIECE_SHARE).clamp(MIN_PIECE, MAX_PIECE)
    }

    /// Number of bytes of the stream that have not been sent.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Waits while the budget is used up and the stream has unsent bytes.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.left() > 0 || self.held() == 0 {
            return Poll::Ready(());
        }
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Copies a piece of an answer and charges it.
    pub(super) fn keep(self: &Arc<Self>, data: &[u8]) -> Bytes {
        if data.len() <= UNCHARGED {
            return Bytes::copy_from_slice(data);
        }
        self.charge(data.len());
        Bytes::from_owner(Charged { data: data.into(), stream: Arc::clone(self) })
    }

    /// The smallest remainder of the limits.
    fn left(&self) -> usize {
        let SendLimits { connection, process } = self.limits;
        let client = self.client.as_ref().map_or(0, |client| client.bytes.load(Ordering::Relaxed));
        let lefts = [
            connection.saturating_sub(self.connection.held.load(Ordering::Relaxed)),
            process.saturating_sub(self.connection.process()),
            (process / CLIENT_SHARE).saturating_sub(client),
        ];
        lefts.into_iter().min().unwrap_or_default()
    }

    fn charge(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.connection.held.fetch_add(bytes, Ordering::Relaxed);
        self.connection.process.add(i64::try_from(bytes).unwrap_or_default());
        if let Some(client) = &self.client {
            client.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.connection.held.fetch_sub(bytes, Ordering::Relaxed);
        self.connection.process.sub(i64::try_from(bytes).unwrap_or_default());
        if let Some(client) = &self.client {
            client.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        let waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waits {
            waker.wake();
        }
    }
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.stream.release(self.data.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SendLimits = SendLimits { connection: 1 << 20, process: 16 << 20 };

    /// Fills the streams of a connection in turn, as with clients that read nothing.
    fn fill(streams: &[Arc<StreamBudget>]) -> Vec<Bytes> {
        let mut held = Vec::new();
        let cx = Context::from_waker(Waker::noop());
        loop {
            let mut moved = false;
            for stream in streams {
                if stream.poll_room(&cx).is_ready() {
                    held.push(stream.keep(&vec![0; stream.piece()]));
                    moved = true;
                }
            }
            if !moved {
                return held;
            }
        }
    }

    #[test]
    fn a_connection_is_limited_to_its_budget_and_a_small_piece_per_stream() {
        let process = IntGauge::new("a", "b").unwrap();
        let connection = SendBudget::new(&process);
        let streams: Vec<_> =
            (0..128).map(|_| StreamBudget::new(&connection, None, LIMITS)).collect();
        assert!(!connection.is_full(LIMITS));
        let held = fill(&streams);
        assert!(connection.is_full(LIMITS));
        let bytes: usize = held.iter().map(Bytes::len).sum();
        assert!((1 << 20..=(1 << 20) + 128 * MIN_PIECE).contains(&bytes), "{bytes}");
        assert_eq!(process.get(), i64::try_from(bytes).unwrap());
        // A stream without buffered bytes may read all the same.
        let late = StreamBudget::new(&connection, None, LIMITS);
        let cx = Context::from_waker(Waker::noop());
        assert!(late.poll_room(&cx).is_ready());
        assert_eq!(late.piece(), MIN_PIECE);
        assert!(streams[0].poll_room(&cx).is_pending());
        drop(held);
        assert_eq!(process.get(), 0);
        assert!(streams[0].poll_room(&cx).is_ready() && !connection.is_full(LIMITS));
    }

    #[test]
    fn one_client_is_limited_to_its_share_of_the_process() {
        let process = IntGauge::new("a", "b").unwrap();
        let client = Arc::<ClientUses>::default();
        let connections: Vec<_> = (0..64).map(|_| SendBudget::new(&process)).collect();
        let streams: Vec<_> = connections
            .iter()
            .map(|one| StreamBudget::new(one, Some(Arc::clone(&client)), LIMITS))
            .collect();
        let held = fill(&streams);
        let bytes: usize = held.iter().map(Bytes::len).sum();
        assert!(bytes <= (2 << 20) + 64 * MIN_PIECE, "{bytes}");
        let other = SendBudget::new(&process);
        let other = StreamBudget::new(&other, Some(Arc::default()), LIMITS);
        assert_eq!(other.piece(), MAX_PIECE);
    }

    #[test]
    fn a_stream_that_waits_is_woken_when_its_bytes_are_sent() {
        struct Flag(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let process = IntGauge::new("a", "b").unwrap();
        let connection = SendBudget::new(&process);
        let limits = SendLimits { connection: 4096, process: 1 << 20 };
        let stream = StreamBudget::new(&connection, None, limits);
        let piece = stream.keep(&[0; 8192]);
        let flag = Arc::new(Flag(false.into()));
        let waker = Waker::from(Arc::clone(&flag));
        assert!(stream.poll_room(&Context::from_waker(&waker)).is_pending());
        drop(piece);
        assert!(flag.0.load(Ordering::Relaxed));
    }
}
