//! What the operator asked for, once it has been checked.
//!
//! Every value here is usable as it stands: names are resolved to ids, defaults are filled in,
//! nothing is an `Option` that means "use the default". What can only be judged with the
//! certificates in hand is checked later, by `generation`, which reports against the same
//! [`Span`]s.

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
    /// The files it was read from, for drawing problems that are found later.
    pub sources: Sources,
    /// What they say, for comparing.
    pub outline: Outline,
    /// Process-wide settings.
    pub gateway: Gateway,
    /// Gateways that should act like this one, if they are compared.
    pub drift: Option<Drift>,
    /// The admin listener, if there is one.
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
    /// What is passed through, in the order of the names.
    pub tcp: Vec<Tcp>,
    /// What `doctor` looks at besides.
    pub doctor: Doctor,
    /// The forward proxy, if there is one.
    pub forward: Option<Forward>,
}

/// `[gateway]`.
#[derive(Debug)]
pub struct Gateway {
    /// Number of data workers, one thread each; at least 1. Default: one per core.
    pub workers: usize,
    /// The access log.
    pub access_log: AccessLog,
    /// The log of the gateway about itself.
    pub logging: OperationalLog,
    /// Whether components get a `traceparent` of the gateway's. Default true.
    pub trace_context: bool,
    /// Whether Socket.IO sessions are followed. Default true.
    pub socket_io_lens: bool,
    /// How long a drain may take from the first TERM until what is left is cut. Default 30 s.
    pub drain_timeout: Duration,
    /// How many of the latest requests are remembered, for `plan`, in all workers together. Default
    /// 1,000; 0 remembers none.
    pub recent_requests: usize,
    /// Bytes of answers that clients of HTTP/2 have not taken yet, of all connections. Default
    /// 256 MiB, from 16 MiB.
    pub http2_send_buffers: usize,
    /// Routes with series of their own in the metrics; as many listeners, upstreams and
    /// certificates.
    pub metrics_limit: usize,
    /// Whether files that change are applied by themselves. Default true.
    pub reload_on_change: bool,
    /// The secret that this gateway shares with others, if it does.
    pub shared_secret: Option<NamedFile>,
    /// How long session tickets are sealed with one key. Default 8 h, at most 48 h.
    pub ticket_epoch: Duration,
    /// How often names of endpoints are looked up, where their upstream says nothing. Default 30 s.
    pub resolve_every: Duration,
    /// How long connections are still taken after readiness is gone. Default 0.
    pub drain_delay: Duration,
    /// Start as root.
    pub root: RootPolicy,
    /// How long a process that has a successor keeps its connections before it drains. Default 12 h.
    pub upgrade_timeout: Duration,
}

/// Start as root: what becomes of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum RootPolicy {
    /// It is refused.
    #[default]
    Refuse,
    /// The gateway stays root.
    Allow,
    /// The gateway goes on as this user: `USER` or `USER:GROUP`, by name or number.
    RunAs(String),
}

/// A file, and where it is named.
#[derive(Clone, Debug)]
pub struct NamedFile {
    /// The file. Absolute, or relative to the working directory.
    pub file: PathBuf,
    /// Where it is named.
    pub place: Span,
}

/// Where commands like `reload` reach the gateway on this host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AdminSocket {
    /// In the system's directory for such things, under a name made from the configuration
    /// directory's.
    Usual,
    /// Nowhere.
    Off,
    /// At this path.
    At {
        /// Absolute, or relative to the working directory; at most 90 bytes.
        path: PathBuf,
        /// Where it is written.
        place: Span,
    },
}

/// `[admin]` with `listen`: metrics and health over TCP.
#[derive(Debug)]
pub struct Admin {
    /// Where `listen` is written.
    pub place: Span,
    /// Plain HTTP address. A loopback address, unless `expose` says otherwise.
    pub listen: SocketAddr,
    /// Names it may be asked by, besides addresses, `localhost` and the system's name.
    pub hosts: Vec<String>,
    /// File with the token of verbs over TCP, if they are allowed.
    pub token_file: Option<NamedFile>,
}

