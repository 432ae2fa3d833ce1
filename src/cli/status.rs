//! `app-gateway status`: shows the state of the running gateway and its recent reloads.

mod traffic;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::CommandOptions;
use crate::admin::report::{ReloadAttempt, ReloadResult, Status};
use crate::units::display_timestamp;
use crate::upstream::snapshot::Snapshot;

use super::admin_client::ask;
use super::{drift, say_escaped, say_wrong_escaped, shortened};

/// For the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Attempts shown; the JSON has all that are remembered.
const MAX_ATTEMPTS_SHOWN: usize = 10;

/// Columns.
const WIDTH: usize = 80;

pub(super) fn status(directory: &Path, json: bool) -> ExitCode {
    let answer = ask(directory, "GET /status", &CommandOptions::default(), ANSWER_TIMEOUT);
    match answer.and_then(|answer| answer.json::<Status>()) {
        Ok(status) if json => {
            say_escaped(&format!("{:#}\n", serde_json::json!(status)));
            ExitCode::SUCCESS
        }
        Ok(status) => {
            say_escaped(&text(&status));
            ExitCode::SUCCESS
        }
        Err(message) => {
            say_wrong_escaped(&message);
            ExitCode::FAILURE
        }
    }
}

fn text(status: &Status) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<14}{value}");
    };
    line(
        "gateway",
        &format!("{}, version {}, process {}", status.phase, status.version, status.pid),
    );
    line("since", &status.started);
    line("directory", &status.directory);
    line("generation", &format!("{}, configuration {}", status.generation, status.config));
    if let Some(pending) = &status.pending {
        line(
            "on trial",
            &format!("until {}, then generation {} again", pending.until, pending.back_to),
        );
        line("", "keep it: app-gateway confirm; undo it now: app-gateway rollback");
    }
    if !status.needs_restart.is_empty() {
        line("needs restart", &status.needs_restart.join(", "));
    }
    for peer in &status.peers {
        line("other gateway", &format!("{} {}", peer.peer, drift::told(peer)));
    }
    for (name, value) in status.socket_io.iter().flat_map(traffic::socket_io) {
        line(name, &value);
    }
    upstreams(&mut out, &status.upstreams);
    let now = jiff::Timestamp::now().as_second();
    traffic::tables(&mut out, status, now);
    out.push_str(
        "\ntime                  trigger   result     generation  configuration     took\n",
    );
    let skipped = status.reloads.len().saturating_sub(MAX_ATTEMPTS_SHOWN);
    for attempt in status.reloads.iter().skip(skipped) {
        let _ = writeln!(
            out,
            "{:<20}  {:<8}  {:<9}  {:>10}  {:<13} {:>5} ms",
            attempt.time,
            attempt.trigger,
            attempt.result.word(),
            attempt.generation,
            attempt.config,
            attempt.milliseconds
        );
        if let Some(summary) = summary(attempt) {
            let _ = writeln!(out, "  {}", shortened(&summary, WIDTH - 2));
        }
    }
    let last = status.reloads.back().filter(|last| last.result == ReloadResult::Refused);
    if let Some(last) = last {
        let _ = write!(out, "\nthe last one was refused:\n\n{}", last.problems);
    }
    out
}

/// Endpoints that are checked, and those that are not as they should be.
fn upstreams(out: &mut String, all: &[Snapshot]) {
    let rows = all.iter().flat_map(|upstream| {
        upstream.endpoints.iter().map(move |endpoint| (&upstream.upstream, endpoint))
    });
    let mut first = true;
    for upstream in all.iter().filter(|upstream| upstream.on_backup) {
        let _ = writeln!(
            out,
            "\n{} uses its backups since {}: {}",
            upstream.upstream,
            display_timestamp(upstream.since),
            upstream.why
        );
    }
    for (upstream, endpoint) in rows.filter(|(_, e)| e.checked || e.state != "up") {
        if std::mem::take(&mut first) {
            out.push_str(
                "\nupstream                  endpoint                state        since\n",
            );
        }
        let since = if endpoint.since == 0 {
            "the start".to_owned()
        } else {
            display_timestamp(endpoint.since)
        };
        let _ = writeln!(
            out,
            "{upstream:<24}  {:<22}  {:<11}  {since}",
            endpoint.endpoint, endpoint.state
        );
        let why = endpoint.fault.as_ref().or(Some(&endpoint.why)).filter(|why| !why.is_empty());
        if let Some(why) = why.filter(|_| endpoint.state != "up") {
            let _ = writeln!(out, "  {}", shortened(why, WIDTH - 2));
        }
    }
}

/// Summary of a reload attempt in one line.
fn summary(attempt: &ReloadAttempt) -> Option<String> {
    let first = match attempt.result {
        ReloadResult::Refused => attempt.problems.lines().find(|line| !line.is_empty()),
        _ => attempt.changes.first().map(String::as_str),
    }?;
    let more = attempt.changes.len().saturating_sub(1);
    if attempt.result == ReloadResult::Refused || more == 0 {
        return Some(first.to_owned());
    }
    // A long list of changes is truncated by the gateway, so its length is not the count.
    Some(format!("{first}, and more"))
}
