//! The forward proxy, as checked.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};
use jiff::Timestamp;

use crate::addr::{HostName, Pattern};
use crate::config::problem::Span;

use super::{CertificateId, ClientCertificates, Endpoint, ProxyProtocol, Verify};

/// `[forward]`: the way out.
#[derive(Debug)]
pub struct Forward {
    /// Where the table is.
    pub place: Span,
    /// At least one.
    pub listeners: Vec<ForwardListener>,
    /// In the order of the files. None: everything is denied.
    pub rules: Vec<ForwardRule>,
    /// Indexed by [`ParentId`].
    pub parents: Vec<Parent>,
    /// Who may log in.
    pub users: Option<UsersFile>,
    /// How origins are verified when `GET https://…` is served by opening TLS to them:
    /// [`Verify::System`] or [`Verify::Ca`]. `None`: it is not served.
    pub https_absolute_form: Option<Verify>,
    /// Names that are not looked up.
    pub hosts: Vec<PinnedHost>,
    /// Prefixes of the network's own NAT64 translators, of a length of RFC 6052.
    pub nat64: Vec<Ipv6Net>,
    /// How many, how fast.
    pub limits: ForwardLimits,
    /// How long.
    pub timeouts: ForwardTimeouts,
}

/// A line of `[forward.hosts]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinnedHost {
    /// The name.
    pub name: HostName,
    /// What it stands for; not judged.
    pub addresses: Vec<IpAddr>,
}

/// The htpasswd file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UsersFile {
    /// The file. Absolute, or relative to the working directory.
    pub file: PathBuf,
    /// Where it is written.
    pub place: Span,
}

/// `[[forward.listener]]`.
#[derive(Debug)]
pub struct ForwardListener {
    /// Where `listen` is written.
    pub place: Span,
    /// Address to bind.
    pub listen: SocketAddr,
    /// Certificates for clients that speak TLS to the proxy; empty: plain HTTP.
    pub certificates: Vec<CertificateId>,
    /// Certificates asked of clients.
    pub client_certificates: ClientCertificates,
    /// Balancers that say who the client is; `None`: everybody speaks for himself.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// Index into [`Forward::parents`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ParentId(pub usize);

/// `[[forward.parent]]`: a proxy to go through.
#[derive(Debug)]
pub struct Parent {
    /// Its name in logs and metrics.
    pub name: String,
    /// Where the name is written.
    pub place: Span,
    /// In order of preference; the next is used while the one before cannot be connected to.
    pub endpoints: Vec<Endpoint>,
    /// How the certificate of an `https` endpoint is verified: [`Verify::System`] or
    /// [`Verify::Ca`].
    pub verify: Verify,
    /// File with one line `user:password`, and where it is written.
    pub credentials: Option<(PathBuf, Span)>,
    /// Destinations that are connected to directly all the same.
    pub no_proxy: Vec<Pattern>,
    /// From the first SYN to the answer of the parent. Default 10 s.
    pub connect_timeout: Duration,
}

/// `[[forward.rule]]`.
#[derive(Clone, Debug)]
pub struct ForwardRule {
    /// Its name in logs and metrics.
    pub name: String,
    /// Where the name is written.
    pub place: Span,
    /// Networks of clients; empty: any. Something of `clients`, `users` and `client_names` is
    /// given, and all that are given must hold.
    pub clients: Vec<IpNet>,
    /// Users of the htpasswd file; empty: nobody needs to log in.
    pub users: Vec<String>,
    /// Names in client certificates; empty: none is needed.
    pub client_names: Vec<String>,
    /// What is done with what it lists.
    pub effect: RuleEffect,
    /// What it lists; empty only in report mode.
    pub destinations: Vec<Pattern>,
    /// Ports of URLs; empty: any. Default: 443 alone; for a rule that denies, any.
    pub ports: Vec<u16>,
    /// Ports of CONNECT; empty: any. Default: 443 alone; for a rule that denies, as `ports`.
    pub connect_ports: Vec<u16>,
    /// Special networks that its names may resolve to.
    pub addresses: Vec<IpNet>,
    /// Not before.
    pub from: Option<Timestamp>,
    /// Not at or after.
    pub until: Option<Timestamp>,
    /// What happens to destinations of its clients that no rule lists.
    pub mode: RuleMode,
    /// What is done about SNI, on port 443.
    pub sni: SniPolicy,
    /// What is done about SNI, on other ports.
    pub sni_elsewhere: SniPolicy,
    /// Bytes per second and tunnel group of this rule, both directions together; 0: no limit.
    pub rate: u64,
    /// The parent its tunnels go through; `None`: directly.
    pub via: Option<ParentId>,
}

/// Whether a rule lets through or keeps back what it lists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RuleEffect {
    /// `allow`.
    Allow,
    /// `deny`: whatever other rules say.
    Deny,
}

/// What happens to destinations of a rule's clients that no rule lists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RuleMode {
    /// They are denied.
    Enforce,
    /// They are let through, logged as what would be denied, and kept for `egress suggest`.
    Report,
}

/// What is done when the name inside TLS is not the one that was asked for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SniPolicy {
    /// Another name.
    pub mismatch: SniAction,
    /// No name.
    pub missing: SniAction,
    /// No TLS.
    pub not_tls: SniAction,
    /// An `encrypted_client_hello` extension.
    pub ech: SniAction,
}

impl SniPolicy {
    /// Only TLS, only with the right name.
    pub const STRICT: Self = Self {
        mismatch: SniAction::Refuse,
        missing: SniAction::Refuse,
        not_tls: SniAction::Refuse,
        ech: SniAction::Allow,
    };
    /// Whatever it is.
    pub const OFF: Self = Self {
        mismatch: SniAction::Allow,
        missing: SniAction::Allow,
        not_tls: SniAction::Allow,
        ech: SniAction::Allow,
    };
}

/// What is done about something.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SniAction {
    /// The tunnel is closed.
    Refuse,
    /// It goes on, and its log line has the reason.
    Log,
    /// It goes on.
    Allow,
}

/// How much a client of the forward proxy may use.
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
    /// New tunnels and requests per second and client; twice as many at once. Default 50; 0: no
    /// limit.
    pub new_per_second: u64,
    /// Bytes per second and client, both directions together. Default 0: no limit.
    pub rate_per_client: u64,
    /// Bytes of a request head. Default 16 KiB, 1 KiB to 64 KiB.
    pub header_size: usize,
    /// Fields in a request head. Default 100.
    pub header_count: usize,
}

/// How long things may take.
#[derive(Clone, Debug)]
pub struct ForwardTimeouts {
    /// From accept to the end of the TLS handshake with the proxy. Default 10 s.
    pub handshake: Duration,
    /// From the first byte of a request head to its last. Default 10 s.
    pub header: Duration,
    /// Between requests on one connection. Default 75 s.
    pub keep_alive: Duration,
    /// From the request to a connection with the destination, looking its name up included.
    /// Default 10 s.
    pub connect: Duration,
    /// From the 200 to the end of the client's first TLS message. Default 10 s.
    pub hello: Duration,
    /// Longest silence in a tunnel, both directions together. Default 10 min.
    pub idle: Duration,
    /// Longest life of a tunnel. Default 24 h; zero: no limit.
    pub total: Duration,
    /// From the end of a request in absolute-form to the first byte of the answer. Default 60 s.
    pub first_byte: Duration,
}

impl Forward {
    /// Every file it names.
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

/// Whether one of `networks` holds `ip`; IPv4 in the form of IPv6 counts as IPv4.
#[must_use]
pub fn any_holds(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}
