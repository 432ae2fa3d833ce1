//! `app-gateway egress list` and `egress suggest`: the open tunnels of the forward proxy, and rules
//! that would allow the destinations observed in report mode.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;

use crate::admin::CommandOptions;
use crate::admin::egress::{OBSERVED_PATH, TUNNELS_PATH};
use crate::egress::observed::ObservationReport;

use super::admin_client::ask;
use super::{say, say_wrong};

/// For the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Subcommand)]
pub(super) enum EgressCommand {
    /// The open tunnels of the forward proxy
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print TOML rules for the destinations allowed in report mode, with counts, for review before
    /// use
    Suggest {
        /// Print the observed destinations as JSON instead of rules
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn egress(directory: &Path, asked: &EgressCommand) -> ExitCode {
    let text = match asked {
        EgressCommand::List { json } => told::<Value>(directory, TUNNELS_PATH)
            .map(|tunnels| if *json { pretty(&tunnels) } else { list(&tunnels) }),
        EgressCommand::Suggest { json } => told::<ObservationReport>(directory, OBSERVED_PATH)
            .map(|seen| if *json { pretty(&serde_json::json!(seen)) } else { seen.toml() }),
    };
    match text {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(message) => {
            say_wrong(&message);
            ExitCode::FAILURE
        }
    }
}

fn told<T: serde::de::DeserializeOwned>(directory: &Path, path: &str) -> Result<T, String> {
    ask(directory, &format!("GET {path}"), &CommandOptions::default(), ANSWER_TIMEOUT)?.json()
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A line per tunnel, the oldest first.
fn list(tunnels: &Value) -> String {
    let tunnels = tunnels.as_array().map(Vec::as_slice).unwrap_or_default();
    if tunnels.is_empty() {
        return "no tunnel is open\n".to_owned();
    }
    let heads = ["SINCE", "CLIENT", "DESTINATION", "UPSTREAM ADDR", "RULE", "SENT", "RECEIVED"]
        .map(str::to_owned);
    let rows = tunnels.iter().map(|tunnel| {
        let text = |key: &str| tunnel.get(key).and_then(Value::as_str).unwrap_or("-");
        let number = |key: &str| tunnel.get(key).and_then(Value::as_u64).unwrap_or_default();
        let since: String = text("since").chars().take(19).collect();
        let client = match tunnel.get("user").and_then(Value::as_str) {
            Some(user) => format!("{} ({user})", text("client")),
            None => text("client").to_owned(),
        };
        let upstream_addr = match tunnel.get("parent").and_then(Value::as_str) {
            Some(parent) => format!("{} ({parent})", text("upstream_addr")),
            None => text("upstream_addr").to_owned(),
        };
        let (sent, received) = (number("request_bytes"), number("response_bytes"));
        [
            since,
            client,
            text("destination").to_owned(),
            upstream_addr,
            text("rule").to_owned(),
            sent.to_string(),
            received.to_string(),
        ]
    });
    let rows: Vec<_> = std::iter::once(heads).chain(rows).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<_> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tunnels_are_shown_in_columns() {
        let tunnels = json!([{
            "id": "a", "since": "2030-01-02T03:04:05.678Z", "client": "10.0.0.5:1", "user": "files",
            "destination": "graph.facebook.com:443", "upstream_addr": "192.0.2.1:443", "parent": null,
            "rule": "facebook", "sni": "graph.facebook.com", "request_bytes": 7, "response_bytes": 1234
        }]);
        assert_eq!(
            list(&tunnels),
            "SINCE                CLIENT              DESTINATION             UPSTREAM ADDR  RULE      SENT  RECEIVED\n\
             2030-01-02T03:04:05  10.0.0.5:1 (files)  graph.facebook.com:443  192.0.2.1:443  facebook  7     1234\n"
        );
        assert_eq!(list(&json!([])), "no tunnel is open\n");
    }
}
