//! Checked form of the forward proxy.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use jiff::Timestamp;

use crate::addr::{HostName, Pattern};
use crate::config::problem::Span;

use super::{CertificateId, ClientCertificates, Endpoint, ProxyProtocol, Verify};

/// `[forward]`: the forward proxy.
#[derive(Debug)]
pub struct Forward {
    /// Position of the table.
    pub place: Span,
    /// At least one.
    pub listeners: Vec<ForwardListener>,
    /// In the order of the files. Empty: every destination is denied.
    pub rules: Vec<ForwardRule>,
    /// Parent proxies, indexed by [`ParentId`].
    pub parents: Vec<Parent>,
    /// Users that rules may name.
    pub users: Option<UsersFile>,
    /// Verification of origins when `GET https://…` is served by opening TLS to them:
    /// [`Verify::System`] or [`Verify::Ca`]. `None`: such requests are not served.
    pub https_absolute_form: Option<Verify>,
    /// Names that are not looked up.
    pub hosts: Vec<PinnedHost>,
    /// Prefixes of the network's own NAT64 translators, of a length of RFC 6052.
    pub nat64: Vec<Ipv6Net>,
    /// Limits on the resources of clients.
    pub limits: ForwardLimits,
    /// Time limits.
    pub timeouts: ForwardTimeouts,
}

/// A line of `[forward.hosts]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinnedHost {
    /// The name.
    pub name: HostName,
    /// Its addresses; the guard has not checked them.
    pub addresses: Vec<IpAddr>,
}

/// The htpasswd file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UsersFile {
    /// Absolute, or relative to the working directory.
    pub file: PathBuf,
    /// Position of the path.
    pub place: Span,
}

/// `[[forward.listener]]`.
#[derive(Debug)]
pub struct ForwardListener {
    /// Position of `listen`.
    pub place: Span,
    /// Address to bind.
    pub listen: SocketAddr,
    /// Certificates for clients that speak TLS to the proxy; empty: plain HTTP.
    pub certificates: Vec<CertificateId>,
    /// Whether clients are asked for certificates.
    pub client_certificates: ClientCertificates,
    /// Balancers that name the client; `None`: the peer of every connection is the client.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// Index into [`Forward::parents`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ParentId(pub usize);

/// `[[forward.parent]]`: a parent proxy.
#[derive(Debug)]
pub struct Parent {
    /// Name in logs and metrics.
    pub name: String,
    /// Position of the name.
    pub place: Span,
    /// In order of preference; the next is used while the one before cannot be connected to.
    pub endpoints: Vec<Endpoint>,
    /// Verification of the certificate of an `https` endpoint: [`Verify::System`] or
    /// [`Verify::Ca`].
    pub verify: Verify,
    /// File with one line `user:password`, and the position of its path.
    pub credentials: Option<(PathBuf, Span)>,
    /// Destinations that are connected to directly nevertheless.
    pub no_proxy: Vec<Pattern>,
    /// Time from the first SYN to the response of the parent. Default 10 s.
    pub connect_timeout: Duration,
}

/// `[[forward.rule]]`.
#[derive(Clone, Debug)]
pub struct ForwardRule {
    /// Name in logs and metrics.
    pub name: String,
    /// Position of the name.
    pub place: Span,
    /// Networks of clients; empty: any. At least one of `clients`, `users` and `client_names` is
    /// not empty, and all that are not empty must match.
    pub clients: Vec<IpNet>,
    /// Users of the htpasswd file; empty: no authentication is needed.
    pub users: Vec<String>,
    /// Names in client certificates; empty: none is needed.
    pub client_names: Vec<String>,
    /// Effect on the listed destinations.
    pub effect: RuleEffect,
    /// Listed destinations; empty only in report mode.
    pub destinations: Vec<Pattern>,
    /// Ports of URLs; empty: any. Default: 443 alone; for a rule that denies, any.
    pub ports: Vec<u16>,
    /// Ports of CONNECT; empty: any. Default: 443 alone; for a rule that denies, as `ports`.
    pub connect_ports: Vec<u16>,
    /// Special networks that its names may resolve to.
    pub private_networks: Vec<IpNet>,
    /// Start of the rule's validity, inclusive.
    pub from: Option<Timestamp>,
    /// End of the rule's validity, exclusive.
    pub until: Option<Timestamp>,
    /// Treatment of destinations that its clients request and no rule lists.
    pub mode: RuleMode,
    /// SNI policy on port 443.
    pub sni: SniPolicy,
    /// SNI policy on other ports.
    pub sni_elsewhere: SniPolicy,
    /// Bytes per second and tunnel group of this rule, both directions together; 0: no limit.
    pub rate: u64,
    /// The parent proxy of its tunnels; `None`: direct connections.
    pub via: Option<ParentId>,
}

/// Effect of a rule on the destinations it lists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RuleEffect {
    /// `allow`.
    Allow,
    /// `deny`, which takes precedence over other rules.
    Deny,
}

