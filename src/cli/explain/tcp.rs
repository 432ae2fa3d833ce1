//! `app-gateway explain tcp NAME:PORT`: reports the upstream of a passthrough connection, and the
//! line that selects it.
//!
//! The code that serves clients makes the decision.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::cli::{say_wrong, summarise};
use crate::generation::explain::{ConnectionQuery, Explanation};

use super::{Exit, generation, told};

#[derive(Args)]
pub(in crate::cli) struct TcpArgs {
    /// Server name in the client's TLS hello, and the port it comes to, e.g.
    /// `chat.example.com:8443`; `:8443` for a client that names no server
    #[arg(value_name = "NAME:PORT")]
    connection: String,
    /// Address of the client
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)))]
    client: IpAddr,
}

pub(in crate::cli) fn explain(directory: &Path, asked: &TcpArgs) -> ExitCode {
    let parts = asked.connection.rsplit_once(':');
    let Some((name, Ok(port))) = parts.map(|(name, port)| (name, port.parse())) else {
        say_wrong("write NAME:PORT, e.g. chat.example.com:8443, or :8443 without a name");
        return Exit::Usage.into();
    };
    // Normalised like the server name of a ClientHello.
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let Some((generation, problems)) = generation(directory) else { return ExitCode::FAILURE };
    let connection = ConnectionQuery {
        server_name: (!name.is_empty()).then_some(name),
        port,
        from: asked.client.to_canonical(),
    };
    let code = told(Explanation::of_connection(&generation, &connection));
    summarise(&generation.config.sources, &problems);
    code
}