/// Index into [`Config::certificates`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CertificateId(pub usize);

/// Index into [`Config::upstreams`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UpstreamId(pub usize);

/// `[certificate.NAME]`: one identity, as one or more chain-and-key pairs (say RSA and ECDSA).
#[derive(Debug)]
pub struct Certificate {
    /// `NAME`.
    pub name: String,
    /// Where the table is.
    pub place: Span,
    /// At least one pair.
    pub pairs: Vec<CertificatePair>,
}

/// A PEM certificate chain and its private key.
#[derive(Debug)]
pub struct CertificatePair {
    /// Leaf first, then intermediates. Absolute, or relative to the working directory.
    pub chain: PathBuf,
    /// Where `chain` is written.
    pub chain_place: Span,
    /// PKCS#8, PKCS#1 or SEC1, unencrypted.
    pub key: PathBuf,
    /// Where `key` is written.
    pub key_place: Span,
}

/// `[profile.NAME]`: a side of the gateway, with its listeners and routes.
#[derive(Debug)]
pub struct Profile {
    /// `NAME`.
    pub name: String,
    /// Where the table is.
    pub place: Span,
    /// Hosts this profile answers for. Empty: any. Others get 421.
    pub hosts: Vec<(HostPattern, Span)>,
    /// Certificates its TLS listeners choose from by SNI. The first is the default, for clients
    /// that send no SNI.
    pub certificates: Vec<CertificateId>,
    /// What a client gets whose SNI no certificate covers.
    pub unknown_sni: UnknownSni,
    /// Peers whose `X-Forwarded-*` and `X-Request-Id` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// By which field they say who the client is.
    pub named_by: ClientAddressField,
    /// Fields set on every answer of an upstream, unless the route says otherwise.
    pub response_headers: Arc<[ResponseHeader]>,
    /// Longest request body of routes that say nothing, in bytes. Default 10 MiB.
    pub max_body: u64,
    /// Whether it has access-log lines. Default true.
    pub access_log: bool,
    /// Limits on what a client may do.
    pub limits: Limits,
    /// How long a client may take.
    pub timeouts: Timeouts,
    /// At least one.
    pub listeners: Vec<Listener>,
    /// In the order of the file. At least one.
    pub routes: Box<[Route]>,
}

/// By which field trusted proxies say who the client is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientAddressField {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// None: the client is who is connected.
    Nothing,
}

/// What a client gets whose SNI no certificate of the profile covers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UnknownSni {
    /// The default certificate; the client decides whether it likes it.
    Default,
    /// An alert (`access_denied`), and no certificate.
    Refuse,
}

/// `[[profile.NAME.listener]]`.
#[derive(Debug)]
pub struct Listener {
    /// Where `listen` is written.
    pub place: Span,
    /// Address to bind. Port 0 is refused, except by tests.
    pub listen: SocketAddr,
    /// What it serves.
    pub serve: ListenerMode,
    /// Whether HTTP/2 is offered by ALPN. Default true.
    pub http2: bool,
    /// Certificates asked of clients.
    pub client_certificates: ClientCertificates,
    /// Balancers that say who the client is; `None`: everybody speaks for himself.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// What a listener serves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListenerMode {
    /// The profile's routes, over TLS.
    Routes,
    /// Over TLS, only the routes to this upstream, written as that upstream sees them: with their
    /// `strip-prefix` already taken off.
    Component(UpstreamId),
    /// Plain HTTP: every request is redirected to the same URL under `https`, on this port if it
    /// is not 443.
    RedirectToHttps {
        /// The port named in the redirect.
        port: u16,
    },
}

