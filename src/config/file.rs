//! What may be written in the files, key by key.
//!
//! The doc comments of this module are the descriptions in `app-gateway schema`, so they speak to
//! the operator. House rule: no `flatten`, no `untagged`, no internally tagged enums. All three go
//! through serde's buffer, which forgets where the value was written.
//!
//! In: TOML tables. Out: types with places and nothing decided. Never: a default, a meaning.

mod balancers;
mod doctor;
mod drift;
mod forward;
mod log;
mod self_test;
mod tcp;
mod upstream;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

pub use balancers::{OthersFile, ProxyProtocolFile};
pub use doctor::DoctorFile;
pub use drift::DriftFile;
pub use forward::*;
pub use log::*;
pub use self_test::{SelfTestFile, SelfTestTable};
pub use tcp::*;
pub use upstream::{
    BalanceFile, CheckFile, CheckKindFile, EjectFile, FailOverFile, HeaderVersionFile, InitialFile,
    StickyFile, UpstreamFile, VerifyFile,
};

/// A value and where in its file it is written.
#[derive(Clone, Debug, Default)]
pub struct Written<T> {
    /// What is written.
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

/// Shorthand: most keys may be absent, and their place is needed when they are not.
pub type Maybe<T> = Option<Written<T>>;

/// Names of fields and what they are set to, each with its place.
pub type SpannedFields = BTreeMap<toml::Spanned<String>, Written<String>>;

/// One or all of the `*.toml` files of a configuration directory of app-gateway. Which file holds
/// which table does not matter. `${NAME}` and `${NAME:-default}` in any string are taken from the
/// environment, `$$` is a `$`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DirectoryFile {
    /// Process-wide settings.
    pub gateway: Option<GatewayFile>,
    /// Metrics and health, over plain HTTP, and the socket of commands like `reload`.
    pub admin: Option<AdminFile>,
    /// Certificates of the gateway, by name.
    pub certificate: Option<BTreeMap<String, CertificateFile>>,
    /// The components behind the gateway, by name.
    pub upstream: Option<BTreeMap<String, UpstreamFile>>,
    /// The sides of the gateway (internet, lan), by name. Further files may add listeners and
    /// routes to a profile.
    pub profile: Option<BTreeMap<String, ProfileFile>>,
    /// Connections passed through to an upstream as they are, TLS unopened, by name: what a balancer
    /// in front of two sites does.
    pub tcp: Option<BTreeMap<String, TcpFile>>,
    /// What `app-gateway doctor` looks at besides the gateway itself.
    pub doctor: Option<DoctorFile>,
    /// The way out, for components that call other hosts. Further files may add listeners, rules
    /// and parents to it.
    pub forward: Option<ForwardFile>,
}

