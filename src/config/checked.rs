//! The configuration after all checks.
//!
//! Every value here is ready for use: names are resolved to ids, defaults are filled in, and no
//! `Option` means "use the default". Certificates are read and validated later, by `generation`,
//! which reports problems against the same [`Span`]s.

mod balancers;
mod doctor;
mod drift;
mod forward;
mod limits;
mod log;
mod self_test;
mod tcp;
mod upstream;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;

use crate::addr::HostPattern;

use super::outline::Outline;
use super::problem::{Sources, Span};

pub use balancers::{ProxyProtocol, UnlistedPeers};
pub use doctor::{Doctor, DoctorTarget};
pub use drift::Drift;
pub use forward::*;
pub use limits::{Limits, Timeouts};
pub use log::*;
pub use self_test::SelfTest;
pub use tcp::*;
pub use upstream::*;

/// A whole configuration directory.
#[derive(Debug)]
pub struct Config {
    /// The files it was read from, for rendering problems that are found later.
    pub sources: Sources,
    /// The files' contents as items and keys, for comparisons.
    pub outline: Outline,
    /// Process-wide settings.
    pub gateway: Gateway,
    /// Gateways that should behave like this one, if they are compared.
    pub drift: Option<Drift>,
    /// The admin listener, if configured.
    pub admin: Option<Admin>,
    /// The admin socket.
    pub socket: AdminSocket,
    /// Upstreams that must be up for the gateway to be ready.
    pub ready: Vec<UpstreamId>,
    /// Certificates, indexed by [`CertificateId`].
    pub certificates: Vec<Certificate>,
    /// Upstreams, indexed by [`UpstreamId`].
    pub upstreams: Vec<Upstream>,
    /// Profiles, in the order of their names.
    pub profiles: Vec<Profile>,
    /// Passthrough tables, in the order of their names.
    pub tcp: Vec<Tcp>,
    /// Targets of `doctor` besides the gateway itself.
    pub doctor: Doctor,
    /// The forward proxy, if configured.
    pub forward: Option<Forward>,
}

/// `[gateway]`.
#[derive(Debug)]
pub struct Gateway {
    /// Number of data workers, one thread each; at least 1. Default: one per core.
    pub workers: usize,
    /// The access log.
    pub access_log: AccessLog,
    /// The gateway's own log.
    pub logging: OperationalLog,
    /// Whether components receive a `traceparent` of the gateway. Default true.
    pub trace_context: bool,
    /// Whether Socket.IO sessions are tracked. Default true.
    pub socket_io_tracking: bool,
    /// Longest time from the first TERM until remaining connections are closed. Default 30 s.
    pub drain_timeout: Duration,
    /// Number of recent requests that are kept for `plan`, in all workers together. Default 1,000;
    /// 0 keeps none.
    pub recent_requests: usize,
    /// Bytes of responses that HTTP/2 clients have not read yet, of all connections. Default 256
    /// MiB, from 16 MiB.
    pub http2_send_buffers: usize,
    /// Number of routes with metric series of their own; the same number of listeners, upstreams
    /// and certificates.
    pub metrics_limit: usize,
    /// Whether changed files are applied automatically. Default true.
    pub reload_on_change: bool,
    /// The secret that this gateway shares with others, if configured.
    pub shared_secret: Option<NamedFile>,
    /// Time for which one key seals session tickets. Default 8 h, at most 48 h.
    pub ticket_key_lifetime: Duration,
    /// Interval between DNS lookups of endpoint names, for upstreams that set none. Default 30 s.
    pub resolve_interval: Duration,
    /// Time for which connections are still accepted after the gateway stops being ready. Default
    /// 0.
    pub drain_delay: Duration,
    /// Policy for a start as root.
    pub root: RootPolicy,
    /// Time for which the parent of a binary upgrade keeps its connections before it drains.
    /// Default 12 h.
    pub upgrade_timeout: Duration,
}

/// Policy for a start as root.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum RootPolicy {
    /// The start is refused.
    #[default]
    Refuse,
    /// The gateway stays root.
    Allow,
    /// The gateway switches to this user: `USER` or `USER:GROUP`, by name or number.
    RunAs(String),
}

/// A file and the position of its name in the configuration.
#[derive(Clone, Debug)]
pub struct NamedFile {
    /// Absolute, or relative to the working directory.
    pub file: PathBuf,
    /// Position of the path.
    pub place: Span,
}

