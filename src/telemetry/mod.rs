//! Metrics and logs.
//!
//! In: plain values and words from closed lists, from the layers above. Out: Prometheus text, and
//! log lines in the configured format.
//! Never: decides anything, or makes a request wait.

pub mod access_log;
pub mod cardinality;
pub mod egress;
pub mod endpoints;
pub mod exposition;
mod families;
pub mod line;
pub mod listeners;
mod log_queue;
pub mod logging;
pub mod mask;
pub mod metrics;
pub mod peers;
mod process;
pub mod recent;
pub mod rejections;
mod route;
pub mod series_guard;
pub mod socketio;
pub mod tcp;
pub mod timestamp;
pub mod upstreams;
pub mod websockets;

pub use access_log::{AccessLogWriter, WorkerLines};
pub use cardinality::LabelLimits;
pub use egress::{EgressMetrics, RuleMetrics};
pub use families::FamilyDescription;
pub use listeners::ListenerMetrics;
pub use logging::Logging;
pub use metrics::Metrics;
pub use route::{LazyRouteMetrics, RouteMetrics};
pub use tcp::PassthroughMetrics;
pub use upstreams::UpstreamMetrics;
pub use websockets::WebSocketMetrics;
