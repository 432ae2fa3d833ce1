//! The live part of the page: one function per section.
//!
//! maud escapes every value. A word shows the state; colour only repeats it.

use std::fmt::Write as _;

use maud::{Markup, PreEscaped, html};

use crate::admin::report::{ReloadAttempt, ReloadResult};

use super::escape::{figure, latency, without_controls};
use super::figures::RouteFigures;
use super::history::TrafficSample;
use super::problems::{PageProblem, ago, days_left, refusal, state, troubles};
use super::socketio;
use super::sparkline::{HISTORY_MINUTES, RouteHistory, RouteMinute};
use super::{PageView, RouteRow};
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
    let sections = html! {
        (verdict(view, &troubles(view)))
        (hour(view))
        (socketio::section(&view.sessions))
        (upstreams(view))
        (listeners(view))
        (certificates(view))
        (routes(view))
        (passthrough::section(view))
        (rejections::section(view))
        (egress::section(view))
        (reloads(view))
    };
    without_controls(sections.into_string())
}

fn verdict(view: &PageView<'_>, troubles: &[PageProblem]) -> Markup {
    let (class, head) = match troubles.len() {
        0 => ("good", "All is well".to_owned()),
        1 => ("bad", "1 problem".to_owned()),
        many => ("bad", format!("{many} problems")),
    };
    let status = &view.status;
    let facts = [
        ("phase", status.phase.clone()),
        ("started", ago(&status.started, view.now)),
        ("version", status.version.clone()),
        ("generation", status.generation.to_string()),
        ("configuration", status.config.clone()),
        ("directory", status.directory.clone()),
    ];
    html! {
        section id="verdict" class=(class) aria-labelledby="verdict-h" {
            h2 id="verdict-h" role="status" { (head) }
            @if !troubles.is_empty() {
                ul {
                    @for one in troubles {
                        li { (coded(&one.what)) " " span class="remedy" { (coded(&one.remedy)) } }
                    }
                }
            }
            @if let Some(pending) = &status.pending {
                p {
                    "This configuration is on trial until " (pending.until) ", then generation "
                    (pending.back_to) " serves again. Keep it: "
                    code { "app-gateway confirm" }
                }
            }
            @if !status.needs_restart.is_empty() {
                p { "Only a restart sets: " (status.needs_restart.join(", ")) }
            }
            dl { @for (name, value) in facts { div { dt { (name) } dd { (value) } } } }
        }
    }
}

/// A sentence whose commands and names in backquotes are marked as such.
pub(super) fn coded(sentence: &str) -> Markup {
    html! {
        @for (index, piece) in sentence.split('`').enumerate() {
            @if index % 2 == 0 { (piece) } @else { code { (piece) } }
        }
    }
}

fn hour(view: &PageView<'_>) -> Markup {
    let now = view.past.now(&view.figures);
    let lines: [(&str, f64, SampleValue); 4] = [
        ("requests/s", now.requests, |point| point.requests),
        ("5xx/s", now.errors, |point| point.errors),
        ("client connections", now.connections, |point| point.connections),
        ("WebSockets", now.websockets, |point| point.websockets),
    ];
    html! {
        section id="hour" aria-labelledby="hour-h" {
            h2 id="hour-h" { "The last hour" }
            div class="tiles" {
                @for (name, value, of) in lines {
                    div class="tile" {
                        b { (figure(value)) } " " (name)
                        (spark(name, view.past.points().map(of)))
                    }
                }
            }
        }
    }
}

/// A line over the hour; newest at the right.
#[expect(clippy::cast_precision_loss, reason = "there are 360 points")]
fn spark(name: &str, points: impl ExactSizeIterator<Item = f64> + Clone) -> Markup {
    let most = points.clone().fold(0.0, f64::max);
    let scale = if most > 0.0 { 30.0 / most } else { 0.0 };
    let first = 360_usize.saturating_sub(points.len());
    let label = format!("{name} over the last hour, at most {}", figure(most));
    let mut places = String::new();
    for (index, value) in points.enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(places, "{},{:.1} ", (first + index) as f64, 32.0 - value * scale);
    }
    let known = if first == 360 {
        "known from now on".to_owned()
    } else {
        format!("at most {}", figure(most))
    };
    html! {
        svg viewBox="0 0 360 34" preserveAspectRatio="none" role="img" aria-label=(label) {
            polyline points=(places) {}
        }
        small { (known) }
    }
}

