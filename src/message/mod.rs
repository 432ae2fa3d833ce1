//! HTTP messages: parsing of heads, body framing, and writing of forwarded heads.
//!
//! HTTP/1.1 is parsed here, on httparse, for both sides of the gateway; HTTP/2 requests are
//! converted to the same [`RequestHead`]. An ambiguous message is rejected, never repaired: the
//! next hop may read a repaired message differently, which is how request smuggling works.
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
