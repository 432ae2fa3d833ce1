//! File type of `[doctor]`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Maybe, Written};

/// Names of upstreams and their paths, each with its position.
pub(super) type Paths = BTreeMap<toml::Spanned<String>, Written<String>>;

/// Targets that `app-gateway doctor` tests besides the gateway itself, and `app-gateway ports`
/// lists. Serving does not depend on them. A target is a host, or a host and a port.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DoctorFile {
    /// Time for each check. Default `"5s"`.
    pub timeout: Maybe<String>,
    /// The public name of the chat, e.g. `"chat.example.com"`.
    pub fqdn: Maybe<String>,
    /// The port of that name as seen from the internet. Default 443.
    pub public_port: Maybe<i64>,
    /// Profiles that face the internet. Default `["internet"]`.
    pub public_profiles: Maybe<Vec<Written<String>>>,
    /// The forward proxy the components use, e.g. `"10.0.0.4:3128"`. Default: the gateway's own.
    pub proxy: Maybe<String>,
    /// Hosts that must be reachable through it, e.g. `["graph.facebook.com"]`. Default: the names
    /// that `[forward]` allows; without it, Facebook, Viber and Twilio. Default port 443.
    pub platforms: Maybe<Vec<Written<String>>>,
    /// Microsoft SQL Server, e.g. `["sql.example.com"]`. Default port 1433.
    pub sql: Maybe<Vec<Written<String>>>,
    /// SMPP gateways, e.g. `["smsc.example.com:2775"]`. Default port 2775.
    pub smpp: Maybe<Vec<Written<String>>>,
    /// TURN servers, over TCP and UDP, e.g. `["turn.example.com:3478"]`. Default port 3478.
    pub turn: Maybe<Vec<Written<String>>>,
    /// UDP relay ports of the TURN servers. Default `"49152-49252"`.
    pub relay_ports: Maybe<String>,
    /// Cisco Finesse: the REST API on the given port (default 8445), and XMPP on 5222, e.g.
    /// `["finesse.example.com:8445"]`.
    pub finesse: Maybe<Vec<Written<String>>>,
    /// PEM file with the CAs that must have issued Finesse's certificates, e.g.
    /// `"/etc/app-gateway/finesse-ca.pem"`. Default: the system's.
    pub finesse_ca_file: Maybe<String>,
    /// Sources of the product's installation: GitLab and the container registry, e.g.
    /// `["gitlab.example.com"]`. Default port 443.
    pub install: Maybe<Vec<Written<String>>>,
    /// Nodes of the other site, to measure their distance, e.g. `["10.1.0.4:443"]`. Default port
    /// 443.
    pub peers: Maybe<Vec<Written<String>>>,
    /// Path of a health request to each component, by the name of its upstream.
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub health: Maybe<Paths>,
}
