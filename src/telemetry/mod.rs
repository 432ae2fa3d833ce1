//! What is told to those outside: metrics, access log.
//!
//! In: facts from the layers above, as plain values and words from closed lists. Out: Prometheus
//! text, and lines in the format that was asked for.
//! Never: decides anything, or makes a request wait.

pub mod access_log;
pub mod allotment;
pub mod egress;
pub mod endpoints;
pub mod exposition;
pub mod lease;
pub mod line;
pub mod listeners;
mod log_queue;
pub mod mask;
pub mod metrics;
pub mod peers;
mod process;
pub mod recent;
pub mod refusals;
mod route;
pub mod socketio;
pub mod stamp;
pub mod tcp;
pub mod upstreams;
pub mod voice;
pub mod websockets;

pub use access_log::{AccessLog, Lines};
pub use allotment::Allotment;
pub use egress::{EgressMetrics, RuleMetrics};
pub use listeners::ListenerMetrics;
pub use metrics::Metrics;
pub use route::{LazyRouteMetrics, RouteMetrics};
pub use tcp::TcpMetrics;
pub use upstreams::UpstreamMetrics;
pub use voice::Voice;
pub use websockets::WebSocketMetrics;
