//! Socket.IO section of the status page: sessions by state, and causes of polling.

use std::fmt::Write as _;

use crate::socketio::report::{SessionReport, SessionRow};

use super::escape::Escaped;
use super::sections::{TABLE_END, coded, row, table};

/// Sessions shown.
const MAX_SESSIONS_SHOWN: usize = 10;

// Writing to a String cannot fail; that is what `let _` stands for here.

/// Writes the section; nothing if Socket.IO is unused.
pub(super) fn section(out: &mut String, report: &SessionReport) {
    let counts = &report.counts;
    let silent = report.causes.is_empty() && report.warnings.is_empty();
    if counts.open() + counts.ended == 0 && silent {
        return;
    }
    out.push_str(
        "<section id=\"socketio\" aria-labelledby=\"socketio-h\"><h2 id=\"socketio-h\">Socket.IO</h2><dl>",
    );
    let facts = [
        ("on a WebSocket after polling", counts.upgraded),
        ("on a WebSocket from the start", counts.direct),
        ("stuck on polling", counts.stuck),
        ("just opened", counts.polling),
        ("ended in the last ten minutes", counts.ended),
    ];
    for (name, count) in facts {
        let _ = write!(out, "<div><dt>{name}</dt><dd>{count}</dd></div>");
    }
    out.push_str("</dl>");
    for warning in &report.warnings {
        let _ = write!(out, "<p class=\"bad\">{}</p>", coded(warning));
    }
    for timer in &report.timers {
        let _ = write!(
            out,
            "<p class=\"bad\">An idle timer of about {} s {} cuts sessions of {} ({}), whose heartbeat is longer.</p>",
            timer.seconds,
            timer.place,
            Escaped(&timer.upstream),
            Escaped(&timer.profile)
        );
    }
    if report.dropped_sessions + report.dropped_events > 0 {
        out.push_str("<p>This list is incomplete: some sessions were dropped because the tracking table was full.</p>");
    }
    out.push_str("</section>");
    if !report.causes.is_empty() {
        causes(out, report);
    }
}

fn causes(out: &mut String, report: &SessionReport) {
    out.push_str(
        "<section id=\"socketio-causes\" aria-labelledby=\"socketio-causes-h\">\
         <h2 id=\"socketio-causes-h\">Why sessions stay on polling</h2><ul>",
    );
    for one in &report.causes {
        let _ = write!(
            out,
            "<li><b>{}</b>: {} stuck now, {} ended of late. {} <span class=\"remedy\">{}</span></li>",
            Escaped(&one.cause),
            one.stuck,
            one.ended,
            coded(&one.meaning),
            coded(&one.next)
        );
    }
    out.push_str("</ul></section>");
    let about = "The latest of them, by the short form of their id; all: app-gateway why-polling";
    let columns = ["Session", "Cause", "Client", "Route", "Polls", "For", "Evidence"];
    table(out, ("socketio-stuck", "Sessions without a WebSocket", about), &columns);
    // The latest first: stuck ones come oldest first.
    let stuck = report.stuck.iter().rev().take(MAX_SESSIONS_SHOWN);
    for one in stuck.chain(report.ended.iter().take(MAX_SESSIONS_SHOWN)) {
        session(out, one);
    }
    out.push_str(TABLE_END);
}

fn session(out: &mut String, one: &SessionRow) {
    let state = if one.state == "stuck" { "" } else { " (ended)" };
    row(
        out,
        &[
            &one.session,
            &format!("{}{state}", one.cause.as_deref().unwrap_or("–")),
            &one.client,
            &format!("{} ({})", one.route, one.profile),
            &one.polls.to_string(),
            &format!("{} s", one.seconds),
            one.evidence.as_deref().unwrap_or("–"),
        ],
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socketio::report::{CauseReport, IdleTimerReport, SessionCounts};

    const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&";

    #[test]
    fn says_nothing_where_there_is_nothing() {
        let mut out = String::new();
        section(&mut out, &SessionReport::default());
        assert_eq!(out, "");
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
        let mut out = String::new();
        section(&mut out, &report);
        assert!(!out.contains("<img") && !out.contains("\"'"), "{out}");
        assert_eq!(out.matches("&lt;img").count(), 18, "{out}");
        assert_eq!(out.matches("(ended)").count(), 1);
    }
}
