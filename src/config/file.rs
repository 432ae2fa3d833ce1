//! Types of the configuration files, key by key, as deserialized from TOML.
//!
//! The doc comments of this module are the descriptions in `app-gateway schema`, so they address
//! the operator. House rule: no `flatten`, no `untagged`, no internally tagged enums. All three go
//! through serde's buffer, which loses the position of a value.
//!
//! The types keep positions. They contain no defaults and decide no meaning.

mod balancers;
mod doctor;
mod drift;
mod forward;
mod log;
mod route;
mod self_test;
mod tcp;
mod upstream;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

pub use balancers::{ProxyProtocolFile, UnlistedFile};
pub use doctor::DoctorFile;
pub use drift::DriftFile;
pub use forward::*;
pub use log::*;
pub use route::*;
pub use self_test::{SelfTestFile, SelfTestTable};
pub use tcp::*;
pub use upstream::{
    BalanceFile, CheckFile, CheckKindFile, EjectFile, FailoverFile, HeaderVersionFile, InitialFile,
    StickyFile, UpstreamFile, VerifyFile,
};

/// A value and its position in the file.
#[derive(Clone, Debug, Default)]
pub struct Written<T> {
    /// The value.
    pub value: T,
    /// Byte range in the file.
    pub span: Range<usize>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<T>::deserialize(deserializer)?;
        let span = spanned.span();
        Ok(Self { value: spanned.into_inner(), span })
    }
}

impl<T: JsonSchema> JsonSchema for Written<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

/// Abbreviation: most keys are optional, and the position of a present one is needed.
pub type Maybe<T> = Option<Written<T>>;

/// Names of fields and their values, each with its position.
pub type SpannedFields = BTreeMap<toml::Spanned<String>, Written<String>>;

/// One or all of the `*.toml` files of a configuration directory of app-gateway. Any file may hold
/// any table. `${NAME}` and `${NAME:-default}` in any string are replaced by the value of the
/// environment variable; `$$` is a literal `$`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DirectoryFile {
    /// Process-wide settings.
    pub gateway: Option<GatewayFile>,
    /// Metrics and health over plain HTTP, and the socket for commands such as `reload`.
    pub admin: Option<AdminFile>,
    /// Certificates of the gateway, by name.
    pub certificate: Option<BTreeMap<String, CertificateFile>>,
    /// The components behind the gateway, by name.
    pub upstream: Option<BTreeMap<String, UpstreamFile>>,
    /// Sides of the gateway (internet, lan), by name. Further files may add listeners and routes to
    /// a profile.
    pub profile: Option<BTreeMap<String, ProfileFile>>,
    /// Passthrough: connections forwarded to an upstream without terminating TLS, by name. This is
    /// the work of a balancer in front of two sites.
    pub tcp: Option<BTreeMap<String, TcpFile>>,
    /// Targets that `app-gateway doctor` tests in addition to the gateway itself.
    pub doctor: Option<DoctorFile>,
    /// The forward proxy, for components that call other hosts. Further files may add listeners,
    /// rules and parents to it.
    pub forward: Option<ForwardFile>,
}

