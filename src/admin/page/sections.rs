//! The live part of the page: one function per section.
//!
//! Every value goes through [`Escaped`]. A word shows the state; colour only repeats it.

use std::fmt::Write as _;

use crate::admin::report::ReloadResult;

use super::PageView;
use super::escape::{Escaped, figure, latency};
use super::figures::RouteFigures;
use super::history::TrafficSample;
use super::problems::{PageProblem, ago, days_left, refusal, state, troubles};
use super::socketio;
use super::sparkline::{HISTORY_MINUTES, RouteHistory, RouteMinute};
use super::{egress, passthrough, rejections};

/// Most rows of a table; a page is for people.
pub(super) const MAX_TABLE_ROWS: usize = 200;
/// Reloads shown.
const MAX_RELOADS_SHOWN: usize = 10;

/// Selects the charted value of a sample.
type SampleValue = fn(&TrafficSample) -> f64;
/// Selects the charted value of a route's minute.
type MinuteValue = fn(&RouteMinute) -> f32;

/// All sections.
pub(super) fn all(view: &PageView<'_>) -> String {
    let mut out = String::with_capacity(16 * 1024);
    verdict(&mut out, view, &troubles(view));
    hour(&mut out, view);
    socketio::section(&mut out, &view.sessions);
    upstreams(&mut out, view);
    listeners(&mut out, view);
    certificates(&mut out, view);
    routes(&mut out, view);
    passthrough::section(&mut out, view);
    rejections::section(&mut out, view);
    egress::section(&mut out, view);
    reloads(&mut out, view);
    out
}

// Writing to a String cannot fail; that is what `let _` stands for here.

fn verdict(out: &mut String, view: &PageView<'_>, troubles: &[PageProblem]) {
    let (class, head) = match troubles.len() {
        0 => ("good", "All is well".to_owned()),
        1 => ("bad", "1 problem".to_owned()),
        many => ("bad", format!("{many} problems")),
    };
    let _ = write!(
        out,
        "<section id=\"verdict\" class=\"{class}\" aria-labelledby=\"verdict-h\">\
         <h2 id=\"verdict-h\" role=\"status\">{head}</h2>"
    );
    if !troubles.is_empty() {
        out.push_str("<ul>");
        for one in troubles {
            let _ = write!(
                out,
                "<li>{} <span class=\"remedy\">{}</span></li>",
                coded(&one.what),
                coded(&one.remedy)
            );
        }
        out.push_str("</ul>");
    }
    let status = &view.status;
    if let Some(pending) = &status.pending {
        let _ = write!(
            out,
            "<p>This configuration is on trial until {}, then generation {} serves again. Keep it: <code>app-gateway confirm</code></p>",
            Escaped(&pending.until),
            pending.back_to
        );
    }
    if !status.needs_restart.is_empty() {
        let _ =
            write!(out, "<p>Only a restart sets: {}</p>", Escaped(status.needs_restart.join(", ")));
    }
    let up = ago(&status.started, view.now);
    let facts = [
        ("phase", status.phase.clone()),
        ("started", up),
        ("version", status.version.clone()),
        ("generation", status.generation.to_string()),
        ("configuration", status.config.clone()),
        ("directory", status.directory.clone()),
    ];
    out.push_str("<dl>");
    for (name, value) in facts {
        let _ = write!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", Escaped(value));
    }
    out.push_str("</dl></section>");
}

/// A sentence whose commands and names in backquotes are marked as such.
pub(super) fn coded(sentence: &str) -> String {
    let mut out = String::new();
    for (index, piece) in sentence.split('`').enumerate() {
        let _ = match index % 2 {
            0 => write!(out, "{}", Escaped(piece)),
            _ => write!(out, "<code>{}</code>", Escaped(piece)),
        };
    }
    out
}

fn hour(out: &mut String, view: &PageView<'_>) {
    let now = view.past.now(&view.figures);
    out.push_str("<section id=\"hour\" aria-labelledby=\"hour-h\"><h2 id=\"hour-h\">The last hour</h2><div class=\"tiles\">");
    let lines: [(&str, f64, SampleValue); 4] = [
        ("requests/s", now.requests, |point| point.requests),
        ("5xx/s", now.errors, |point| point.errors),
        ("client connections", now.connections, |point| point.connections),
        ("WebSockets", now.websockets, |point| point.websockets),
    ];
    for (name, value, of) in lines {
        let _ = write!(out, "<div class=\"tile\"><b>{}</b> {name}", figure(value));
        spark(out, name, view.past.points().map(of));
        out.push_str("</div>");
    }
    out.push_str("</div></section>");
}

