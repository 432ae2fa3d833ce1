//! How bytes move: listening, dialling, waiting, copying.
//!
//! A data worker is one thread with one [`Local`]: its clock, its scratch buffer and its open
//! tasks. Only limits are shared between threads: [`admission`] and [`quota`], locked once per
//! connection.
//!
//! Never: knows a route, an upstream or a configuration file.

pub mod activation;
pub mod admission;
pub mod ahead;
pub mod aside;
pub mod clock;
pub mod dial;
pub mod handover;
pub mod listen;
pub mod local;
pub mod outgoing;
pub mod proxy_protocol;
pub mod quota;
pub mod rate;
pub mod relay;
pub mod shortage;
pub mod splice;
pub mod tunnel;
pub mod websocket;

pub use ahead::Ahead;
pub use clock::{Alarm, Clock};
pub use dial::{CheckedAddr, DialError, dial};
pub use local::{Leave, Local, Phase};
pub use outgoing::Outgoing;
pub use shortage::Shortage;

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Io for T {}