/// Process-wide settings.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GatewayFile {
    /// Number of data workers, one thread each, e.g. `4`. Default: one per core.
    pub workers: Maybe<i64>,
    /// Destination of access-log lines: `"stdout"`, `"off"`, or the path of a file; or a table,
    /// which also sets their format. Default `"stdout"`.
    pub access_log: Maybe<AccessLogFile>,
    /// Lowest level of the gateway's own log on standard error; `APP_GATEWAY_LOG` in the
    /// environment takes precedence. Default `"info"`.
    pub log_level: Maybe<LevelFile>,
    /// Format of that log: `"text"`, or `"json"` for one JSON object per line. Default `"text"`.
    pub log_format: Maybe<LogFormatFile>,
    /// Take part in W3C Trace Context: components receive a `traceparent` of the gateway. Default
    /// true.
    pub trace_context: Maybe<bool>,
    /// Track Socket.IO sessions, so that `app-gateway why-polling` can explain why a session does
    /// not use a WebSocket. Default true.
    pub socket_io_tracking: Maybe<bool>,
    /// Longest duration of a drain; remaining connections are then closed. Default `"30s"`.
    pub drain_timeout: Maybe<String>,
    /// Number of recent requests that `app-gateway plan` can evaluate; 0 keeps none. Default 1000.
    pub recent_requests: Maybe<i64>,
    /// Memory for responses that HTTP/2 clients have not read yet, of all connections together,
    /// from 16 MiB. One client address (IPv6: one /64) may use at most an eighth of it. Default
    /// `"256MiB"`.
    pub http2_send_buffers: Maybe<Amount>,
    /// Number of routes with metric series of their own, and the same number of listeners,
    /// upstreams and certificates. Further ones are counted together as `other`. Default 500.
    pub metrics_limit: Maybe<i64>,
    /// File with a secret that several gateways share, so that a client of one can continue at
    /// another, e.g. `"/etc/app-gateway/shared.secret"`. `app-gateway secret new` creates it.
    /// Default: none.
    pub shared_secret_file: Maybe<String>,
    /// Gateways whose behaviour should equal this one's. Default: none.
    pub drift: Maybe<DriftFile>,
    /// Time for which one key seals session tickets, 1 minute to 48 hours. A ticket is valid for at
    /// least this time and at most twice as long. Default `"8h"`.
    pub ticket_key_lifetime: Maybe<String>,
    /// Interval between DNS lookups of endpoint names, plus or minus a tenth, `"1s"` to `"1h"`.
    /// Default `"30s"`.
    pub resolve_interval: Maybe<String>,
    /// Apply changed files automatically, not only when a reload is requested. Default true.
    pub reload_on_change: Maybe<bool>,
    /// Time for which `/readyz` answers "draining" while connections are still accepted, so that a
    /// balancer in front can redirect clients first, e.g. `"5s"`. Default `"0s"`.
    pub drain_delay: Maybe<String>,
    /// User to run as when started as root: `"USER"` or `"USER:GROUP"`, by name or number, e.g.
    /// `"app-gateway"`. Ports below 1024 can still be bound, also by a reload; files are read as
    /// this user from the start. Default: none; a start as root is then refused.
    pub user: Maybe<String>,
    /// Run as root when started as root and `user` is not set. Default false.
    pub allow_root: Maybe<bool>,
    /// Time for which the old process keeps its WebSockets after a binary upgrade, e.g. `"12h"`.
    /// Then it drains. Default `"12h"`.
    pub upgrade_timeout: Maybe<String>,
}

/// Metrics and health over plain HTTP, and the socket for commands such as `reload`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdminFile {
    /// Address and port, e.g. `"127.0.0.1:9145"`. Any other address than loopback needs `expose =
    /// true`. Default: none.
    pub listen: Maybe<String>,
    /// Allow an address that other hosts can reach. Default false.
    pub expose: Maybe<bool>,
    /// Host names accepted by the listener, besides addresses, `localhost` and the name of this
    /// host, e.g. `["gateway.example.com"]`. Requests for another name are rejected, so that a page
    /// in a browser cannot send requests here (DNS rebinding). Default: none.
    pub hosts: Maybe<Vec<Written<String>>>,
    /// File with the token that commands such as `POST /reload` need over TCP, sent as
    /// `Authorization: Bearer TOKEN`; only its owner may have access to it, e.g.
    /// `"/etc/app-gateway/admin.token"`. `app-gateway secret new FILE` creates it. Default: none;
    /// commands then work over the socket only.
    pub token_file: Maybe<String>,
    /// Upstreams that must be up for `/readyz` to answer 200 and not 503; backups do not count,
    /// e.g. `["ccm"]`. Default: none.
    pub ready: Maybe<Vec<Written<String>>>,
    /// Path of the socket through which `app-gateway reload` and other commands reach the gateway,
    /// or `"off"`, e.g. `"/run/app-gateway/admin.sock"`. Default: one in `/run/app-gateway`, which
    /// every command finds by itself.
    pub socket: Maybe<String>,
}

/// A named certificate of the gateway.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CertificateFile {
    /// One or more pairs of chain and key for the same names, for example one ECDSA and one RSA
    /// pair.
    pub pairs: Written<Vec<PairFile>>,
}

/// A certificate chain and its private key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PairFile {
    /// PEM file with the certificate, followed by the intermediates, e.g. `"gateway.crt"`. Relative
    /// to this directory.
    pub chain: Written<String>,
    /// PEM file with the unencrypted private key, e.g. `"gateway.key"`. Relative to this directory.
    pub key: Written<String>,
}

