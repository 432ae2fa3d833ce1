//! What is told to those outside: metrics, access log.
//!
//! In: facts from the layers above, as plain values and words from closed lists. Out: Prometheus
//! text, and lines in the format that was asked for.
//! Never: decides anything, or makes a request wait.

pub mod access_log;
pub mod egress;
pub mod lease;
pub mod line;
pub mod mask;
pub mod metrics;
pub mod recent;
pub mod stamp;
pub mod voice;

pub use access_log::{AccessLog, Lines};
pub use egress::{EgressMetrics, RuleMetrics};
pub use metrics::{ListenerMetrics, Metrics, RouteMetrics, UpstreamMetrics};
pub use voice::Voice;