/// Process-wide settings.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GatewayFile {
    /// Data workers, one thread each. Default: one per core.
    pub workers: Maybe<i64>,
    /// Where access-log lines go: `"stdout"`, `"off"`, or the path of a file; or a table, which also
    /// says how they are written. Default `"stdout"`.
    pub access_log: Maybe<AccessLogFile>,
    /// What the gateway says about itself on standard error, from this level on; `APP_GATEWAY_LOG`
    /// in the environment wins. Default `"info"`.
    pub log_level: Maybe<LevelFile>,
    /// How it says that: `"text"`, or a JSON object per line. Default `"text"`.
    pub log_format: Maybe<VoiceFile>,
    /// Take part in W3C Trace Context: components get a `traceparent` of their own. Default true.
    pub trace_context: Maybe<bool>,
    /// Follow Socket.IO sessions, so that `app-gateway why-polling` can say what keeps one from its
    /// WebSocket. Default true.
    pub socket_io_lens: Maybe<bool>,
    /// How long a drain may take until what is left is cut. Default `"30s"`.
    pub drain_timeout: Maybe<String>,
    /// How many of the latest requests `app-gateway plan` can look at; 0 remembers none. Default 1000.
    pub recent_requests: Maybe<i64>,
    /// Memory for answers that HTTP/2 clients have not taken yet, of all connections together, from
    /// 16 MiB. One client address (IPv6: one /64) has at most an eighth of it. Default `"256MiB"`.
    pub http2_send_buffers: Maybe<Amount>,
    /// How many routes of a configuration have series of their own in the metrics, and how many
    /// listeners, upstreams and certificates; what is over it is counted together as `other`.
    /// Default 500.
    pub metrics_limit: Maybe<i64>,
    /// File with the secret that several gateways share, so that clients of one can go on at another:
    /// made by `app-gateway secret new`. Default: none.
    pub shared_secret_file: Maybe<String>,
    /// Gateways that should act like this one. Default: none.
    pub drift: Maybe<DriftFile>,
    /// How long session tickets are sealed with one key, 1 minute to 48 hours; they are good for as
    /// long and up to twice as long. Default `"8h"`.
    pub ticket_epoch: Maybe<String>,
    /// How often names of endpoints are looked up again, give or take a tenth, `"1s"` to `"1h"`.
    /// Default `"30s"`.
    pub resolve_every: Maybe<String>,
    /// Apply files that change by themselves, and not only when a reload is asked for. Default true.
    pub reload_on_change: Maybe<bool>,
    /// How long `/readyz` says "draining" before connections stop being taken, so that a balancer
    /// in front can send them elsewhere first, e.g. `"5s"`. Default `"0s"`.
    pub drain_delay: Maybe<String>,
    /// User to run as when started as root: `"USER"` or `"USER:GROUP"`, by name or number. Ports below 1024
    /// can still be bound, also by a reload; files are read as this user from the start. Default: none; then
    /// a start as root is refused.
    pub user: Maybe<String>,
    /// Run as root when started as root and `user` is not set. Default false.
    pub allow_root: Maybe<bool>,
    /// After an upgrade in place, how long the old process keeps the WebSockets it has, e.g.
    /// `"12h"`. Then it drains. Default `"12h"`.
    pub upgrade_timeout: Maybe<String>,
}

/// Metrics and health, over plain HTTP, and the socket of commands like `reload`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdminFile {
    /// Address and port, e.g. `"127.0.0.1:9145"`. Anything but loopback needs `expose = true`.
    /// Default: none.
    pub listen: Maybe<String>,
    /// Allows an address that other hosts can reach. Default false.
    pub expose: Maybe<bool>,
    /// Names by which the listener may be asked, besides addresses, `localhost` and this host's name.
    /// A request for another name is refused, so that no page in a browser can be made to ask here.
    /// Default: none.
    pub hosts: Maybe<Vec<Written<String>>>,
    /// File with the token that verbs such as `POST /reload` need over TCP, sent as
    /// `Authorization: Bearer TOKEN`; only its owner may have access to it. Made by
    /// `app-gateway secret new FILE`. Default: none; then verbs are done over the socket only.
    pub token_file: Maybe<String>,
    /// `/readyz` says 503 unless these upstreams are up; backups do not count. Default: none.
    pub ready: Maybe<Vec<Written<String>>>,
    /// Path of the socket over which `app-gateway reload` and the like reach the gateway, or
    /// `"off"`. Default: one in `/run/app-gateway`, which every command finds by itself.
    pub socket: Maybe<String>,
}

/// One identity of the gateway.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CertificateFile {
    /// One or more chain-and-key pairs for the same names, say one ECDSA and one RSA.
    pub pairs: Written<Vec<PairFile>>,
}

/// A certificate chain and its private key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PairFile {
    /// PEM file: the certificate first, then the intermediates. Relative to this directory.
    pub chain: Written<String>,
    /// PEM file with the unencrypted private key. Relative to this directory.
    pub key: Written<String>,
}

