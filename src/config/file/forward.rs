//! The forward proxy, as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Amount, ClientCertificateFile, Maybe, ProxyProtocolFile, Written};

/// Host names and addresses, each with its place.
pub type Hosts = BTreeMap<toml::Spanned<String>, Written<Vec<Written<String>>>>;

/// The way out: a proxy through which components reach other hosts. What no rule allows is denied.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ForwardFile {
    /// htpasswd file with the users that rules may name (bcrypt or sha-crypt).
    pub users_file: Maybe<String>,
    /// Serve `GET https://...` (axios sends it instead of CONNECT) by opening TLS to the origin.
    /// Default false.
    pub https_absolute_form: Maybe<bool>,
    /// PEM file with the CAs that certificates of origins must come from when it does. Default: the
    /// system's. Only with `https-absolute-form`.
    pub https_ca_file: Maybe<String>,
    /// Names that are not looked up, and the addresses they stand for, like lines of `/etc/hosts`:
    /// `"api.example.com" = ["192.0.2.1"]`. The rules hold for them as for all others.
    #[schemars(with = "Option<BTreeMap<String, Vec<String>>>")]
    pub hosts: Maybe<Hosts>,
    /// Prefixes (RFC 6052) of NAT64 translators on this network, e.g. `"64:ff9b::/96"`. An address in
    /// one of them is judged by the IPv4 address inside. Default: none; addresses in the well-known
    /// prefixes are denied unless a rule lists them.
    pub nat64: Maybe<Vec<Written<String>>>,
    /// The parent that rules go through that say nothing. Default `"direct"`.
    pub via: Maybe<String>,
    /// What becomes of destinations that no rule lists, for rules that say nothing. Default
    /// `"enforce"`.
    pub mode: Maybe<ModeFile>,
    /// What is done about the name inside TLS on port 443, for rules that say nothing.
    pub sni: Maybe<SniFile>,
    /// What a client may use.
    pub limits: Maybe<ForwardLimitsFile>,
    /// How long things may take.
    pub timeouts: Maybe<ForwardTimeoutsFile>,
    /// Addresses it listens on.
    pub listener: Maybe<Vec<Written<ForwardListenerFile>>>,
    /// Who may go where. A rule with `deny` wins; otherwise the first that allows it.
    pub rule: Maybe<Vec<Written<RuleFile>>>,
    /// Proxies to go through.
    pub parent: Maybe<Vec<Written<ParentFile>>>,
}

/// An address the forward proxy listens on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ForwardListenerFile {
    /// Address and port, e.g. `"10.0.0.1:3128"`.
    pub listen: Written<String>,
    /// Names of `[certificate.NAME]` tables: clients speak TLS to the proxy. Default: plain.
    pub certificates: Maybe<Vec<Written<String>>>,
    /// PEM file with CAs, or with certificates of clients themselves: ask clients for a certificate.
    /// Only with `certificates`.
    pub client_ca: Maybe<String>,
    /// Whether a client may come without one. Default `"required"`. Only with `client-ca`.
    pub client_certificate: Maybe<ClientCertificateFile>,
    /// Balancers in front that say who the client is, e.g. `{ from = ["10.0.0.10"] }`. Default: none.
    pub proxy_protocol: Maybe<ProxyProtocolFile>,
}

/// Which clients may go where. Something of `clients`, `users` and `client-names` is needed, and
/// all that are written must hold. Either `allow` or `deny`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RuleFile {
    /// Its name in logs, metrics and denials.
    pub name: Written<String>,
    /// Networks of clients, e.g. `"10.0.0.0/8"`, or addresses.
    pub clients: Maybe<Vec<Written<String>>>,
    /// Users of `users-file`; they log in with Basic.
    pub users: Maybe<Vec<Written<String>>>,
    /// Names (subjectAltName, or else CN) in the certificates clients show.
    pub client_names: Maybe<Vec<Written<String>>>,
    /// Destinations: names (`"api.twilio.com"`), `"*.fbcdn.net"` for every name below it,
    /// addresses and networks for clients that ask for an address.
    pub allow: Maybe<Vec<Written<String>>>,
    /// Destinations that are denied, whatever other rules say.
    pub deny: Maybe<Vec<Written<String>>>,
    /// Ports of `http://` and `https://` URLs. Default `[443]`; with `deny`: any.
    pub ports: Maybe<Vec<Written<i64>>>,
    /// Ports to which CONNECT opens a tunnel. Default `[443]`, whatever `ports` lists; with `deny`:
    /// those of `ports`.
    pub connect_ports: Maybe<Vec<Written<i64>>>,
    /// Networks that are not the internet, e.g. `"10.1.0.0/16"`, to which its names may lead.
    pub addresses: Maybe<Vec<Written<String>>>,
    /// The rule holds from this moment on, e.g. `"2030-01-31T08:00:00+01:00"`.
    pub from: Maybe<String>,
    /// The rule holds until this moment.
    pub until: Maybe<String>,
    /// What becomes of destinations that no rule lists when its clients ask for them. Default: that
    /// of `[forward]`.
    pub mode: Maybe<ModeFile>,
    /// What is done about the name inside TLS. Default: on port 443 that of `[forward]`, on others
    /// nothing.
    pub sni: Maybe<SniFile>,
    /// Bytes per second of all its tunnels together. Default: no limit.
    pub rate: Maybe<Amount>,
    /// Name of the parent to go through, or `"direct"`. Default: that of `[forward]`.
    pub via: Maybe<String>,
}