/// The hour of a route: requests, and those that failed, on one scale.
fn line(past: &RouteHistory) -> Markup {
    let most = |of: MinuteValue| past.iter().map(of).fold(0.0, f32::max);
    let (requests, errors) = (most(|minute| minute.requests), most(|minute| minute.errors));
    let scale = 16.0 / requests.max(f32::MIN_POSITIVE);
    let first = HISTORY_MINUTES.saturating_sub(past.len());
    let places = |of: MinuteValue| {
        // A minute is as wide as it lasts, so that there is a line from the first on.
        let height = |minute| 17.0 - of(minute) * scale;
        let begun = past.front().map(|minute| (first, height(minute)));
        let ends = past.iter().enumerate();
        let ends = ends.map(|(index, minute)| (first + index + 1, height(minute)));
        let all = begun.into_iter().chain(ends);
        all.fold(String::new(), |mut places, (minute, height)| {
            let _ = write!(places, "{minute},{height:.1} ");
            places
        })
    };
    let label = format!(
        "in the last hour at most {} requests/s and {} 5xx/s",
        figure(requests.into()),
        figure(errors.into())
    );
    html! {
        svg viewBox="0 0 60 18" preserveAspectRatio="none" role="img" aria-label=(label) {
            polyline points=(places(|minute| minute.requests)) {}
            @if errors > 0.0 {
                polyline class="errors" points=(places(|minute| minute.errors)) {}
            }
        }
    }
}

/// A table of the page.
pub(super) struct PageTable<'a> {
    /// Id of its section.
    pub id: &'a str,
    /// Heading of its section.
    pub title: &'a str,
    /// Caption.
    pub about: &'a str,
    /// Column headers.
    pub columns: &'a [&'a str],
}

impl PageTable<'_> {
    /// The section with this table and its rows; `after` follows the table.
    pub(super) fn section(&self, rows: &Markup, after: &Markup) -> Markup {
        let heading = format!("{}-h", self.id);
        html! {
            section id=(self.id) aria-labelledby=(heading) {
                h2 id=(heading) { (self.title) }
                div class="scroll" tabindex="0" role="region" aria-labelledby=(heading) {
                    table {
                        caption { (self.about) }
                        thead { tr { @for column in self.columns { th scope="col" { (column) } } } }
                        tbody { (rows) }
                    }
                }
                (after)
            }
        }
    }
}

/// No markup.
pub(super) const NOTHING: Markup = PreEscaped(String::new());

/// One row; the first cell is its header.
pub(super) fn row(cells: &[&str]) -> Markup {
    html! {
        tr {
            @for (index, cell) in cells.iter().enumerate() {
                @if index == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
            }
        }
    }
}

fn more(rows: usize) -> Markup {
    html! {
        @if rows > MAX_TABLE_ROWS {
            tr { td colspan="9" { "and " (rows - MAX_TABLE_ROWS) " more: see /metrics" } }
        }
    }
}

fn upstreams(view: &PageView<'_>) -> Markup {
    let table = PageTable {
        id: "upstreams",
        title: "Upstream endpoints",
        about: "Upstreams and the state of their endpoints",
        columns: &["Upstream", "State", "Endpoint", "Open"],
    };
    let all = view.status.upstreams.iter();
    let all = all.flat_map(|one| one.endpoints.iter().map(move |endpoint| (one, endpoint)));
    let rows = html! {
        @for (upstream, endpoint) in all.clone().take(MAX_TABLE_ROWS) {
            @let (class, sign) = match endpoint.state.as_str() {
                "up" => ("good", "●"),
                "down" | "ejected" => ("bad", "✖"),
                _ => ("off", "○"),
            };
            tr {
                th scope="row" { (upstream.upstream) }
                td class={ (class) " why" } {
                    span aria-hidden="true" { (sign) } " " (state(endpoint, view.now))
                    @if !endpoint.checked { " (not checked)" }
                }
                td { (endpoint.endpoint) @if endpoint.backup { " (backup)" } }
                // Counted only where there is a choice.
                td { @if upstream.endpoints.len() > 1 { (endpoint.open) } @else { "–" } }
            }
        }
        (more(all.count()))
    };
    table.section(&rows, &NOTHING)
}