/// Address at which commands such as `reload` reach the gateway on this host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AdminSocket {
    /// In the system's runtime directory, under a name derived from the configuration directory's.
    Usual,
    /// There is no socket.
    Off,
    /// A configured path.
    At {
        /// Absolute, or relative to the working directory; at most 90 bytes.
        path: PathBuf,
        /// Position of the path.
        place: Span,
    },
}

/// `[admin]` with `listen`: metrics and health over TCP.
#[derive(Debug)]
pub struct Admin {
    /// Position of `listen`.
    pub place: Span,
    /// Plain HTTP address. A loopback address unless `expose` is set.
    pub listen: SocketAddr,
    /// Accepted host names, besides addresses, `localhost` and the system's name.
    pub hosts: Vec<String>,
    /// File with the token for commands over TCP, if they are allowed.
    pub token_file: Option<NamedFile>,
}

/// Index into [`Config::certificates`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CertificateId(pub usize);

/// Index into [`Config::upstreams`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UpstreamId(pub usize);

/// `[certificate.NAME]`: one certificate, as one or more pairs of chain and key (e.g. RSA and
/// ECDSA).
#[derive(Debug)]
pub struct Certificate {
    /// `NAME`.
    pub name: String,
    /// Position of the table.
    pub place: Span,
    /// At least one pair.
    pub pairs: Vec<CertificatePair>,
}

/// A PEM certificate chain and its private key.
#[derive(Debug)]
pub struct CertificatePair {
    /// PEM file with the leaf first, then intermediates. Absolute, or relative to the working
    /// directory.
    pub chain: PathBuf,
    /// Position of `chain`.
    pub chain_place: Span,
    /// PEM file with the key in PKCS#8, PKCS#1 or SEC1, unencrypted.
    pub key: PathBuf,
    /// Position of `key`.
    pub key_place: Span,
}

/// `[profile.NAME]`: a side of the gateway, with its listeners and routes.
#[derive(Debug)]
pub struct Profile {
    /// `NAME`.
    pub name: String,
    /// Position of the table.
    pub place: Span,
    /// Hosts that this profile serves. Empty: any. Requests for others are answered 421.
    pub hosts: Vec<(HostPattern, Span)>,
    /// Certificates from which its TLS listeners select by SNI. The first is the default, for
    /// clients that send no SNI.
    pub certificates: Vec<CertificateId>,
    /// Response to a client whose SNI matches no certificate.
    pub unknown_sni: UnknownSni,
    /// Peers whose `X-Forwarded-*` and `X-Request-Id` are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Field in which those peers name the client.
    pub named_by: ClientAddressField,
    /// Fields set on every response of an upstream, unless the route overrides them.
    pub response_headers: Arc<[ResponseHeader]>,
    /// Largest request body of routes without a limit of their own, in bytes. Default 10 MiB.
    pub max_body: u64,
    /// Whether access-log lines are written. Default true.
    pub access_log: bool,
    /// Limits on the resources of clients.
    pub limits: Limits,
    /// Limits of the time a client may take.
    pub timeouts: Timeouts,
    /// Listeners; at least one.
    pub listeners: Vec<Listener>,
    /// Routes in the order of the file; at least one.
    pub routes: Box<[Route]>,
}

/// Field in which trusted proxies name the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientAddressField {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// Neither: the connected peer is the client.
    Nothing,
}

/// Response to a client whose SNI matches no certificate of the profile.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UnknownSni {
    /// The default certificate; the client decides whether to accept it.
    Default,
    /// The TLS alert `unrecognized_name`, and no certificate.
    Refuse,
}

/// `[[profile.NAME.listener]]`.
#[derive(Debug)]
pub struct Listener {
    /// Position of `listen`.
    pub place: Span,
    /// Address to bind. Port 0 is rejected, except in tests.
    pub listen: SocketAddr,
    /// Function of the listener.
    pub serve: ListenerMode,
    /// Whether HTTP/2 is offered in ALPN. Default true.
    pub http2: bool,
    /// Whether clients must present certificates.
    pub client_certificates: ClientCertificates,
    /// Balancers that name the client; `None`: the peer of every connection is the client.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// Function of a listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListenerMode {
    /// The profile's routes, over TLS.
    Routes,
    /// Only the routes to this upstream, over TLS, with their `strip-prefix` already removed, as
    /// the upstream sees them.
    Component(UpstreamId),
    /// Plain HTTP: every request is redirected to the same URL under `https`, on this port if it is
    /// not 443.
    RedirectToHttps {
        /// The port named in the redirect.
        port: u16,
    },
}

