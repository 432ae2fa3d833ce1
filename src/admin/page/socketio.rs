//! Socket.IO section of the status page: sessions by state, and causes of polling.

use maud::{Markup, html};

use crate::socketio::report::{SessionReport, SessionRow};

use super::sections::{NOTHING, PageTable, coded, row};

/// Sessions shown.
const MAX_SESSIONS_SHOWN: usize = 10;

/// The section; nothing if Socket.IO is unused.
pub(super) fn section(report: &SessionReport) -> Markup {
    let counts = &report.counts;
    let silent = report.causes.is_empty() && report.warnings.is_empty();
    if counts.open() + counts.ended == 0 && silent {
        return NOTHING;
    }
    let facts = [
        ("on a WebSocket after polling", counts.upgraded),
        ("on a WebSocket from the start", counts.direct),
        ("stuck on polling", counts.stuck),
        ("just opened", counts.polling),
        ("ended in the last ten minutes", counts.ended),
    ];
    html! {
        section id="socketio" aria-labelledby="socketio-h" {
            h2 id="socketio-h" { "Socket.IO" }
            dl { @for (name, count) in facts { div { dt { (name) } dd { (count) } } } }
            @for warning in &report.warnings { p class="bad" { (coded(warning)) } }
            @for timer in &report.timers {
                p class="bad" {
                    "An idle timer of about " (timer.seconds) " s " (timer.place)
                    " cuts sessions of " (timer.upstream) " (" (timer.profile)
                    "), whose heartbeat is longer."
                }
            }
            @if report.dropped_sessions + report.dropped_events > 0 {
                p {
                    "This list is incomplete: some sessions were dropped because the tracking \
                     table was full."
                }
            }
        }
        @if !report.causes.is_empty() { (causes(report)) (without_websocket(report)) }
    }
}

fn causes(report: &SessionReport) -> Markup {
    html! {
        section id="socketio-causes" aria-labelledby="socketio-causes-h" {
            h2 id="socketio-causes-h" { "Why sessions stay on polling" }
            ul {
                @for one in &report.causes {
                    li {
                        b { (one.cause) } ": " (one.stuck) " stuck now, " (one.ended)
                        " ended of late. " (coded(&one.meaning)) " "
                        span class="remedy" { (coded(&one.next)) }
                    }
                }
            }
        }
    }
}

fn without_websocket(report: &SessionReport) -> Markup {
    let table = PageTable {
        id: "socketio-stuck",
        title: "Sessions without a WebSocket",
        about: "The latest of them, by the short form of their id; all: app-gateway why-polling",
        columns: &["Session", "Cause", "Client", "Route", "Polls", "For", "Evidence"],
    };
    // The latest first: stuck ones come oldest first.
    let stuck = report.stuck.iter().rev().take(MAX_SESSIONS_SHOWN);
    let all = stuck.chain(report.ended.iter().take(MAX_SESSIONS_SHOWN));
    table.section(&html! { @for one in all { (session(one)) } }, &NOTHING)
}

fn session(one: &SessionRow) -> Markup {
    let state = if one.state == "stuck" { "" } else { " (ended)" };
    row(&[
        &one.session,
        &format!("{}{state}", one.cause.as_deref().unwrap_or("–")),
        &one.client,
        &format!("{} ({})", one.route, one.profile),
        &one.polls.to_string(),
        &format!("{} s", one.seconds),
        one.evidence.as_deref().unwrap_or("–"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socketio::report::{CauseReport, IdleTimerReport, SessionCounts};

    const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&";

    #[test]
    fn says_nothing_where_there_is_nothing() {
        assert_eq!(section(&SessionReport::default()).into_string(), "");
    }

    #[test]
    fn shows_text_and_nothing_else() {
        let hostile = || HOSTILE.to_owned();
        let one = SessionRow {
            session: hostile(),
            client: hostile(),
            profile: hostile(),
            route: hostile(),
            upstream: hostile(),
            endpoint: Some(hostile()),
            protocol: hostile(),
            state: "stuck".to_owned(),
            since: hostile(),
            seconds: 1,
            polls: 2,
            posts: 3,
            cause: Some(hostile()),
            evidence: Some(hostile()),
            requests: vec![hostile()],
        };
        let report = SessionReport {
            counts: SessionCounts { stuck: 1, ..SessionCounts::default() },
            causes: vec![CauseReport {
                cause: hostile(),
                stuck: 1,
                ended: 0,
                meaning: hostile(),
                next: hostile(),
            }],
            ended: vec![SessionRow { state: "lost".to_owned(), ..one.clone() }],
            stuck: vec![one],
            timers: vec![IdleTimerReport {
                profile: hostile(),
                upstream: hostile(),
                place: "behind".to_owned(),
                seconds: 2.0,
            }],
            warnings: vec![hostile()],
            dropped_sessions: 1,
            dropped_events: 0,
        };
        let out = section(&report).into_string();
        assert!(!out.contains("<img") && !out.contains("\"'"), "{out}");
        assert_eq!(out.matches("&lt;img").count(), 18, "{out}");
        assert_eq!(out.matches("(ended)").count(), 1);
    }
}
