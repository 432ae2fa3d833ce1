//! What is told to those outside: metrics, access log.
//!
//! In: facts from the layers above, as plain values and words from closed lists. Out: Prometheus
//! text and JSON lines.
//! Never: decides anything, or makes a request wait.

pub mod access_log;
pub mod egress;
pub mod endpoints;
pub mod metrics;
pub mod recent;
pub mod stamp;

pub use access_log::{AccessLog, Lines};
pub use egress::{EgressMetrics, RuleMetrics};
pub use metrics::{ListenerMetrics, Metrics, RouteMetrics, UpstreamMetrics};
