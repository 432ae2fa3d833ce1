//! Checked form of `[doctor]`.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::problem::Span;

/// Targets that `app-gateway doctor` tests besides the gateway itself. A list is empty if the
/// configuration does not name the targets.
#[derive(Clone, Debug)]
pub struct Doctor {
    /// Time for each check. Default 5 s.
    pub timeout: Duration,
    /// Public name of the chat, if configured.
    pub fqdn: Option<String>,
    /// Port of that name as seen from the internet. Default 443.
    pub public_port: u16,
    /// Names of the profiles that face the internet. Default: `internet`.
    pub public_profiles: Vec<String>,
    /// The forward proxy of the components, if configured.
    pub proxy: Option<DoctorTarget>,
    /// Hosts that must be reachable through it.
    pub platforms: Vec<DoctorTarget>,
    /// Microsoft SQL Server.
    pub sql: Vec<DoctorTarget>,
    /// SMPP gateways.
    pub smpp: Vec<DoctorTarget>,
    /// TURN servers.
    pub turn: Vec<DoctorTarget>,
    /// First and last UDP relay port of the TURN servers. Default 49152 to 49252.
    pub relay_ports: (u16, u16),
    /// Cisco Finesse, with the port of its REST API.
    pub finesse: Vec<DoctorTarget>,
    /// CAs that must have issued Finesse's certificates; `None`: the system's.
    pub finesse_ca: Option<PathBuf>,
    /// Sources of the product's installation.
    pub install: Vec<DoctorTarget>,
    /// Nodes of the other site.
    pub peers: Vec<DoctorTarget>,
    /// Names of upstreams, each with the path of its health request.
    pub health: Vec<(String, String)>,
}

/// Host and port of a server other than the gateway.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DoctorTarget {
    /// Position in the configuration; `None` for a default target.
    pub place: Option<Span>,
    /// Name or address (IPv6 without brackets), lower case.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl DoctorTarget {
    /// The target as text, `HOST:PORT`.
    #[must_use]
    pub fn label(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}