/// A side of the gateway, with its listeners and routes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProfileFile {
    /// Hosts it answers for, e.g. `"chat.example.com"` or `"*.example.com"`. Default: any.
    pub hosts: Maybe<Vec<Written<String>>>,
    /// Names of `[certificate.NAME]` tables. The first is shown to clients that send no SNI.
    pub certificates: Maybe<Vec<Written<String>>>,
    /// What a client gets whose SNI no certificate covers. Default `"default"`.
    pub unknown_sni: Maybe<UnknownSniFile>,
    /// Networks whose `X-Forwarded-*` and `X-Request-Id` are believed. Default: none.
    pub trusted_proxies: Maybe<Vec<Written<String>>>,
    /// By which field `trusted-proxies` say who the client is. Default `"x-forwarded-for"`.
    pub client_address: Maybe<ClientAddressFile>,
    /// Longest request body of routes that say nothing, or `"unlimited"`. Default `"10MiB"`.
    pub max_body: Maybe<Amount>,
    /// Fields set on every answer; `""` removes a component's field. Answers of the gateway's own,
    /// refusals and redirects, get them too, but for those that describe content.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub response_headers: Maybe<SpannedFields>,
    /// Names of request fields to pass on although a component may take them for the word of its
    /// proxy, e.g. `["X-HTTP-Method-Override", "api_key"]`. Default: none; they are dropped.
    pub pass_request_headers: Maybe<Vec<Written<String>>>,
    /// Write access-log lines for this profile. Default true.
    pub access_log: Maybe<bool>,
    /// What a client may use.
    pub limits: Maybe<LimitsFile>,
    /// How long a client may take.
    pub timeouts: Maybe<TimeoutsFile>,
    /// Addresses it listens on.
    pub listener: Maybe<Vec<Written<ListenerFile>>>,
    /// What it serves. The longest matching path wins; what matches none is answered 404.
    pub route: Maybe<Vec<Written<RouteFile>>>,
}

/// By which field `trusted-proxies` say who the client is. The other is not believed.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAddressFile {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239). Nothing in `X-Forwarded-*` is believed then.
    Forwarded,
    /// By none: the client is the proxy. Its `X-Forwarded-*` are passed on all the same.
    Off,
}

/// What a client gets whose SNI no certificate covers.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownSniFile {
    /// The first certificate of the profile.
    Default,
    /// The TLS alert `unrecognized_name`.
    Refuse,
}

/// What a client may use.
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
    /// Memory for answers that a client has not taken yet, per HTTP/2 connection, 64 KiB to 64 MiB.
    /// Default `"1MiB"`.
    pub http2_send_buffer: Maybe<Amount>,
    /// Requests being served and open WebSockets, of all listeners of the profile together. Default:
    /// twice `connections`.
    pub requests: Maybe<i64>,
    /// Requests being served and open WebSockets per client address (IPv6: per /64), of all
    /// listeners of the profile together. Default: twice `connections-per-client`.
    pub requests_per_client: Maybe<i64>,
}

/// How long a client may take.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TimeoutsFile {
    /// From accept to the end of the TLS handshake. Default `"10s"`.
    pub handshake: Maybe<String>,
    /// From the first byte of a request head to its last. Default `"15s"`.
    pub header: Maybe<String>,
    /// Between requests on one connection. Default `"75s"`.
    pub keep_alive: Maybe<String>,
    /// Longest silence while a body is sent or taken by the client; also the time that `min-rate` is
    /// an average over. Default `"30s"`.
    pub body_idle: Maybe<String>,
    /// Bytes per second a client must send of a body, or take of an answer, on average over at least
    /// `body-idle` of waiting for it. Time spent waiting for the upstream does not count, and a body
    /// that is complete is not judged. 0 turns it off. Default 200.
    pub min_rate: Maybe<i64>,
    /// Longest silence in a WebSocket, or `"unlimited"`. Default `"2min"`.
    pub tunnel_idle: Maybe<String>,
}

/// An address a profile listens on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ListenerFile {
    /// Address and port, e.g. `"0.0.0.0:8443"` or `"[::]:8443"`.
    pub listen: Written<String>,
    /// Serve only the routes to this upstream, with their `strip-prefix` already taken off.
    pub component: Maybe<String>,
    /// Plain HTTP: redirect everything to https on this port.
    pub redirect_to_https: Maybe<i64>,
    /// Offer HTTP/2. Default true.
    pub http2: Maybe<bool>,
    /// PEM file with CAs, or with certificates of clients themselves: ask clients for a certificate.
    pub client_ca: Maybe<String>,
    /// Whether a client may come without one. Default `"required"`. Only with `client-ca`.
    pub client_certificate: Maybe<ClientCertificateFile>,
    /// Balancers in front that say who the client is, e.g. `{ from = ["10.0.0.10"] }`. Default: none.
    pub proxy_protocol: Maybe<ProxyProtocolFile>,
}

/// Whether a client may come without a certificate.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificateFile {
    /// No.
    Required,
    /// Yes.
    Optional,
}