/// Whether clients must present certificates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClientCertificates {
    /// No certificate is requested.
    Off,
    /// A certificate is requested. A client without one is served, one with an invalid one is not.
    Optional {
        /// PEM file with the CAs that must have issued them.
        ca: PathBuf,
        /// Position of the path.
        place: Span,
    },
    /// A certificate is required.
    Required {
        /// PEM file with the CAs that must have issued them.
        ca: PathBuf,
        /// Position of the path.
        place: Span,
    },
}

/// `[[profile.NAME.route]]`.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent switches of the file")]
pub struct Route {
    /// Position of `path`.
    pub place: Span,
    /// Name in logs and metrics. Default: the path. Unique within the profile together with the
    /// methods.
    pub name: Arc<str>,
    /// Paths that the route takes.
    pub path: PathPattern,
    /// Methods that the route takes; empty: any except CONNECT and TRACE. GET includes HEAD.
    pub methods: Vec<Method>,
    /// Action for the requests.
    pub action: Action,
    /// Largest request body, in bytes.
    pub max_body: u64,
    /// Whether WebSocket upgrades are allowed. Default true for upstream routes.
    pub websocket: bool,
    /// Whether an idempotent request without body may be repeated once if the upstream turns out to
    /// have closed a reused connection. Default true. A Socket.IO poll is never repeated.
    pub retry: bool,
    /// Whether `%2F` and `%5C` are accepted in the path. Default false, because proxies and
    /// components disagree about the meaning of such a path.
    pub allow_encoded_slash: bool,
    /// Whether `//` is accepted in the path. Default false, for the same reason.
    pub allow_empty_segments: bool,
    /// Whether `;` is accepted in the path. Default false, for the same reason.
    pub allow_path_parameters: bool,
    /// Serve the request, but record in log and metric that it would be denied without this route.
    pub report_only: bool,
    /// First-byte timeout for this route; the upstream's own by default.
    pub first_byte_timeout: Option<Duration>,
    /// Fields set on or removed from the upstream's response: the profile's, overridden by the
    /// route's own and by `frame-ancestors`. Routes without fields of their own share the profile's list.
    pub response_headers: Arc<[ResponseHeader]>,
    /// Names of request fields that are forwarded although a component may trust them as set by its
    /// proxy: those of the profile and of the route.
    pub pass_request_headers: Arc<[HeaderName]>,
}

/// Paths that a route takes, compared after percent-decoding.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum PathPattern {
    /// `/ccm/webhook`: this path and no other.
    Exact(Arc<str>),
    /// `/socket.io/`: ends in `/` and takes every path below. The path without the slash is
    /// redirected to it.
    Subtree(Arc<str>),
}

impl PathPattern {
    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text()
    }

    /// The pattern as shared text.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        match self {
            Self::Exact(path) | Self::Subtree(path) => path,
        }
    }
}

/// Action of a route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Forward the request.
    Proxy {
        /// Destination of the request.
        upstream: UpstreamId,
        /// Prefix removed from the path; starts with `/`, does not end in one, is a prefix of the
        /// route's path.
        strip_prefix: Option<String>,
    },
    /// Redirect the client.
    Redirect {
        /// Path or URL, put into `Location` unchanged; the query is not appended.
        to: String,
        /// 301, 302, 303, 307 or 308. Default 302.
        status: u16,
    },
    /// Answer 403.
    Deny,
    /// Answer whether the gateway is ready and these upstreams are up.
    Ready(Vec<UpstreamId>),
    /// Answer with the self-test page.
    SelfTest(SelfTest),
    /// Answer gateways that compare themselves with this one.
    Drift,
}

/// A field set on, or removed from, an upstream's response.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResponseHeader {
    /// Name of the field.
    pub name: HeaderName,
    /// Value to set; `None` removes the field.
    pub value: Option<HeaderValue>,
}

/// Whether `listen` is reachable from this host only.
#[must_use]
pub fn is_loopback(listen: IpAddr) -> bool {
    listen.to_canonical().is_loopback()
}