/// Certificates asked of clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClientCertificates {
    /// None.
    Off,
    /// Asked for; a client without one is served, one with a bad one is not.
    Optional {
        /// PEM file with the CAs they must come from.
        ca: PathBuf,
        /// Where it is written.
        place: Span,
    },
    /// Demanded.
    Required {
        /// PEM file with the CAs they must come from.
        ca: PathBuf,
        /// Where it is written.
        place: Span,
    },
}

/// `[[profile.NAME.route]]`.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent switches of the file")]
pub struct Route {
    /// Where `path` is written.
    pub place: Span,
    /// Name in logs and metrics. Default: the path. Unique within the profile together with the
    /// methods.
    pub name: Arc<str>,
    /// Which paths.
    pub path: PathPattern,
    /// Which methods; empty: any but CONNECT and TRACE. HEAD goes with GET.
    pub methods: Vec<Method>,
    /// What is done.
    pub action: Action,
    /// Longest request body, in bytes.
    pub max_body: u64,
    /// Whether WebSocket upgrades are carried. Default true for upstream routes.
    pub websocket: bool,
    /// Whether an idempotent request without body may be sent a second time when a kept
    /// connection turns out to have been closed by the upstream. Default true. A Socket.IO poll
    /// never is.
    pub retry: bool,
    /// Whether `%2F` and `%5C` may stand in the path. Default false: they are where a proxy and a
    /// component disagree about what a path names.
    pub allow_encoded_slash: bool,
    /// Whether `//` may stand in the path. Default false, as above.
    pub allow_empty_segments: bool,
    /// Whether `;` may stand in the path. Default false, as above.
    pub allow_path_parameters: bool,
    /// The request is served, but log and metric say that without this route it would have been
    /// denied.
    pub report_only: bool,
    /// First-byte limit for this route; the upstream's own by default.
    pub first_byte_timeout: Option<Duration>,
    /// Fields set on or removed from the upstream's answer: the profile's, overridden by the
    /// route's own and by `framed-by`. Those of the profile are the same list for all its routes.
    pub response_headers: Arc<[ResponseHeader]>,
    /// Names of request fields that are passed on although a component may take them for the word
    /// of its proxy: those of the profile and of the route.
    pub pass_request_headers: Arc<[HeaderName]>,
}

/// Which paths a route takes, compared after percent-decoding.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum PathPattern {
    /// `/ccm/webhook`: this path and no other.
    Exact(Arc<str>),
    /// `/socket.io/`: it ends in `/` and takes everything below. The path without the slash is
    /// redirected to it.
    Subtree(Arc<str>),
}

impl PathPattern {
    /// The pattern as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text()
    }

    /// The same, to be kept.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        match self {
            Self::Exact(path) | Self::Subtree(path) => path,
        }
    }
}

/// What a route does with a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Passes it on.
    Proxy {
        /// To whom.
        upstream: UpstreamId,
        /// Taken off the front of the path; starts with `/`, does not end in one, is a prefix of
        /// the route's path.
        strip_prefix: Option<String>,
    },
    /// Sends the client elsewhere.
    Redirect {
        /// Path or URL, put into `Location` as it is; the query is not carried over.
        to: String,
        /// 301, 302, 303, 307 or 308. Default 302.
        status: u16,
    },
    /// Answers 403.
    Deny,
    /// Answers whether the gateway is ready, and these upstreams up.
    Ready(Vec<UpstreamId>),
    /// Answers with a page that tries the way to the gateway.
    SelfTest(SelfTest),
    /// Answers gateways that compare themselves with this one.
    Drift,
}

/// A field set on, or taken from, an upstream's answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResponseHeader {
    /// Its name.
    pub name: HeaderName,
    /// Its value; `None` removes the field.
    pub value: Option<HeaderValue>,
}

/// Whether `listen` can only be reached from this host.
#[must_use]
pub fn is_loopback(listen: IpAddr) -> bool {
    listen.to_canonical().is_loopback()
}