/// A line over the hour; newest at the right.
#[expect(clippy::cast_precision_loss, reason = "there are 360 points")]
fn spark(out: &mut String, name: &str, points: impl ExactSizeIterator<Item = f64> + Clone) {
    let most = points.clone().fold(0.0, f64::max);
    let scale = if most > 0.0 { 30.0 / most } else { 0.0 };
    let first = 360_usize.saturating_sub(points.len());
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 360 34\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{name} over the last hour, at most {}\"><polyline points=\"",
        figure(most)
    );
    for (index, value) in points.enumerate() {
        let _ = write!(out, "{},{:.1} ", (first + index) as f64, 32.0 - value * scale);
    }
    let known = if first == 360 {
        "known from now on".to_owned()
    } else {
        format!("at most {}", figure(most))
    };
    let _ = write!(out, "\"/></svg><small>{known}</small>");
}

/// The hour of a route: requests, and those that failed, on one scale.
fn line(out: &mut String, past: &RouteHistory) {
    let most = |of: MinuteValue| past.iter().map(of).fold(0.0, f32::max);
    let (requests, errors) = (most(|minute| minute.requests), most(|minute| minute.errors));
    let scale = 16.0 / requests.max(f32::MIN_POSITIVE);
    let first = HISTORY_MINUTES.saturating_sub(past.len());
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 60 18\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"in the last hour at most {} requests/s and {} 5xx/s\">",
        figure(requests.into()),
        figure(errors.into())
    );
    let of: [(&str, MinuteValue); 2] =
        [("", |minute| minute.requests), (" class=\"errors\"", |minute| minute.errors)];
    for (class, of) in of.into_iter().take(if errors > 0.0 { 2 } else { 1 }) {
        let _ = write!(out, "<polyline{class} points=\"");
        // A minute is as wide as it lasts, so that there is a line from the first on.
        let height = |minute| 17.0 - of(minute) * scale;
        let begun = past.front().map(|minute| (first, height(minute)));
        let ends = past.iter().enumerate();
        let ends = ends.map(|(index, minute)| (first + index + 1, height(minute)));
        for (minute, height) in begun.into_iter().chain(ends) {
            let _ = write!(out, "{minute},{height:.1} ");
        }
        out.push_str("\"/>");
    }
    out.push_str("</svg>");
}

/// Opens a section with a table.
pub(super) fn table(out: &mut String, (id, title, about): (&str, &str, &str), columns: &[&str]) {
    let _ = write!(
        out,
        "<section id=\"{id}\" aria-labelledby=\"{id}-h\"><h2 id=\"{id}-h\">{title}</h2>\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"{id}-h\"><table><caption>{about}</caption><thead><tr>"
    );
    for column in columns {
        let _ = write!(out, "<th scope=\"col\">{column}</th>");
    }
    out.push_str("</tr></thead><tbody>");
}

pub(super) const TABLE_END: &str = "</tbody></table></div></section>";

/// One row; the first cell is its header.
pub(super) fn row(out: &mut String, cells: &[&str]) {
    out.push_str("<tr>");
    for (index, cell) in cells.iter().enumerate() {
        let _ = match index {
            0 => write!(out, "<th scope=\"row\">{}</th>", Escaped(cell)),
            _ => write!(out, "<td>{}</td>", Escaped(cell)),
        };
    }
    out.push_str("</tr>");
}

fn more(out: &mut String, rows: usize) {
    if rows > MAX_TABLE_ROWS {
        let _ = write!(
            out,
            "<tr><td colspan=\"9\">and {} more: see /metrics</td></tr>",
            rows - MAX_TABLE_ROWS
        );
    }
}

fn upstreams(out: &mut String, view: &PageView<'_>) {
    let about = "Upstreams and the state of their endpoints";
    let columns = ["Upstream", "State", "Endpoint", "Open"];
    table(out, ("upstreams", "Upstream endpoints", about), &columns);
    let all = view.status.upstreams.iter();
    let all = all.flat_map(|one| one.endpoints.iter().map(move |endpoint| (one, endpoint)));
    for (upstream, endpoint) in all.clone().take(MAX_TABLE_ROWS) {
        let (class, sign) = match endpoint.state.as_str() {
            "up" => ("good", "●"),
            "down" | "ejected" => ("bad", "✖"),
            _ => ("off", "○"),
        };
        let unchecked = if endpoint.checked { "" } else { " (not checked)" };
        let backup = if endpoint.backup { " (backup)" } else { "" };
        // Counted only where there is a choice.
        let open =
            if upstream.endpoints.len() > 1 { endpoint.open.to_string() } else { "–".to_owned() };
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"{class} why\"><span aria-hidden=\"true\">{sign}</span> {}{unchecked}</td><td>{}{backup}</td><td>{}</td></tr>",
            Escaped(&upstream.upstream),
            Escaped(state(endpoint, view.now)),
            Escaped(&endpoint.endpoint),
            open
        );
    }
    more(out, all.count());
    out.push_str(TABLE_END);
}