/// A side of the gateway: its listeners and routes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProfileFile {
    /// Hosts that the profile serves, e.g. `"chat.example.com"` or `"*.example.com"`. Default: any.
    pub hosts: Maybe<Vec<Written<String>>>,
    /// Names of `[certificate.NAME]` tables. Clients that send no SNI get the first.
    pub certificates: Maybe<Vec<Written<String>>>,
    /// Response to a client whose SNI matches no certificate. Default `"default"`.
    pub unknown_sni: Maybe<UnknownSniFile>,
    /// Networks whose `X-Forwarded-*` and `X-Request-Id` are trusted, e.g. `["10.0.0.10"]`.
    /// Default: none.
    pub trusted_proxies: Maybe<Vec<Written<String>>>,
    /// Field in which `trusted-proxies` name the client. Default `"x-forwarded-for"`.
    pub client_address: Maybe<ClientAddressFile>,
    /// Largest request body of routes without `max-body`, or `"unlimited"`. Default `"10MiB"`.
    pub max_body: Maybe<Amount>,
    /// Fields set on every response; `""` removes a component's field. Responses of the gateway
    /// itself, such as rejections and redirects, get them too, except for those that describe
    /// content.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub response_headers: Maybe<SpannedFields>,
    /// Names of request fields to forward although a component may trust them as set by its proxy,
    /// e.g. `["X-HTTP-Method-Override", "api_key"]`. Default: none; they are dropped.
    pub pass_request_headers: Maybe<Vec<Written<String>>>,
    /// Write access-log lines for this profile. Default true.
    pub access_log: Maybe<bool>,
    /// Limits on the resources of clients.
    pub limits: Maybe<LimitsFile>,
    /// Limits of the time a client may take.
    pub timeouts: Maybe<TimeoutsFile>,
    /// Addresses to listen on.
    pub listener: Maybe<Vec<Written<ListenerFile>>>,
    /// Routes. The longest matching path wins; a request that matches none is answered 404.
    pub route: Maybe<Vec<Written<RouteFile>>>,
}

/// Field in which `trusted-proxies` name the client. The other field is not trusted.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAddressFile {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239). `X-Forwarded-*` is then not trusted.
    Forwarded,
    /// Neither: the proxy itself is the client. Its `X-Forwarded-*` are forwarded nevertheless.
    Off,
}

/// Response to a client whose SNI matches no certificate.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownSniFile {
    /// The first certificate of the profile.
    Default,
    /// The TLS alert `unrecognized_name`.
    Refuse,
}

/// Limits on the resources of clients.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitsFile {
    /// Fields in a request head, 1 to 256. Default 100.
    pub header_count: Maybe<i64>,
    /// Bytes of a request head, 1 KiB to 64 KiB. Default `"32KiB"`.
    pub header_size: Maybe<Amount>,
    /// Open connections per listener. Default 20000.
    pub connections: Maybe<i64>,
    /// Open connections per client address (IPv6: per /64) and listener. Default 2000.
    pub connections_per_client: Maybe<i64>,
    /// Concurrent HTTP/2 streams per connection. Default 128.
    pub streams: Maybe<i64>,
    /// Memory for responses that a client has not read yet, per HTTP/2 connection, 64 KiB to 64
    /// MiB. Default `"1MiB"`.
    pub http2_send_buffer: Maybe<Amount>,
    /// Requests in progress and open WebSockets, of all listeners of the profile together, e.g.
    /// `40000`. Default: twice `connections`.
    pub requests: Maybe<i64>,
    /// Requests in progress and open WebSockets per client address (IPv6: per /64), of all
    /// listeners of the profile together. Default: twice `connections-per-client`.
    pub requests_per_client: Maybe<i64>,
}

/// Limits of the time a client may take.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TimeoutsFile {
    /// Time from accept to the end of the TLS handshake. Default `"10s"`.
    pub handshake: Maybe<String>,
    /// Time from the first byte of a request head to its last. Default `"15s"`.
    pub header: Maybe<String>,
    /// Time between requests on one connection. Default `"75s"`.
    pub keep_alive: Maybe<String>,
    /// Longest pause while the client sends or reads a body; also the period over which `min-rate`
    /// is averaged. Default `"30s"`.
    pub body_idle: Maybe<String>,
    /// Bytes per second at which a client must send a body or read a response, on average over at
    /// least `body-idle` of waiting for the client. Time spent waiting for the upstream does not
    /// count, and complete bodies are exempt. 0 disables the limit. Default 200.
    pub min_rate: Maybe<i64>,
    /// Longest time without data in a WebSocket, or `"unlimited"`. Default `"2min"`.
    pub tunnel_idle: Maybe<String>,
}

/// An address on which a profile listens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ListenerFile {
    /// Address and port, e.g. `"0.0.0.0:8443"` or `"[::]:8443"`.
    pub listen: Written<String>,
    /// Serve only the routes to this upstream, with their `strip-prefix` already removed.
    pub component: Maybe<String>,
    /// Plain HTTP: redirect all requests to https on this port, e.g. `443`.
    pub redirect_to_https: Maybe<i64>,
    /// Offer HTTP/2. Default true.
    pub http2: Maybe<bool>,
    /// PEM file with CAs, or with certificates of clients themselves: request a certificate from
    /// clients, e.g. `"/etc/app-gateway/clients-ca.pem"`.
    pub client_ca: Maybe<String>,
    /// Whether a client certificate is required. Default `"required"`. Only with `client-ca`.
    pub client_certificate: Maybe<ClientCertificateFile>,
    /// Balancers in front that name the client, e.g. `{ from = ["10.0.0.10"] }`. Default: none.
    pub proxy_protocol: Maybe<ProxyProtocolFile>,
}

