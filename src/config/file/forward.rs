//! File types of the forward proxy.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Amount, ClientCertificateFile, Maybe, ProxyProtocolFile, Written};

/// Host names and addresses, each with its position.
pub type Hosts = BTreeMap<toml::Spanned<String>, Written<Vec<Written<String>>>>;

/// The forward proxy, through which components reach other hosts. Destinations that no rule allows
/// are denied.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ForwardFile {
    /// htpasswd file with the users that rules may name (bcrypt or sha-crypt), e.g.
    /// `"/etc/app-gateway/users.htpasswd"`.
    pub users_file: Maybe<String>,
    /// Serve `GET https://...` (axios sends it instead of CONNECT) by opening TLS to the origin.
    /// Default false.
    pub https_absolute_form: Maybe<bool>,
    /// PEM file with the CAs that must have issued the certificates of such origins, e.g.
    /// `"/etc/app-gateway/origins-ca.pem"`. Default: the system's. Only with `https-absolute-form`.
    pub https_ca_file: Maybe<String>,
    /// Names that are not looked up, and their addresses, like lines of `/etc/hosts`:
    /// `"api.example.com" = ["192.0.2.1"]`. Rules apply to them as to all other names.
    #[schemars(with = "Option<BTreeMap<String, Vec<String>>>")]
    pub hosts: Maybe<Hosts>,
    /// Prefixes (RFC 6052) of NAT64 translators on this network, e.g. `"64:ff9b::/96"`. An address
    /// in such a prefix is judged by the IPv4 address inside. Default: none; addresses in the
    /// well-known prefixes are denied unless a rule lists them.
    pub nat64: Maybe<Vec<Written<String>>>,
    /// The parent proxy of rules without `via`. Default `"direct"`.
    pub via: Maybe<String>,
    /// Treatment of destinations that no rule lists, for rules without `mode`. Default `"enforce"`.
    pub mode: Maybe<RuleModeFile>,
    /// Treatment of the server name in TLS on port 443, for rules without `sni`.
    pub sni: Maybe<SniFile>,
    /// Limits on the resources of clients.
    pub limits: Maybe<ForwardLimitsFile>,
    /// Time limits.
    pub timeouts: Maybe<ForwardTimeoutsFile>,
    /// Addresses to listen on.
    pub listener: Maybe<Vec<Written<ForwardListenerFile>>>,
    /// Allowed and denied destinations. A rule with `deny` wins; otherwise the first rule that
    /// allows the destination.
    pub rule: Maybe<Vec<Written<RuleFile>>>,
    /// Parent proxies.
    pub parent: Maybe<Vec<Written<ParentFile>>>,
}

/// An address on which the forward proxy listens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ForwardListenerFile {
    /// Address and port, e.g. `"10.0.0.1:3128"`.
    pub listen: Written<String>,
    /// Names of `[certificate.NAME]` tables: clients speak TLS to the proxy, e.g.
    /// `["hybrid-chat"]`. Default: plain.
    pub certificates: Maybe<Vec<Written<String>>>,
    /// PEM file with CAs, or with certificates of clients themselves: request a certificate from
    /// clients, e.g. `"/etc/app-gateway/clients-ca.pem"`. Only with `certificates`.
    pub client_ca: Maybe<String>,
    /// Whether a client certificate is required. Default `"required"`. Only with `client-ca`.
    pub client_certificate: Maybe<ClientCertificateFile>,
    /// Balancers in front that name the client, e.g. `{ from = ["10.0.0.10"] }`. Default: none.
    pub proxy_protocol: Maybe<ProxyProtocolFile>,
}

/// Destinations that certain clients may reach. At least one of `clients`, `users` and
/// `client-names` is needed, and all that are present must match. Either `allow` or `deny`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RuleFile {
    /// Name in logs, metrics and denials.
    pub name: Written<String>,
    /// Networks of clients, e.g. `"10.0.0.0/8"`, or addresses.
    pub clients: Maybe<Vec<Written<String>>>,
    /// Users of `users-file`, who authenticate with Basic, e.g. `["ccm"]`.
    pub users: Maybe<Vec<Written<String>>>,
    /// Names (subjectAltName, or else CN) in client certificates, e.g. `["ccm.example.com"]`.
    pub client_names: Maybe<Vec<Written<String>>>,
    /// Destinations: names (`"api.twilio.com"`), `"*.fbcdn.net"` for every name below it, addresses
    /// and networks for clients that ask for an address.
    pub allow: Maybe<Vec<Written<String>>>,
    /// Destinations that are denied, whatever other rules say, e.g. `["*.example.net"]`.
    pub deny: Maybe<Vec<Written<String>>>,
    /// Ports of `http://` and `https://` URLs. Default `[443]`; with `deny`: any.
    pub ports: Maybe<Vec<Written<i64>>>,
    /// Ports to which CONNECT opens a tunnel. Default `[443]`, whatever `ports` lists; with `deny`:
    /// those of `ports`.
    pub connect_ports: Maybe<Vec<Written<i64>>>,
    /// Networks outside the public internet (private, loopback, link-local), e.g. `"10.1.0.0/16"`, to which its names may resolve.
    pub private_networks: Maybe<Vec<Written<String>>>,
    /// Time from which the rule applies, e.g. `"2030-01-31T08:00:00+01:00"`.
    pub from: Maybe<String>,
    /// Time at which the rule ends, e.g. `"2030-02-28T18:00:00+01:00"`.
    pub until: Maybe<String>,
    /// Treatment of destinations that its clients request and no rule lists. Default: that of
    /// `[forward]`.
    pub mode: Maybe<RuleModeFile>,
    /// Treatment of the server name in TLS. Default: on port 443 that of `[forward]`, on other
    /// ports no check.
    pub sni: Maybe<SniFile>,
    /// Bytes per second of all its tunnels together, e.g. `"10MiB"`. Default: no limit.
    pub rate: Maybe<Amount>,
    /// Name of the parent proxy, or `"direct"`, e.g. `"corporate"`. Default: that of `[forward]`.
    pub via: Maybe<String>,
}