/// Treatment of destinations that a rule's clients request and no rule lists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RuleMode {
    /// They are denied.
    Enforce,
    /// They are allowed, logged as ones that would be denied, and recorded for `egress suggest`.
    Report,
}

/// Action if the server name in TLS is not the host of the request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SniPolicy {
    /// The server name differs.
    pub mismatch: SniAction,
    /// There is no server name.
    pub missing: SniAction,
    /// The connection is not TLS.
    pub not_tls: SniAction,
    /// The ClientHello has an `encrypted_client_hello` extension.
    pub ech: SniAction,
}

impl SniPolicy {
    /// Only TLS with the right server name.
    pub const STRICT: Self = Self {
        mismatch: SniAction::Refuse,
        missing: SniAction::Refuse,
        not_tls: SniAction::Refuse,
        ech: SniAction::Allow,
    };
    /// No check.
    pub const OFF: Self = Self {
        mismatch: SniAction::Allow,
        missing: SniAction::Allow,
        not_tls: SniAction::Allow,
        ech: SniAction::Allow,
    };
}

/// Action on a tunnel that violates the SNI policy.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SniAction {
    /// The tunnel is closed.
    Refuse,
    /// The tunnel continues, and its log line has the reason.
    Log,
    /// The tunnel continues.
    Allow,
}

/// Limits on the resources of clients of the forward proxy.
#[derive(Clone, Debug)]
pub struct ForwardLimits {
    /// Open client connections, tunnels included. Default 10,000.
    pub connections: usize,
    /// Open client connections per client address (IPv6: per /64). Default 1,000.
    pub connections_per_client: usize,
    /// Tunnels. Default 10,000.
    pub tunnels: usize,
    /// Tunnels per client address (IPv6: per /64). Default 500.
    pub tunnels_per_client: usize,
    /// New tunnels and requests per second and client, with bursts of twice as many. Default 50; 0:
    /// no limit.
    pub request_rate_per_client: u64,
    /// Bytes per second and client, both directions together. Default 0: no limit.
    pub rate_per_client: u64,
    /// Bytes of a request head. Default 16 KiB, 1 KiB to 64 KiB.
    pub header_size: usize,
    /// Fields in a request head. Default 100.
    pub header_count: usize,
}

/// Time limits of the forward proxy.
#[derive(Clone, Debug)]
pub struct ForwardTimeouts {
    /// Time from accept to the end of the TLS handshake with the proxy. Default 10 s.
    pub handshake: Duration,
    /// Time from the first byte of a request head to its last. Default 10 s.
    pub header: Duration,
    /// Time between requests on one connection. Default 75 s.
    pub keep_alive: Duration,
    /// Time from the request to a connection with the destination, DNS lookup included. Default 10
    /// s.
    pub connect: Duration,
    /// Time from the 200 to the end of the client's ClientHello. Default 10 s.
    pub client_hello: Duration,
    /// Longest time without data in either direction of a tunnel. Default 10 min.
    pub idle: Duration,
    /// Longest lifetime of a tunnel. Default 24 h; zero: no limit.
    pub max_lifetime: Duration,
    /// Time from the end of a request in absolute-form to the first byte of the response. Default
    /// 60 s.
    pub first_byte: Duration,
}

impl Forward {
    /// All files that the table names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let users = self.users.iter().map(|users| &users.file);
        let credentials =
            self.parents.iter().filter_map(|parent| Some(&parent.credentials.as_ref()?.0));
        let verified = self.parents.iter().map(|parent| &parent.verify);
        let verified = verified.chain(&self.https_absolute_form);
        let parents = verified.filter_map(|verify| match verify {
            Verify::Ca { file, .. } => Some(file),
            _ => None,
        });
        let clients =
            self.listeners.iter().filter_map(|listener| match &listener.client_certificates {
                ClientCertificates::Off => None,
                ClientCertificates::Optional { ca, .. }
                | ClientCertificates::Required { ca, .. } => Some(ca),
            });
        users.chain(credentials).chain(parents).chain(clients)
    }
}

/// Whether one of `networks` contains `ip`; IPv4-mapped IPv6 addresses count as IPv4.
#[must_use]
pub fn any_holds(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}