/// What is done with requests for a path. Exactly one of `upstream`, `redirect`, `deny`,
/// `ready`, `self-test` and `drift`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteFile {
    /// `"/a/b"`: exactly this path. `"/a/"`: everything below it.
    pub path: Written<String>,
    /// `path` ends in `/`, but only that very path is meant: `"/"` for the root alone.
    pub exact: Maybe<bool>,
    /// Methods it takes. Default: any. `GET` admits `HEAD`.
    pub methods: Maybe<Vec<Written<String>>>,
    /// Name in logs and metrics. Default: the path.
    pub name: Maybe<String>,
    /// Pass the request on to this `[upstream.NAME]`.
    pub upstream: Maybe<String>,
    /// Send the client to this path or URL.
    pub redirect: Maybe<String>,
    /// Status of the redirect: 301, 302, 303, 307 or 308. Default 302.
    pub status: Maybe<i64>,
    /// Answer 403. Holds for every spelling of the path that a component may take for this one:
    /// upper and lower case, `;` parameters, `//`, with and without `/` at the end.
    pub deny: Maybe<bool>,
    /// Answer whether the gateway is ready and these upstreams are up, for a balancer in front: 200
    /// or 503. Backups do not count.
    pub ready: Maybe<Vec<Written<String>>>,
    /// Answer with a page that tries the way from a browser to the gateway: `true`, or a table with
    /// `idle` and `socket-io`. Default: none.
    pub self_test: Maybe<SelfTestFile>,
    /// Answer gateways that have the same shared secret, and compare themselves with this one; to
    /// others there is nothing here. Default false.
    pub drift: Maybe<bool>,
    /// Taken off the front of the path before it is passed on, e.g. `"/ccm"`.
    pub strip_prefix: Maybe<String>,
    /// Longest request body, e.g. `"30MiB"`, or `"unlimited"`. Default: the profile's.
    pub max_body: Maybe<Amount>,
    /// Carry WebSocket upgrades. Default true.
    pub websocket: Maybe<bool>,
    /// Send a request without body a second time when a kept connection turns out to be closed.
    /// Default true. A Socket.IO poll never is.
    pub retry: Maybe<bool>,
    /// Admit `%2F` and `%5C` in the path. Default false.
    pub allow_encoded_slash: Maybe<bool>,
    /// Admit empty segments (`//`) in the path. They are left out when paths are compared, and
    /// passed on as they came. Default false.
    pub allow_empty_segments: Maybe<bool>,
    /// Admit path parameters (`;jsessionid=1`) in the path. They are left out when paths are
    /// compared, and passed on as they came. Default false.
    pub allow_path_parameters: Maybe<bool>,
    /// Serve it, but log and count it as what would be denied without this route.
    pub report_only: Maybe<bool>,
    /// From the end of the request to the first byte of the answer, or `"unlimited"`. Default: the
    /// upstream's.
    pub first_byte_timeout: Maybe<String>,
    /// Fields set on the answer, on top of the profile's; `""` removes the field.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub response_headers: Maybe<SpannedFields>,
    /// Names of request fields to pass on, on top of the profile's.
    pub pass_request_headers: Maybe<Vec<Written<String>>>,
    /// Who may show the page in a frame: `"nobody"`, `"self"`, `"anyone"`, or a list of origins.
    pub framed_by: Maybe<FramedBy>,
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

/// Who may show a page in a frame.
#[derive(Debug)]
pub enum FramedBy {
    /// One of the words.
    Word(String),
    /// Pages of these origins.
    Origins(Vec<Written<String>>),
}

impl<'de> Deserialize<'de> for FramedBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = FramedBy;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"nobody\", \"self\", \"anyone\", or a list of origins")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<FramedBy, E> {
                Ok(FramedBy::Word(word.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<FramedBy, A::Error> {
                let mut origins = Vec::new();
                while let Some(origin) = seq.next_element()? {
                    origins.push(origin);
                }
                Ok(FramedBy::Origins(origins))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for FramedBy {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FramedBy".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Who may show the page in a frame.",
            "oneOf": [
                { "enum": ["nobody", "self", "anyone"] },
                { "type": "array", "minItems": 1, "items": { "type": "string" } },
            ],
        })
    }
}
