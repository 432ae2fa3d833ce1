//! `app-gateway doctor`: tests the requirements of the product from this host.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::admin::CommandOptions;
use crate::admin::report::Status;
use crate::config;
use crate::config::problem::Severity;
use crate::doctor::{self, DoctorInputs, DoctorRow, RowGroup, RowState, table};
use crate::generation;
use crate::message::Reason;
use crate::telemetry::Metrics;
use crate::tls;

use super::admin_client::ask;
use super::{Exit, colour, environment, load_quietly, say, say_wrong};

/// Limit for the running gateway to identify itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Args)]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Only these, by group or name, e.g. `components,sql`; may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
}

pub(super) fn doctor(directory: &Path, asked: &DoctorArgs) -> ExitCode {
    let began = Instant::now();
    // A refused certificate does not stop it; a file that cannot be read does.
    let Ok(config) = load_quietly(directory, &environment) else {
        say_wrong("doctor needs a valid configuration: correct it first");
        return ExitCode::FAILURE;
    };
    let config = Arc::new(config);
    let Some(groups) = groups(&asked.only) else {
        say_wrong(&unknown(&asked.only, &[]));
        return Exit::Usage.into();
    };
    let known = known(directory);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            say_wrong(&format!("doctor cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let mut rows = runtime.block_on(doctor::examine(&config, &known, &groups));
    // A resolver that hangs is not waited for.
    runtime.shutdown_background();
    let missing = asked.only.iter().filter(|name| !rows.iter().any(|row| is(row, name)));
    let missing: Vec<_> = missing.cloned().collect();
    if !missing.is_empty() {
        say_wrong(&unknown(&missing, &rows));
        return Exit::Usage.into();
    }
    if !asked.only.is_empty() {
        rows.retain(|row| row.is_unfinished() || asked.only.iter().any(|name| is(row, name)));
    }
    if asked.json {
        print_json(directory, &rows);
    } else {
        print(directory, &rows, began);
    }
    let failed = rows.iter().any(|row| row.state == RowState::Failed);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn is(row: &DoctorRow, name: &str) -> bool {
    row.name == name || row.group.word() == name
}

/// The groups to look at. A name that is no group may be in any. `None`: an empty name.
fn groups(only: &[String]) -> Option<Vec<RowGroup>> {
    if only.iter().any(String::is_empty) {
        return None;
    }
    let named: Vec<_> = only
        .iter()
        .filter_map(|name| RowGroup::ALL.into_iter().find(|g| g.word() == name))
        .collect();
    Some(if named.len() == only.len() && !only.is_empty() { named } else { RowGroup::ALL.to_vec() })
}

fn unknown(names: &[String], rows: &[DoctorRow]) -> String {
    let groups: Vec<_> = RowGroup::ALL.iter().map(|group| group.word()).collect();
    let mut rows: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
    rows.dedup();
    format!(
        "there is no group and no row called `{}`\ngroups: {}\nrows: {}",
        names.join(", "),
        groups.join(", "),
        rows.join(", ")
    )
}

/// The problems that `check` reports, and the process that runs on the directory.
fn known(directory: &Path) -> DoctorInputs {
    let status = ask(directory, "GET /status", &CommandOptions::default(), ANSWER_TIMEOUT);
    let pid = status.ok().and_then(|answer| answer.json::<Status>().ok()).map(|status| status.pid);
    let (mut errors, mut warnings) = (0, 0);
    if let Ok(metrics) = Metrics::new(Reason::ALL.iter().map(|reason| reason.word())) {
        match generation::load(directory, &environment, &tls::provider(), &metrics, None) {
            Ok(compiled) => warnings = compiled.warnings.len(),
            Err(config::RejectedConfig { problems, .. }) => {
                errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
                warnings = problems.len() - errors;
            }
        }
    }
    let pid = pid.and_then(|pid| i32::try_from(pid).ok());
    DoctorInputs { directory: directory.to_owned(), errors, warnings, pid }
}

fn print(directory: &Path, rows: &[DoctorRow], began: Instant) {
    say(&table::text(rows, colour(&std::io::stdout())));
    say(&format!(
        "\n{} rows in {:.1} s, by {}\n{}\n",
        rows.len(),
        began.elapsed().as_secs_f64(),
        directory.display(),
        table::summary(rows)
    ));
}

fn print_json(directory: &Path, rows: &[DoctorRow]) {
    let ok = rows.iter().all(|row| row.state != RowState::Failed);
    let count = |state| rows.iter().filter(|row| row.state == state).count();
    let report = json!({
        "ok": ok,
        "directory": directory.display().to_string(),
        "counts": {
            "good": count(RowState::Good),
            "warning": count(RowState::Warning),
            "failed": count(RowState::Failed),
            "note": count(RowState::Note),
            "not-configured": count(RowState::NotConfigured),
        },
        "rows": rows,
    });
    say(&format!("{report:#}\n"));
}
