//! `[profile.NAME.limits]` and `[profile.NAME.timeouts]`, checked.

use std::time::Duration;

/// Limits on what a client may do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Fields in a request head. Default 100, 1 to 256.
    pub header_count: usize,
    /// Bytes of a request head, request line included. Default 32 KiB, 1 KiB to 64 KiB.
    pub header_size: usize,
    /// Open connections per listener. Default 20,000.
    pub connections: usize,
    /// Open connections per client address (IPv6: per /64) and listener. Default 2,000: a whole
    /// call centre may sit behind one address.
    pub connections_per_client: usize,
    /// Concurrent HTTP/2 streams per connection. Default 128.
    pub streams: u32,
    /// Bytes of answers that the client has not taken yet, per HTTP/2 connection. Default 1 MiB,
    /// 64 KiB to 64 MiB.
    pub http2_send_buffer: usize,
    /// Concurrent requests and WebSockets of the profile. Default: twice `connections`.
    pub requests: usize,
    /// Concurrent requests and WebSockets per client address (IPv6: per /64) and profile. Default:
    /// twice `connections_per_client`.
    pub requests_per_client: usize,
}

/// How long a client may take.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// From accept to the end of the TLS handshake. Default 10 s.
    pub handshake: Duration,
    /// From the first byte of a request head to its last. Default 15 s.
    pub header: Duration,
    /// Between requests on one connection. Default 75 s.
    pub keep_alive: Duration,
    /// Longest silence while a body is awaited from or taken by the client. Default 30 s.
    pub body_idle: Duration,
    /// Bytes per second a client must send or take on average, over the time the gateway waits for
    /// it, which has to be `body_idle` at least. Default 200; 0 turns it off.
    pub min_rate: u64,
    /// Longest silence in a WebSocket, both directions together. Default 2 min: longer than any
    /// Engine.IO heartbeat.
    pub tunnel_idle: Duration,
}