/// What becomes of destinations that no rule lists.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum ModeFile {
    /// They are denied.
    Enforce,
    /// They are let through, on any port, logged as what would be denied, and kept for
    /// `app-gateway egress suggest`. Addresses that are not the internet stay denied.
    Report,
}

/// What is done when the name inside TLS is not the one that was asked for.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SniFile {
    /// It is another name. Default `"refuse"`.
    pub mismatch: Maybe<ActFile>,
    /// There is no name. Default `"refuse"`.
    pub missing: Maybe<ActFile>,
    /// It is not TLS. Default `"refuse"`.
    pub not_tls: Maybe<ActFile>,
    /// The hello has an `encrypted_client_hello` extension (ECH): the name that can be seen may be
    /// that of a provider in front, and the true one is hidden. Browsers send the extension without
    /// meaning it (GREASE), and the two cannot be told apart. Default `"allow"`.
    pub ech: Maybe<ActFile>,
}

/// What is done about something.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ActFile {
    /// The tunnel is closed.
    Refuse,
    /// It goes on, and its log line has the reason.
    Log,
    /// It goes on.
    Allow,
}

/// A proxy to go through.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ParentFile {
    /// What rules call it.
    pub name: Written<String>,
    /// Where it is, e.g. `"http://proxy.example.com:3128"` (`https://` for TLS to the proxy), in
    /// order of preference.
    pub endpoints: Written<Vec<Written<String>>>,
    /// PEM file with the CAs the certificates of `https://` endpoints must come from. Default: the
    /// system's.
    pub ca_file: Maybe<String>,
    /// File with one line, `user:password`, to log in with.
    pub credentials_file: Maybe<String>,
    /// Destinations that are connected to directly all the same, written as in `allow`.
    pub no_proxy: Maybe<Vec<Written<String>>>,
    /// From the first SYN to the parent's answer. Default `"10s"`.
    pub connect_timeout: Maybe<String>,
}

/// What a client of the forward proxy may use.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ForwardLimitsFile {
    /// Open client connections, tunnels included. Default 10000.
    pub connections: Maybe<i64>,
    /// Open client connections per client address (IPv6: per /64). Default 1000.
    pub connections_per_client: Maybe<i64>,
    /// Tunnels. Default 10000.
    pub tunnels: Maybe<i64>,
    /// Tunnels per client address (IPv6: per /64). Default 500.
    pub tunnels_per_client: Maybe<i64>,
    /// New tunnels and requests per second and client, twice as many at once; 0: no limit.
    /// Default 50.
    pub new_per_second: Maybe<i64>,
    /// Bytes per second and client, both directions together, e.g. `"10MiB"`. Default: no limit.
    pub rate_per_client: Maybe<Amount>,
    /// Bytes of a request head, 1 KiB to 64 KiB. Default `"16KiB"`.
    pub header_size: Maybe<Amount>,
    /// Fields in a request head, 1 to 256. Default 100.
    pub header_count: Maybe<i64>,
}

/// How long things may take in the forward proxy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ForwardTimeoutsFile {
    /// From accept to the end of the TLS handshake with the proxy. Default `"10s"`.
    pub handshake: Maybe<String>,
    /// From the first byte of a request head to its last. Default `"10s"`.
    pub header: Maybe<String>,
    /// Between requests on one connection. Default `"75s"`.
    pub keep_alive: Maybe<String>,
    /// From the request to a connection with the destination. Default `"10s"`.
    pub connect: Maybe<String>,
    /// From the 200 to the end of the client's first TLS message. Default `"10s"`.
    pub hello: Maybe<String>,
    /// Longest silence in a tunnel. Default `"10min"`.
    pub idle: Maybe<String>,
    /// Longest life of a tunnel; `"0s"`: no limit. Default `"24h"`.
    pub total: Maybe<String>,
    /// From the end of a request in absolute-form to the first byte of the answer. Default
    /// `"60s"`.
    pub first_byte: Maybe<String>,
}
