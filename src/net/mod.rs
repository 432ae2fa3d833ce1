//! Sockets and byte streams: listening, dialling, timers, buffers and relays.
//!
//! A data worker is one thread with one [`WorkerLocal`]: its clock, its scratch buffer and its open
//! tasks. Only limits are shared between threads: [`admission`] and [`quota`], locked once per
//! connection.
//!
//! Modules of `net` know no routes, upstreams or configuration files.

pub mod activation;
pub mod admission;
pub mod blocking;
pub mod clock;
pub mod dial;
pub mod handover;
pub mod http_client;
pub mod listen;
pub mod local;
pub mod proxy_protocol;
pub mod quota;
pub mod rate;
pub mod read_ahead;
pub mod relay;
pub mod send_queue;
pub mod shortage;
pub mod splice;
pub mod tunnel;
pub mod websocket;
pub mod write_buffer;

pub use clock::{CoarseClock, Timer};
pub use dial::{CheckedAddr, DialError, dial};
pub use local::{DrainDeadline, Phase, WorkerLocal};
pub use read_ahead::ReadAhead;
pub use shortage::Shortage;
pub use write_buffer::WriteBuffer;

use tokio::io::{AsyncRead, AsyncWrite};

/// A bidirectional byte stream.
pub trait Io: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Bytes in the send queue of the socket that the other host has not acknowledged, or `None`
    /// where this is not known.
    fn unacknowledged(&self) -> Option<i64> {
        None
    }
}
