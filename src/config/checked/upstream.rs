//! `[upstream.NAME]`, checked.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::problem::Span;

/// `[upstream.NAME]`.
#[derive(Debug)]
pub struct Upstream {
    /// `NAME`.
    pub name: String,
    /// Where the table is.
    pub place: Span,
    /// Primary ones first, at least one, at most 64.
    pub endpoints: Vec<Endpoint>,
    /// How they share the work. Default: the first that is well gets it.
    pub balance: Balance,
    /// How long an endpoint that came up takes to get its whole share. Default 0.
    pub slow_start: Duration,
    /// Whether Socket.IO sessions stay on their endpoint. Default true.
    pub sticky: bool,
    /// Name of the cookie that says where a client is; `None`: there is none.
    pub cookie: Option<String>,
    /// Requests per second that may go to another endpoint. Default 100.
    pub retries: u32,
    /// When an endpoint is left out for a while.
    pub eject: Eject,
    /// When the backups are used.
    pub fail_over: FailOver,
    /// How the endpoints' certificates are verified. Ignored for `http` endpoints.
    pub verify: Verify,
    /// Name sent as SNI and looked for in the certificate; `None`: the endpoint's own host.
    pub server_name: Option<String>,
    /// From the first SYN to the end of the TLS handshake, per endpoint. Default 5 s.
    pub connect_timeout: Duration,
    /// From the last byte of the request head to the first byte of the answer; bytes of a request
    /// body that is still being sent restart it. Default 60 s.
    pub first_byte_timeout: Duration,
    /// Longest silence inside an answer's body. Default 5 min.
    pub idle_timeout: Duration,
    /// How long an unused connection is kept. Default 30 s. A shorter `Keep-GenerationGuard: timeout` from
    /// the upstream wins.
    pub keep_alive: Duration,
    /// Idle connections kept per worker and endpoint. Default 256; 0 turns keep-alive off.
    pub max_idle: usize,
    /// Connections in the making per worker and endpoint, 1 to 65,536. Default 32.
    pub max_connecting: usize,
    /// Connections in use, of all workers and endpoints together, 1 to 1,000,000. Default 20,000.
    pub max_connections: usize,
    /// Share of them that one client network may have, in percent, 1 to 100. Default 50.
    pub client_share: usize,
    /// How long a request waits for one of them, 0 to 1 min. Default 1 s.
    pub queue_timeout: Duration,
    /// How often names of its endpoints are looked up. Default: as `[gateway]` says.
    pub resolve_every: Duration,
    /// Whether its connections begin with a PROXY protocol header, version 2. Default false.
    pub announces: bool,
    /// How its endpoints are asked whether they are well; `None`: not at all.
    pub check: Option<HealthCheck>,
}

/// `[upstream.NAME.check]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// Port that is asked; `None`: the endpoint's.
    pub port: Option<u16>,
    /// It is asked in the clear, even if the endpoint is `https`.
    pub plain: bool,
    /// It begins with the PROXY protocol.
    pub announces: bool,
    /// Time between two checks. Default 5 s.
    pub every: Duration,
    /// How long one may take. Default 2 s.
    pub timeout: Duration,
    /// Good ones in a row until an endpoint is up. Default 2.
    pub rise: u32,
    /// Bad ones in a row until it is down. Default 3.
    pub fall: u32,
    /// What it is taken for before the first. Default true.
    pub initially_up: bool,
}

/// What is asked of an endpoint.
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
        /// Statuses that are well, first and last of each range.
        status: Vec<(u16, u16)>,
        /// What the body's beginning must contain; empty: nothing.
        body: String,
    },
}

/// One address of an upstream.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is written.
    pub place: Span,
    /// TLS (`https://`) or not (`http://`).
    pub tls: bool,
    /// Name or IP address (IPv6 without brackets), lower case.
    pub host: String,
    /// Port; 443 or 80 when the URL has none.
    pub port: u16,
    /// It is used only while no primary one is well.
    pub backup: bool,
    /// Its share, 1 to 100. Default 1.
    pub weight: u16,
    /// What it is there for.
    pub duty: AdminState,
}

/// What an endpoint is there for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AdminState {
    /// Everything.
    Up,
    /// Nothing new.
    Drain,
    /// Nothing at all.
    Maintenance,
}

/// How endpoints share the work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Balance {
    /// The first that is well gets all of it.
    First,
    /// By turns, by weight.
    Weighted,
    /// The one with the fewest open requests and WebSockets for its weight.
    LeastConnections,
    /// By the client's address.
    Hash,
}

/// `[upstream.NAME.eject]`: when an endpoint is left out for a while.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent words of one list")]
pub struct Eject {
    /// No connection.
    pub connect: bool,
    /// No TLS handshake.
    pub tls: bool,
    /// Closed before an answer, or an answer that is not HTTP.
    pub reset: bool,
    /// No answer in time.
    pub timeout: bool,
    /// Answers with these statuses, first and last of each range.
    pub statuses: Vec<(u16, u16)>,
    /// How much of that within the window. Default 1.
    pub errors: u32,
    /// Default 10 s.
    pub window: Duration,
    /// How long the first time. Default 5 s.
    pub time: Duration,
    /// How long at most. Default 30 s.
    pub longest: Duration,
    /// Share of the endpoints that may be left out, in percent. Default 50.
    pub most: u32,
}

/// `[upstream.NAME.fail-over]`: when the backups are used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FailOver {
    /// Requests in a row that could not connect. Default 3.
    pub failures: u32,
    /// How long a primary endpoint must be well; `None`: until a command. Default 1 min.
    pub return_after: Option<Duration>,
}

/// How an upstream's certificate is verified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verify {
    /// Against the system's roots, name included.
    System,
    /// Against the roots in this PEM file only, name included.
    Ca {
        /// The file. Absolute, or relative to the working directory.
        file: PathBuf,
        /// Where it is written.
        place: Span,
    },
    /// The leaf's public key must hash to one of these (SHA-256 of the `SubjectPublicKeyInfo`, as
    /// in RFC 7469); name, chain and dates are not looked at.
    Pin(Vec<[u8; 32]>),
    /// Not at all: anyone on the path can read and change the traffic. Said loudly wherever the
    /// configuration is shown.
    None {
        /// Where it is written.
        place: Span,
    },
}