fn listeners(view: &PageView<'_>) -> Markup {
    let table = PageTable {
        id: "listeners",
        title: "Profiles and listeners",
        about: "Where clients come in",
        columns: &[
            "Profile",
            "Address",
            "TLS",
            "Serves",
            "Open",
            "Handshakes",
            "Failed",
            "Turned away",
        ],
    };
    let rows = html! {
        @for one in view.listeners.iter().take(MAX_TABLE_ROWS) {
            @let seen = view.figures.listeners.get(&one.address).cloned().unwrap_or_default();
            @let counts = [seen.open, seen.good, seen.failed, seen.rejected];
            @let [open, good, failed, rejected] = &counts.map(|n| format!("{n:.0}"));
            (row(&[
                &one.profile, &one.address, one.tls, &one.serves, open, good, failed, rejected,
            ]))
        }
        (more(view.listeners.len()))
    };
    table.section(&rows, &NOTHING)
}

fn certificates(view: &PageView<'_>) -> Markup {
    let table = PageTable {
        id: "certificates",
        title: "Certificates",
        about: "Certificates presented to clients",
        columns: &["Name", "Pair", "Days left"],
    };
    let rows = html! {
        @for (name, pair, end) in view.figures.certificates.iter().take(MAX_TABLE_ROWS) {
            @let days = days_left(*end, view.now);
            @let days = if days < 0 { "expired".to_owned() } else { days.to_string() };
            (row(&[name, pair, &days]))
        }
        (more(view.figures.certificates.len()))
    };
    table.section(&rows, &NOTHING)
}

fn routes(view: &PageView<'_>) -> Markup {
    let table = PageTable {
        id: "routes",
        title: "Routes",
        about: "Requests and 5xx responses of the last minute, with a chart of the last hour",
        columns: &[
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
        ],
    };
    let rows = html! {
        @for one in view.routes.iter().take(MAX_TABLE_ROWS) { (route(view, one)) }
        (more(view.routes.len()))
    };
    table.section(&rows, &NOTHING)
}

fn route(view: &PageView<'_>, one: &RouteRow) -> Markup {
    let key = (one.profile.clone(), one.name.clone());
    let (seen, took) =
        view.past.route(&view.figures, &key).unwrap_or((RouteFigures::default(), 1.0));
    let share = match seen.requests {
        requests if requests > 0.0 => format!("{} %", figure(seen.errors / requests * 100.0)),
        _ => "–".to_owned(),
    };
    let at = |share| seen.quantile(share).map_or("–".to_owned(), latency);
    html! {
        tr {
            th scope="row" { (one.name) }
            td class="line" {
                @match view.past.line(&key) { Some(past) => (line(past)), None => "–" }
            }
            td { (figure(seen.requests / took)) }
            td { (share) }
            td { (figure(seen.in_flight)) }
            td { (at(0.5)) }
            td { (at(0.95)) }
            td { (figure(seen.websockets)) }
            td { (one.goes) }
            td { (one.profile) }
        }
    }
}

fn reloads(view: &PageView<'_>) -> Markup {
    let table = PageTable {
        id: "reloads",
        title: "Reloads",
        about: "Newest first",
        columns: &["When", "Asked by", "Result", "Generation", "Took", "Changes"],
    };
    let is_refused = |attempt: &ReloadAttempt| attempt.result == ReloadResult::Refused;
    let rows = html! {
        @for attempt in view.status.reloads.iter().rev().take(MAX_RELOADS_SHOWN) {
            tr {
                th scope="row" {
                    time datetime=(attempt.time) { (ago(&attempt.time, view.now)) }
                }
                td { (attempt.trigger) }
                td class=(if is_refused(attempt) { "bad" } else { "" }) { (attempt.result.word()) }
                td { (attempt.generation) }
                td { (attempt.milliseconds) " ms" }
                td class="changes" { (attempt.changes.join("; ")) }
            }
        }
    };
    let drawn = view.status.reloads.iter().rev().find(|attempt| is_refused(attempt));
    let why = html! {
        @if let Some(attempt) = drawn {
            details id="refusal" open[refusal(view).is_some()] {
                summary { "Why the reload of " (attempt.time) " was refused" }
                pre tabindex="0" { (attempt.problems) }
            }
        }
    };
    table.section(&rows, &why)
}
