//! Checked form of `[profile.NAME.limits]` and `[profile.NAME.timeouts]`.

use std::time::Duration;

/// Limits on the resources of clients.
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
    /// Bytes of responses that the client has not read yet, per HTTP/2 connection. Default 1 MiB,
    /// 64 KiB to 64 MiB.
    pub http2_send_buffer: usize,
    /// Concurrent requests and WebSockets of the profile. Default: twice `connections`.
    pub requests: usize,
    /// Concurrent requests and WebSockets per client address (IPv6: per /64) and profile. Default:
    /// twice `connections_per_client`.
    pub requests_per_client: usize,
}

/// Limits of the time a client may take.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// Time from accept to the end of the TLS handshake. Default 10 s.
    pub handshake: Duration,
    /// Time from the first byte of a request head to its last. Default 15 s.
    pub header: Duration,
    /// Time between requests on one connection. Default 75 s.
    pub keep_alive: Duration,
    /// Longest pause while the client sends or reads a body. Default 30 s.
    pub body_idle: Duration,
    /// Bytes per second that a client must send or read on average, over the time the gateway waits
    /// for it, once that is at least `body_idle`. Default 200; 0 disables the limit.
    pub min_rate: u64,
    /// Longest time without data in either direction of a WebSocket. Default 2 min, which is longer
    /// than any Engine.IO heartbeat.
    pub tunnel_idle: Duration,
}