fn listeners(out: &mut String, view: &PageView<'_>) {
    let about = "Where clients come in";
    let columns =
        ["Profile", "Address", "TLS", "Serves", "Open", "Handshakes", "Failed", "Turned away"];
    table(out, ("listeners", "Profiles and listeners", about), &columns);
    for one in view.listeners.iter().take(MAX_TABLE_ROWS) {
        let seen = view.figures.listeners.get(&one.address).cloned().unwrap_or_default();
        let counts = [seen.open, seen.good, seen.failed, seen.rejected].map(|n| format!("{n:.0}"));
        let [open, good, failed, rejected] = &counts;
        row(out, &[&one.profile, &one.address, one.tls, &one.serves, open, good, failed, rejected]);
    }
    more(out, view.listeners.len());
    out.push_str(TABLE_END);
}

fn certificates(out: &mut String, view: &PageView<'_>) {
    let about = "Certificates presented to clients";
    table(out, ("certificates", "Certificates", about), &["Name", "Pair", "Days left"]);
    for (name, pair, end) in view.figures.certificates.iter().take(MAX_TABLE_ROWS) {
        let days = days_left(*end, view.now);
        let days = if days < 0 { "expired".to_owned() } else { days.to_string() };
        row(out, &[name, pair, &days]);
    }
    more(out, view.figures.certificates.len());
    out.push_str(TABLE_END);
}

fn routes(out: &mut String, view: &PageView<'_>) {
    let about = "Requests and 5xx responses of the last minute, with a chart of the last hour";
    let columns = [
        "Route",
        "Last hour",
        "Requests/s",
        "5xx",
        "In flight",
        "p50",
        "p95",
        "WebSockets",
        "Goes",
        "Profile",
    ];
    table(out, ("routes", "Routes", about), &columns);
    for one in view.routes.iter().take(MAX_TABLE_ROWS) {
        let key = (one.profile.clone(), one.name.clone());
        let (seen, took) =
            view.past.route(&view.figures, &key).unwrap_or((RouteFigures::default(), 1.0));
        let share = match seen.requests {
            requests if requests > 0.0 => format!("{} %", figure(seen.errors / requests * 100.0)),
            _ => "–".to_owned(),
        };
        let at = |share| seen.quantile(share).map_or("–".to_owned(), latency);
        let _ = write!(out, "<tr><th scope=\"row\">{}</th><td class=\"line\">", Escaped(&one.name));
        match view.past.line(&key) {
            Some(past) => line(out, past),
            None => out.push('–'),
        }
        out.push_str("</td>");
        let (rate, flying, sockets) =
            (figure(seen.requests / took), figure(seen.in_flight), figure(seen.websockets));
        let (half, most) = (at(0.5), at(0.95));
        for cell in [&rate, &share, &flying, &half, &most, &sockets, &one.goes, &one.profile] {
            let _ = write!(out, "<td>{}</td>", Escaped(cell));
        }
        out.push_str("</tr>");
    }
    more(out, view.routes.len());
    out.push_str(TABLE_END);
}

fn reloads(out: &mut String, view: &PageView<'_>) {
    let about = "Newest first";
    let columns = ["When", "Asked by", "Result", "Generation", "Took", "Changes"];
    table(out, ("reloads", "Reloads", about), &columns);
    for attempt in view.status.reloads.iter().rev().take(MAX_RELOADS_SHOWN) {
        let class = if attempt.result == ReloadResult::Refused { "bad" } else { "" };
        let _ = write!(
            out,
            "<tr><th scope=\"row\"><time datetime=\"{}\">{}</time></th><td>{}</td><td class=\"{class}\">{}</td><td>{}</td><td>{} ms</td><td class=\"changes\">{}</td></tr>",
            Escaped(&attempt.time),
            Escaped(ago(&attempt.time, view.now)),
            Escaped(&attempt.trigger),
            attempt.result.word(),
            attempt.generation,
            attempt.milliseconds,
            Escaped(attempt.changes.join("; ")),
        );
    }
    out.push_str("</tbody></table></div>");
    let drawn = view.status.reloads.iter().rev().find(|a| a.result == ReloadResult::Refused);
    if let Some(attempt) = drawn {
        let open = if refusal(view).is_some() { " open" } else { "" };
        let _ = write!(
            out,
            "<details id=\"refusal\"{open}><summary>Why the reload of {} was refused</summary><pre tabindex=\"0\">{}</pre></details>",
            Escaped(&attempt.time),
            Escaped(&attempt.problems)
        );
    }
    out.push_str("</section>");
}
