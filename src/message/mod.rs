//! HTTP messages: reading heads, deciding where bodies end, writing what is passed on.
//!
//! HTTP/1.1 is parsed here, on httparse, for both sides of the gateway; HTTP/2 requests are turned
//! into the same [`RequestHead`]. What is ambiguous is refused, never repaired: a repaired message
//! is read one way by us and another way by the next hop, which is how requests are smuggled.
//!
//! Never: opens a socket, knows a route or an upstream.

pub mod body;
mod claim;
pub mod client;
pub mod field;
pub mod forward;
pub mod host;
pub mod path;
pub mod proxied;
pub mod reason;
pub mod request;
pub mod response;
pub mod scan;
pub mod trace;

pub use body::{BodyDecoder, BodyError, DecodeStep, Framing};
pub use field::{HeaderField, HeaderFields, KnownField};
pub use proxied::{ProxiedHead, RequestForm};
pub use reason::Reason;
pub use request::{RequestHead, Version};
pub use response::ResponseHead;
pub use trace::TraceParent;
