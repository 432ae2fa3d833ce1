//! Checked form of `[upstream.NAME]`.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::problem::Span;

/// `[upstream.NAME]`.
#[derive(Debug)]
pub struct Upstream {
    /// `NAME`.
    pub name: String,
    /// Position of the table.
    pub place: Span,
    /// Primary ones first, at least one, at most 64.
    pub endpoints: Vec<Endpoint>,
    /// Load-balancing method. Default: the first endpoint that is up.
    pub balance: Balance,
    /// Time over which an endpoint that came up reaches its full share. Default 0.
    pub slow_start: Duration,
    /// Whether Socket.IO sessions stay on their endpoint. Default true.
    pub sticky: bool,
    /// Name of the sticky cookie, if there is one.
    pub cookie: Option<String>,
    /// Requests per second that may be sent to another endpoint. Default 100.
    pub retries_per_second: u32,
    /// Conditions for ejecting an endpoint.
    pub eject: Eject,
    /// Conditions for using the backups.
    pub failover: Failover,
    /// Verification of the endpoints' certificates. Ignored for `http` endpoints.
    pub verify: Verify,
    /// Name sent as SNI and expected in the certificate; `None`: the endpoint's own host.
    pub server_name: Option<String>,
    /// Time from the first SYN to the end of the TLS handshake, per endpoint. Default 5 s.
    pub connect_timeout: Duration,
    /// Time from the last byte of the request head to the first byte of the response; bytes of a
    /// request body that is still being sent restart it. Default 60 s.
    pub first_byte_timeout: Duration,
    /// Longest pause inside the body of a response. Default 5 min.
    pub idle_timeout: Duration,
    /// Time for which an idle connection is kept. Default 30 s. A shorter `Keep-Alive: timeout`
    /// from the upstream takes precedence.
    pub keep_alive: Duration,
    /// Idle connections kept per worker and endpoint. Default 256; 0 turns keep-alive off.
    pub max_idle: usize,
    /// Connection attempts in progress per worker and endpoint, 1 to 65,536. Default 32.
    pub max_connecting: usize,
    /// Connections in use, of all workers and endpoints together, 1 to 1,000,000. Default 20,000.
    pub max_connections: usize,
    /// Share of `max_connections` that one client network may use, in percent, 1 to 100. Default
    /// 50.
    pub client_share: usize,
    /// Time for which a request waits for one of `max_connections`, 0 to 1 min. Default 1 s.
    pub queue_timeout: Duration,
    /// Interval between DNS lookups of its endpoints' names. Default: that of `[gateway]`.
    pub resolve_interval: Duration,
    /// Whether its connections begin with a PROXY protocol header, version 2. Default false.
    pub announces: bool,
    /// Health check of its endpoints; `None`: they are not checked.
    pub check: Option<HealthCheck>,
}

/// `[upstream.NAME.check]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthCheck {
    /// Kind of check.
    pub kind: CheckKind,
    /// Port of the check; `None`: the endpoint's.
    pub port: Option<u16>,
    /// Check without TLS, even if the endpoint is `https`.
    pub plain: bool,
    /// Begin with a PROXY protocol header.
    pub announces: bool,
    /// Time between two checks. Default 5 s.
    pub interval: Duration,
    /// Longest duration of a check. Default 2 s.
    pub timeout: Duration,
    /// Consecutive successful checks after which an endpoint is up. Default 2.
    pub rise: u32,
    /// Consecutive failed checks after which an endpoint is down. Default 3.
    pub fall: u32,
    /// State of an endpoint before its first check. Default true.
    pub initially_up: bool,
}

/// Kind of health check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CheckKind {
    /// A TCP connection.
    Tcp,
    /// A TLS handshake too, if it is an `https` endpoint.
    Tls,
    /// An answer to a GET.
    Http {
        /// Path and query.
        path: String,
        /// `Host`; `None`: the endpoint's own.
        host: Option<String>,
        /// Statuses that pass, first and last of each range.
        status: Vec<(u16, u16)>,
        /// Text that the beginning of the body must contain; empty: any body passes.
        body: String,
    },
}

/// One address of an upstream.
#[derive(Debug)]
pub struct Endpoint {
    /// Position of its URL.
    pub place: Span,
    /// TLS (`https://`) or not (`http://`).
    pub tls: bool,
    /// Name or IP address (IPv6 without brackets), lower case.
    pub host: String,
    /// Port; 443 or 80 when the URL has none.
    pub port: u16,
    /// Used only while no primary endpoint is up.
    pub backup: bool,
    /// Weight, 1 to 100. Default 1.
    pub weight: u16,
    /// Administrative state.
    pub duty: AdminState,
}

/// Administrative state of an endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AdminState {
    /// In use.
    Up,
    /// Gets no new sessions.
    Drain,
    /// Gets no requests.
    Maintenance,
}

/// Load-balancing method.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Balance {
    /// The first endpoint that is up gets all requests.
    First,
    /// Round robin by weight.
    Weighted,
    /// The one with the fewest open requests and WebSockets for its weight.
    LeastConnections,
    /// Consistent hash of the client's address.
    Hash,
}

/// `[upstream.NAME.eject]`: conditions for ejecting an endpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent words of one list")]
pub struct Eject {
    /// Failed connection attempts count.
    pub connect: bool,
    /// Failed TLS handshakes count.
    pub tls: bool,
    /// Connections closed before a response, or a response that is not HTTP, count.
    pub reset: bool,
    /// Responses that do not arrive in time count.
    pub timeout: bool,
    /// Responses with these statuses count, first and last of each range.
    pub statuses: Vec<(u16, u16)>,
    /// Number of failures within the window. Default 1.
    pub count: u32,
    /// Period in which failures are counted. Default 10 s.
    pub window: Duration,
    /// Duration of the first ejection. Default 5 s.
    pub base_time: Duration,
    /// Longest duration of an ejection. Default 30 s.
    pub max_time: Duration,
    /// Share of the endpoints that may be ejected at once, in percent. Default 50.
    pub max_percent: u32,
}

/// `[upstream.NAME.failover]`: conditions for using the backups.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Failover {
    /// Consecutive requests that could not connect. Default 3.
    pub failures: u32,
    /// Time for which a primary endpoint must be up before failing back; `None`: until a command.
    /// Default 1 min.
    pub failback_after: Option<Duration>,
}

/// Verification of an upstream's certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verify {
    /// Against the system's roots, name included.
    System,
    /// Against the roots in this PEM file only, name included.
    Ca {
        /// The file. Absolute, or relative to the working directory.
        file: PathBuf,
        /// Position of the path.
        place: Span,
    },
    /// The leaf's public key must hash to one of these (SHA-256 of the `SubjectPublicKeyInfo`, as
    /// in RFC 7469); name, chain and validity dates are not checked.
    Pin(Vec<[u8; 32]>),
    /// No verification: anyone on the path can read and change the traffic. Every display of the
    /// configuration warns about it.
    None {
        /// Position of the key.
        place: Span,
    },
}