/// Treatment of destinations that no rule lists.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum RuleModeFile {
    /// Deny them.
    Enforce,
    /// Allow them on any port, log them as ones that would be denied, and record them for
    /// `app-gateway egress suggest`. Addresses outside the public internet stay denied.
    Report,
}

/// Action if the server name in TLS is not the host of the request.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SniFile {
    /// The name differs. Default `"refuse"`.
    pub mismatch: Maybe<SniActionFile>,
    /// There is no name. Default `"refuse"`.
    pub missing: Maybe<SniActionFile>,
    /// The connection is not TLS. Default `"refuse"`.
    pub not_tls: Maybe<SniActionFile>,
    /// The ClientHello has an `encrypted_client_hello` extension (ECH): the visible name may be
    /// that of a provider in front, and the true one is hidden. Browsers also send the extension
    /// without using it (GREASE), and the two cases cannot be distinguished. Default `"allow"`.
    pub ech: Maybe<SniActionFile>,
}

/// Action for such a tunnel.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SniActionFile {
    /// Close the tunnel.
    Refuse,
    /// Continue, and put the reason into the log line.
    Log,
    /// Continue.
    Allow,
}

/// A parent proxy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ParentFile {
    /// Name by which rules refer to it, e.g. `"corporate"`.
    pub name: Written<String>,
    /// Addresses, e.g. `"http://proxy.example.com:3128"` (`https://` for TLS to the proxy), in
    /// order of preference.
    pub endpoints: Written<Vec<Written<String>>>,
    /// PEM file with the CAs that must have issued the certificates of `https://` endpoints, e.g.
    /// `"/etc/app-gateway/parent-ca.pem"`. Default: the system's.
    pub ca_file: Maybe<String>,
    /// File with one line, `user:password`, for authentication, e.g.
    /// `"/etc/app-gateway/parent.credentials"`.
    pub credentials_file: Maybe<String>,
    /// Destinations that are connected to directly nevertheless, written as in `allow`, e.g.
    /// `["*.example.com"]`.
    pub no_proxy: Maybe<Vec<Written<String>>>,
    /// Time from the first SYN to the parent's response. Default `"10s"`.
    pub connect_timeout: Maybe<String>,
}

/// Limits on the resources of clients of the forward proxy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ForwardLimitsFile {
    /// Open client connections, tunnels included. Default 10000.
    pub connections: Maybe<i64>,
    /// Open client connections per client address (IPv6: per /64). Default 1000.
    pub connections_per_client: Maybe<i64>,
    /// Open tunnels. Default 10000.
    pub tunnels: Maybe<i64>,
    /// Open tunnels per client address (IPv6: per /64). Default 500.
    pub tunnels_per_client: Maybe<i64>,
    /// New tunnels and requests per second and client, with bursts of twice as many; 0: no limit.
    /// Default 50.
    pub request_rate_per_client: Maybe<i64>,
    /// Bytes per second and client, both directions together, e.g. `"10MiB"`. Default: no limit.
    pub rate_per_client: Maybe<Amount>,
    /// Bytes of a request head, 1 KiB to 64 KiB. Default `"16KiB"`.
    pub header_size: Maybe<Amount>,
    /// Fields in a request head, 1 to 256. Default 100.
    pub header_count: Maybe<i64>,
}

/// Time limits of the forward proxy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ForwardTimeoutsFile {
    /// Time from accept to the end of the TLS handshake with the proxy. Default `"10s"`.
    pub handshake: Maybe<String>,
    /// Time from the first byte of a request head to its last. Default `"10s"`.
    pub header: Maybe<String>,
    /// Time between requests on one connection. Default `"75s"`.
    pub keep_alive: Maybe<String>,
    /// Time from the request to a connection with the destination. Default `"10s"`.
    pub connect: Maybe<String>,
    /// Time from the 200 to the end of the client's ClientHello. Default `"10s"`.
    pub client_hello: Maybe<String>,
    /// Longest time without data in a tunnel. Default `"10min"`.
    pub idle: Maybe<String>,
    /// Longest lifetime of a tunnel; `"0s"`: no limit. Default `"24h"`.
    pub max_lifetime: Maybe<String>,
    /// Time from the end of a request in absolute-form to the first byte of the response. Default
    /// `"60s"`.
    pub first_byte: Maybe<String>,
}
