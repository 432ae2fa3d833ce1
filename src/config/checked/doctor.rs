//! `[doctor]`, checked.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::problem::Span;

/// What `app-gateway doctor` looks at besides the gateway itself. Lists may be empty: nobody said
/// where it is.
#[derive(Clone, Debug)]
pub struct Doctor {
    /// For each check. Default 5 s.
    pub timeout: Duration,
    /// The public name of the chat; `None`: not told.
    pub fqdn: Option<String>,
    /// The port that is reached under that name. Default 443.
    pub public_port: u16,
    /// Names of the profiles that face the internet. Default: `internet`.
    pub public: Vec<String>,
    /// The forward proxy the components use; `None`: not told.
    pub proxy: Option<DoctorTarget>,
    /// What has to be reached through it.
    pub platforms: Vec<DoctorTarget>,
    /// Microsoft SQL Server.
    pub sql: Vec<DoctorTarget>,
    /// SMPP gateways.
    pub smpp: Vec<DoctorTarget>,
    /// TURN servers.
    pub turn: Vec<DoctorTarget>,
    /// First and last UDP port they relay on. Default 49152 to 49252.
    pub relay_ports: (u16, u16),
    /// Cisco Finesse, with the port of its REST API.
    pub finesse: Vec<DoctorTarget>,
    /// CAs its certificates must come from; `None`: the system's.
    pub finesse_ca: Option<PathBuf>,
    /// Where the product is installed from.
    pub install: Vec<DoctorTarget>,
    /// Nodes of the other site.
    pub peers: Vec<DoctorTarget>,
    /// Name of an upstream and the path to ask it for.
    pub health: Vec<(String, String)>,
}

/// A host and a port that somebody else listens on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DoctorTarget {
    /// Where it is written; `None` for one that is there by default.
    pub place: Option<Span>,
    /// Name or address (IPv6 without brackets), lower case.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl DoctorTarget {
    /// As it would be written.
    #[must_use]
    pub fn label(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}