/// Whether a client certificate is required.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificateFile {
    /// Clients without a certificate are rejected.
    Required,
    /// Clients without a certificate are served.
    Optional,
}

/// The action for requests of a path. Exactly one of `upstream`, `redirect`, `deny`, `ready`,
/// `self-test` and `drift`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteFile {
    /// `"/a/b"` matches exactly this path, `"/a/"` everything below it.
    pub path: Written<String>,
    /// `path` ends in `/` but matches only itself: `"/"` for the root alone.
    pub exact: Maybe<bool>,
    /// Methods that the route matches. Default: any. `GET` includes `HEAD`.
    pub methods: Maybe<Vec<Written<String>>>,
    /// Name in logs and metrics. Default: the path.
    pub name: Maybe<String>,
    /// Forward the request to this `[upstream.NAME]`.
    pub upstream: Maybe<String>,
    /// Redirect the client to this path or URL.
    pub redirect: Maybe<String>,
    /// Status of the redirect: 301, 302, 303, 307 or 308. Default 302.
    pub status: Maybe<i64>,
    /// Answer 403. Applies to every spelling of the path that a component may treat as equal: upper
    /// and lower case, `;` parameters, `//`, with and without `/` at the end.
    pub deny: Maybe<bool>,
    /// Answer 200 if the gateway is ready and these upstreams are up, and 503 otherwise, for a
    /// balancer in front, e.g. `["ccm"]`. Backups do not count.
    pub ready: Maybe<Vec<Written<String>>>,
    /// Answer with a page that tests the path from a browser to the gateway: `true`, or a table
    /// with `idle` and `socket-io`. Default: none.
    pub self_test: Maybe<SelfTestFile>,
    /// Answer gateways that have the same shared secret and compare themselves with this one.
    /// Others get 404. Default false.
    pub drift: Maybe<bool>,
    /// Prefix removed from the path before the request is forwarded, e.g. `"/ccm"`.
    pub strip_prefix: Maybe<String>,
    /// Largest request body, e.g. `"30MiB"`, or `"unlimited"`. Default: the profile's.
    pub max_body: Maybe<Amount>,
    /// Allow WebSocket upgrades. Default true.
    pub websocket: Maybe<bool>,
    /// Repeat a request without body once if a reused connection turns out to be closed. Default
    /// true. A Socket.IO poll is never repeated.
    pub retry: Maybe<bool>,
    /// Accept `%2F` and `%5C` in the path. Default false.
    pub allow_encoded_slash: Maybe<bool>,
    /// Accept empty segments (`//`) in the path. They are ignored when paths are compared, and
    /// forwarded unchanged. Default false.
    pub allow_empty_segments: Maybe<bool>,
    /// Accept path parameters (`;jsessionid=1`) in the path. They are ignored when paths are
    /// compared, and forwarded unchanged. Default false.
    pub allow_path_parameters: Maybe<bool>,
    /// `"report"` serves the request, but logs and counts it as one that would be denied without this
    /// route. Default `"enforce"`.
    pub mode: Maybe<RouteModeFile>,
    /// Time from the end of the request to the first byte of the response, or `"unlimited"`.
    /// Default: the upstream's.
    pub first_byte_timeout: Maybe<String>,
    /// Fields set on the response in addition to the profile's; `""` removes the field.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub response_headers: Maybe<SpannedFields>,
    /// Names of request fields to forward, in addition to the profile's, e.g. `["api_key"]`.
    pub pass_request_headers: Maybe<Vec<Written<String>>>,
    /// Origins that may show the page in a frame, as in `Content-Security-Policy`: `"none"`,
    /// `"self"`, `"*"` for any, or a list of origins. Also sets `X-Frame-Options`.
    pub frame_ancestors: Maybe<FrameAncestors>,
}

/// A size: text with a unit, or a number of bytes.
#[derive(Clone, Debug)]
pub enum Amount {
    /// `"10MiB"`
    Text(String),
    /// `4096`
    Bytes(i64),
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"10MiB\", or a number of bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                Ok(Amount::Text(text.to_owned()))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Amount, E> {
                Ok(Amount::Bytes(bytes))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A size such as \"10MiB\", \"64KiB\" or \"1MB\", or a number of bytes.",
            "type": ["string", "integer"],
            "minimum": 0,
        })
    }
}
