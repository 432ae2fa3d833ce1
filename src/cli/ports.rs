//! `app-gateway ports`: prints the firewall rules to request from the administrators.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::doctor::{ports, table};

use crate::config::RejectedConfig;
use crate::generation::load;

use super::{complain, environment, say, say_wrong, summarise};

#[derive(Args)]
#[group(multiple = false)]
pub(super) struct TableFormat {
    /// Print comma-separated values, for a spreadsheet
    #[arg(long)]
    csv: bool,
    /// Print a Markdown table
    #[arg(long)]
    markdown: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn ports(directory: &Path, form: &TableFormat) -> ExitCode {
    let (config, problems) = match load::partially(directory, &environment) {
        Ok(loaded) => loaded,
        Err(RejectedConfig { sources, problems, .. }) => {
            complain(&sources, &problems);
            return ExitCode::FAILURE;
        }
    };
    let ports::FirewallTable { openings, missing, unknown, local } =
        ports::FirewallTable::of(&config);
    if form.csv {
        say(&ports::csv(&openings));
    } else if form.markdown {
        say(&ports::markdown(&openings));
    } else if form.json {
        say(&format!("{:#}\n", json!(openings)));
    } else {
        let rows: Vec<_> = openings.iter().map(ports::FirewallRule::cells).collect();
        say(&table::columns_of_words(&ports::COLUMNS, &rows));
    }
    if !missing.is_empty() {
        let keys = missing.join(", ");
        say_wrong(&format!(
            "not in the table, because [doctor] does not say where they are: {keys}"
        ));
    }
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        say_wrong(&format!(
            "not in the table, because only the load balancers know it: on which ports clients of {names} reach them"
        ));
    }
    if !local.is_empty() {
        let all = local.join(", ");
        say_wrong(&format!("not in the table, because only this host reaches them: {all}"));
    }
    summarise(&config.sources, &problems);
    ExitCode::SUCCESS
}
