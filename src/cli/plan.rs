//! `app-gateway plan`: shows the changes a directory would make in the running gateway.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::CommandOptions;
use crate::admin::report::{ApplyMode, DiffKind, ItemDiff, KeyDiff, OpenCounts, Plan};

use super::admin_client::ask;
use super::{Exit, say_escaped, say_wrong_escaped, shortened};

/// For the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Kinds of requests shown; the JSON has more.
const MAX_KINDS_SHOWN: usize = 20;

/// Columns.
const WIDTH: usize = 80;

pub(super) fn plan(directory: &Path, named: Option<PathBuf>, json: bool) -> ExitCode {
    let same = |named: &PathBuf| match (named.canonicalize(), directory.canonicalize()) {
        (Ok(named), Ok(directory)) => named == directory,
        _ => false,
    };
    // The gateway has a working directory of its own.
    let named = named.filter(|named| !same(named));
    let named = named.map(|named| std::path::absolute(&named).unwrap_or(named));
    let question = CommandOptions { directory: named, ..CommandOptions::default() };
    let answer = ask(directory, "POST /plan", &question, ANSWER_TIMEOUT);
    let plan = match answer.and_then(|answer| answer.json::<Plan>()) {
        Ok(plan) => plan,
        Err(message) => {
            say_wrong_escaped(&message);
            return ExitCode::FAILURE;
        }
    };
    if json {
        say_escaped(&format!("{:#}\n", serde_json::json!(plan)));
    } else {
        if !plan.problems.is_empty() {
            say_wrong_escaped(&plan.problems);
        }
        if plan.refused {
            say_wrong_escaped(&format!(
                "{} would be refused; nothing would change",
                plan.directory
            ));
        } else {
            say_escaped(&text(&plan));
        }
    }
    match (plan.refused, plan.items.is_empty()) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::SUCCESS,
        (false, false) => Exit::Changes.into(),
    }
}

fn text(plan: &Plan) -> String {
    let mut out = String::new();
    let Plan { generation, config, new_config, .. } = plan;
    // Writing to a String cannot fail.
    let _ = writeln!(out, "serving    generation {generation}, configuration {config}");
    let _ = writeln!(out, "directory  {}, configuration {new_config}", plan.directory);
    if plan.items.is_empty() {
        out.push_str("\nno changes\n");
        return out;
    }
    for (means, title) in [
        (ApplyMode::Swap, "swap: exchanged in place; sockets and connections stay"),
        (ApplyMode::Rebind, "rebind: sockets are opened, or closed to new connections"),
        (ApplyMode::NeedsRestart, "needs restart: not done by a reload"),
    ] {
        let mut items = plan.items.iter().filter(|item| item.means == means).peekable();
        if items.peek().is_some() {
            let _ = writeln!(out, "\n{title}");
        }
        items.for_each(|item| change(&mut out, item));
    }
    if !plan.kept.is_empty() {
        let kept: Vec<_> =
            plan.kept.iter().map(|(kind, count)| counted(*count as u64, kind)).collect();
        let _ = writeln!(out, "\nkeep: {}", kept.join(", "));
    }
    let _ = writeln!(out, "open: {}", open(&plan.open));
    requests(&mut out, plan);
    let count = |means: ApplyMode| plan.items.iter().filter(|item| item.means == means).count();
    let _ = writeln!(
        out,
        "\n{} to swap, {} to rebind, {} needing a restart. Nothing has been changed.",
        count(ApplyMode::Swap),
        count(ApplyMode::Rebind),
        count(ApplyMode::NeedsRestart)
    );
    out
}

fn change(out: &mut String, change: &ItemDiff) {
    let sign = match change.how {
        DiffKind::Added => '+',
        DiffKind::Removed => '-',
        DiffKind::Changed => '~',
    };
    let _ = writeln!(out, "  {sign} {}", change.what);
    // Each key says its own place.
    if change.how != DiffKind::Changed {
        let places = places(&change.old_place, &change.new_place);
        let _ = writeln!(out, "      {places}");
    }
    for key in &change.keys {
        let KeyDiff { key, old_place, new_place, .. } = key_text(key);
        let _ = writeln!(out, "      {key}");
        let places = places(&old_place, &new_place);
        if !places.is_empty() {
            let _ = writeln!(out, "        {places}");
        }
    }
    if change.open.is_any() {
        let _ = writeln!(out, "      open: {}", open(&change.open));
    }
}

/// The key with its values in one text, shortened so that it fits a line.
fn key_text(key: &KeyDiff) -> KeyDiff {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(default)".to_owned());
    let (old, new) = (value(&key.old), value(&key.new));
    let room = WIDTH.saturating_sub(key.key.chars().count() + 11) / 2;
    let text = if old.chars().count() + new.chars().count() <= 2 * room {
        format!("{} {old} -> {new}", key.key)
    } else {
        format!(
            "{} {}\n        -> {}",
            key.key,
            shortened(&old, 2 * room),
            shortened(&new, WIDTH - 11)
        )
    };
    KeyDiff { key: text, ..key.clone() }
}

/// Present and future location of an item.
fn places(old: &str, new: &str) -> String {
    match (old, new) {
        ("", place) | (place, "") => place.to_owned(),
        (old, new) if old == new => old.to_owned(),
        (old, new) => format!("{old} -> {new}"),
    }
}

fn open(open: &OpenCounts) -> String {
    let mut parts = Vec::new();
    if open.connections > 0 {
        let mut part = counted(open.connections, "connection");
        if open.outdated > 0 {
            let _ = write!(part, " (up to {} to authenticate again)", open.outdated);
        }
        parts.push(part);
    }
    if open.requests > 0 {
        let they = if open.requests == 1 { "ends as it began" } else { "end as they began" };
        parts.push(format!("{} ({they})", counted(open.requests, "request")));
    }
    let closing = |closing| match closing {
        0 => "all stay".to_owned(),
        closing => format!("{closing} would be closed"),
    };
    if open.websockets > 0 {
        let closing = closing(open.closing);
        parts.push(format!("{} ({closing})", counted(open.websockets, "WebSocket")));
    }
    if open.passed_through > 0 {
        let closing = closing(open.passed_closing);
        parts.push(format!("{} passed through ({closing})", open.passed_through));
    }
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

fn requests(out: &mut String, plan: &Plan) {
    let requests = &plan.requests;
    if requests.looked_at == 0 {
        return;
    }
    let looked_at = counted(requests.looked_at as u64, "request");
    if requests.different == 0 {
        let _ = writeln!(out, "\nof the latest {looked_at} all would be answered as now");
        return;
    }
    let _ = writeln!(
        out,
        "\nof the latest {looked_at}, {} would be answered differently",
        requests.different
    );
    for kind in requests.kinds.iter().take(MAX_KINDS_SHOWN) {
        let asked = format!("{} {}", kind.method, kind.path);
        let _ = writeln!(out, "  {:>6}  {}", kind.count, shortened(&asked, WIDTH - 10));
        let _ = writeln!(out, "          {} -> {}", kind.old, kind.new);
    }
    let more = requests.kinds.len().saturating_sub(MAX_KINDS_SHOWN);
    if more > 0 {
        let _ = writeln!(out, "          and {more} more; --json has them");
    }
}

/// `2 routes`.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
