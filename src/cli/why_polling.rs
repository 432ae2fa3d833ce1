//! `app-gateway why-polling`: explains why Socket.IO sessions of the running gateway stay on
//! polling.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::CommandOptions;
use crate::admin::SESSIONS_PATH;
use crate::socketio::SessionKey;
use crate::socketio::report::{SessionReport, SessionRow, Timeline};

use super::admin_client::ask;
use super::{say_escaped, say_wrong_escaped};

/// For the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Columns of a paragraph.
const WIDTH: usize = 100;

/// Without `session`: all of them.
pub(super) fn why_polling(directory: &Path, session: Option<&str>, json: bool) -> ExitCode {
    let told = match session {
        None => all(directory, json),
        Some(session) => one(directory, session, json),
    };
    match told {
        Ok(text) => {
            say_escaped(&text);
            ExitCode::SUCCESS
        }
        Err(message) => {
            say_wrong_escaped(&message);
            ExitCode::FAILURE
        }
    }
}

fn all(directory: &Path, json: bool) -> Result<String, String> {
    let answer = ask(
        directory,
        &format!("GET {SESSIONS_PATH}"),
        &CommandOptions::default(),
        ANSWER_TIMEOUT,
    )?;
    let report = answer.json::<SessionReport>()?;
    Ok(if json { format!("{:#}\n", serde_json::json!(report)) } else { report_text(&report) })
}

/// Sends the short form of the id to the gateway, never the id.
fn one(directory: &Path, session: &str, json: bool) -> Result<String, String> {
    let short = SessionKey::read(session);
    // Text that looks like a short form may still be an id.
    for key in short.into_iter().chain([SessionKey::of(session.as_bytes())]) {
        let line = format!("GET {SESSIONS_PATH}/{key}");
        let answer = ask(directory, &line, &CommandOptions::default(), ANSWER_TIMEOUT)?;
        if answer.status != 404 {
            let story = answer.json::<Timeline>()?;
            return Ok(if json {
                format!("{:#}\n", serde_json::json!(story))
            } else {
                story_text(&story)
            });
        }
    }
    let key = short.unwrap_or_else(|| SessionKey::of(session.as_bytes()));
    Err(format!(
        "no session {key} is known: it ended more than 10 minutes ago, or its requests did not come \
         to this gateway, or `socket-io-tracking` is off"
    ))
}

// Writing to a String cannot fail; that is what `let _` stands for here.

fn report_text(report: &SessionReport) -> String {
    let counts = &report.counts;
    let mut out = format!(
        "{} Socket.IO sessions: {} upgraded to a WebSocket, {} opened by WebSocket, {} stuck on polling, {} too young to judge; {} ended recently\n",
        counts.open(),
        counts.upgraded,
        counts.direct,
        counts.stuck,
        counts.polling,
        counts.ended
    );
    if !report.causes.is_empty() {
        out.push_str("\ncause                    stuck  ended\n");
        for cause in &report.causes {
            let _ = writeln!(out, "{:<23}  {:>5}  {:>5}", cause.cause, cause.stuck, cause.ended);
            paragraph(&mut out, "  ", &cause.meaning);
            paragraph(&mut out, "  -> ", &cause.next);
        }
    }
    rows(&mut out, "stuck now", &report.stuck, counts.stuck);
    rows(&mut out, "ended lately without a WebSocket", &report.ended, report.ended.len());
    if !report.timers.is_empty() {
        out.push_str(
            "\nidle timers shorter than the heartbeat, detected from the connections they cut\n",
        );
    }
    for timer in &report.timers {
        let _ = writeln!(
            out,
            "  about {} s, {} (profile {}, upstream {})",
            timer.seconds, timer.place, timer.profile, timer.upstream
        );
    }
    for warning in &report.warnings {
        out.push('\n');
        paragraph(&mut out, "warning: ", warning);
    }
    if report.dropped_sessions + report.dropped_events > 0 {
        let _ = writeln!(
            out,
            "\nthis list is incomplete: {} sessions and {} events were dropped since the start because the tracking table was full",
            report.dropped_sessions, report.dropped_events
        );
    }
    out
}

fn rows(out: &mut String, title: &str, rows: &[SessionRow], all: usize) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{title}");
    for row in rows {
        session(out, row);
    }
    if all > rows.len() {
        let _ = writeln!(out, "  and {} more", all - rows.len());
    }
}

fn session(out: &mut String, row: &SessionRow) {
    let _ = writeln!(
        out,
        "  {}  {}  {} {} to {}, {}, {} s, {} polls, {} posts",
        row.session,
        row.client,
        row.profile,
        row.route,
        row.endpoint.as_ref().unwrap_or(&row.upstream),
        row.protocol,
        row.seconds,
        row.polls,
        row.posts
    );
    if let (Some(cause), Some(evidence)) = (&row.cause, &row.evidence) {
        paragraph(out, "    ", &format!("{cause}: {evidence}"));
    }
    let _ = writeln!(out, "    requests {}", row.requests.join(" "));
}

fn story_text(story: &Timeline) -> String {
    let row = &story.session;
    let mut out = format!(
        "session {}: {}\nclient {}, profile {}, route {}, upstream {}, since {}\n",
        row.session, row.state, row.client, row.profile, row.route, row.upstream, row.since
    );
    if let (Some(cause), Some(evidence)) = (&row.cause, &row.evidence) {
        let _ = writeln!(out, "\ncause {cause}: {evidence}");
        paragraph(&mut out, "  ", story.meaning.as_deref().unwrap_or_default());
        paragraph(&mut out, "  -> ", story.next.as_deref().unwrap_or_default());
    }
    let _ = writeln!(out, "\n{} polls, {} posts. What happened:", row.polls, row.posts);
    for moment in &story.moments {
        let _ = writeln!(out, "  {}  {}", moment.time, moment.what);
        let to = moment.endpoint.as_ref().map_or(String::new(), |to| format!(" to {to}"));
        let _ = writeln!(out, "      request {} of {}{to}", moment.request, moment.client);
    }
    out
}

/// Words of `text` in lines of [`WIDTH`], the first after `head`, the others below it.
fn paragraph(out: &mut String, head: &str, text: &str) {
    let (mut line, mut begun) = (head.to_owned(), false);
    for word in text.split(' ') {
        if begun && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{line}");
            line = " ".repeat(head.chars().count());
            begun = false;
        }
        if begun {
            line.push(' ');
        }
        line.push_str(word);
        begun = true;
    }
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_narrow_and_lose_nothing() {
        let mut out = String::new();
        let text = "one two three four five six seven ".repeat(10);
        paragraph(&mut out, "  -> ", text.trim());
        assert!(out.lines().count() > 3 && out.lines().all(|line| line.len() <= WIDTH), "{out}");
        let words: Vec<_> = out.split_whitespace().skip(1).collect();
        assert_eq!(words, text.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn an_empty_report_is_short() {
        let text = report_text(&SessionReport::default());
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with("0 Socket.IO sessions: 0 upgraded"), "{text}");
    }
}
