//! Renders problems for people and programs.
//!
//! The text for people shows the offending line with the mistake underlined and a correction below,
//! like the messages of a compiler, so that an engineer need not count lines.
//!
//! Renders text or JSON. The number of rendered problems is limited; the rest is counted.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

use super::outline::credentials;
use super::problem::{Problem, Severity, SourceFile, Sources, Span};

/// Maximum number of rendered problems.
const MAX_PROBLEMS_DRAWN: usize = 100;

/// Maximum number of listed positions of warnings that are folded into one.
const PLACES: usize = 8;

/// Maximum number of kinds of errors in a summary.
const KINDS: usize = 5;

/// Columns of the rendering.
const DRAWING_COLUMNS: usize = 110;

/// Renders `problems` with their lines, followed by their number.
#[must_use]
pub fn draw(sources: &Sources, problems: &[Problem], colour: bool) -> String {
    let renderer =
        if colour { Renderer::styled() } else { Renderer::plain() }.term_width(DRAWING_COLUMNS);
    let mut out = String::new();
    let is_error = |problem: &Problem| problem.severity == Severity::Error;
    let errors = problems.iter().filter(|problem| is_error(problem)).count();
    let (mut room, mut warnings) = (MAX_PROBLEMS_DRAWN, MAX_PROBLEMS_DRAWN.saturating_sub(errors));
    let mut left_out = false;
    for kind in kinds(problems) {
        let [problem, more @ ..] = kind.as_slice() else { continue };
        let left = if is_error(problem) { &mut room } else { &mut warnings };
        if *left == 0 {
            left_out = true;
            continue;
        }
        *left -= 1;
        let folded = folded(sources, problem, more);
        let mut group = group(sources, problem);
        if let Some(folded) = &folded {
            group = group.element(Level::NOTE.message(folded.as_str()));
        }
        out.push_str(renderer.render(&[group]).trim_end());
        out.push_str("\n\n");
    }
    out.push_str(&count(problems));
    if left_out {
        out.push_str(", the first 100 of which are shown");
    }
    out.push('\n');
    out
}

/// Groups problems: each error by itself, and warnings of one kind together, in the order of the
/// first of them.
fn kinds(problems: &[Problem]) -> Vec<Vec<&Problem>> {
    let mut kinds: Vec<Vec<&Problem>> = Vec::new();
    let mut warnings: HashMap<&str, usize> = HashMap::new();
    for problem in problems {
        let known = warnings.get(problem.code).filter(|_| problem.severity == Severity::Warning);
        if let Some(kind) = known.and_then(|index| kinds.get_mut(*index)) {
            kind.push(problem);
            continue;
        }
        if problem.severity == Severity::Warning {
            warnings.insert(problem.code, kinds.len());
        }
        kinds.push(vec![problem]);
    }
    kinds
}

/// The remaining positions of a kind, with the name that each concerns.
fn folded(sources: &Sources, first: &Problem, more: &[&Problem]) -> Option<String> {
    if more.is_empty() {
        return None;
    }
    let at = |problem: &&Problem| {
        let place = sources.locate(problem.place?);
        let name = problem.message.split('`').nth(1).filter(|_| problem.message != first.message);
        Some(name.map_or_else(|| place.clone(), |name| format!("{place} (`{}`)", masked(name))))
    };
    let places: Vec<_> = more.iter().filter_map(at).take(PLACES).collect();
    let rest = if more.len() > places.len() { ", …" } else { "" };
    let at = if places.is_empty() { String::new() } else { format!(": {}", places.join(", ")) };
    Some(format!("{} more of this kind{at}{rest}", more.len()))
}

/// One line for each kind of problem, for commands with another purpose; `None` without problems.
#[must_use]
pub fn summary(sources: &Sources, problems: &[Problem]) -> Option<String> {
    if problems.is_empty() {
        return None;
    }
    let errors: Vec<_> = problems.iter().filter(|p| p.severity == Severity::Error).collect();
    let mut out = format!("the configuration has {}", count(problems));
    if errors.is_empty() {
        out.push_str("; `app-gateway check` shows them");
        return Some(out);
    }
    out.push_str(", and would be rejected; this answer leaves out the invalid parts:\n");
    let mut shown: Vec<(&str, usize)> = Vec::new();
    for problem in &errors {
        match shown.iter_mut().find(|(code, _)| *code == problem.code) {
            Some((_, number)) => *number += 1,
            None => shown.push((problem.code, 1)),
        }
    }
    for (code, number) in shown.iter().take(KINDS) {
        let Some(first) = errors.iter().find(|problem| problem.code == *code) else { continue };
        let at = first.place.map_or(String::new(), |place| format!("{}: ", sources.locate(place)));
        let more = if *number > 1 { format!(" (and {} more)", number - 1) } else { String::new() };
        let _ = writeln!(out, "  {at}{}{more}", masked(&first.message));
    }
    if shown.len() > KINDS {
        let _ = writeln!(out, "  and {} kinds more", shown.len() - KINDS);
    }
    out.push_str("`app-gateway check` shows all of it");
    Some(out)
}

/// Number of problems, as in `2 errors, 1 warning`.
fn count(problems: &[Problem]) -> String {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let plural = |number: usize, what: &str| {
        format!("{number} {what}{}", if number == 1 { "" } else { "s" })
    };
    match (errors, problems.len() - errors) {
        (0, 0) => "no problems".to_owned(),
        (0, warnings) => plural(warnings, "warning"),
        (errors, 0) => plural(errors, "error"),
        (errors, warnings) => {
            format!("{}, {}", plural(errors, "error"), plural(warnings, "warning"))
        }
    }
}

fn group<'a>(sources: &'a Sources, problem: &'a Problem) -> Group<'a> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group =
        Group::with_title(level.primary_title(masked(&problem.message)).id(problem.code));
    let primary =
        problem.place.map(|place| Underline { place, label: label(&problem.label), first: true });
    let related = problem.related.as_ref();
    let related =
        related.map(|(place, text)| Underline { place: *place, label: label(text), first: false });
    let marks: Vec<Underline<'_>> = primary.into_iter().chain(related).collect();
    match marks.as_slice() {
        // Two positions in one file are rendered together, in the order of the file.
        [one, other] if one.place.file == other.place.file => {
            group = group.elements(snippet(sources, &marks));
        }
        marks => {
            for mark in marks {
                group = group.elements(snippet(sources, std::slice::from_ref(mark)));
            }
        }
    }
    match &problem.help {
        Some(help) => group.element(Level::HELP.message(masked(help))),
        None => group,
    }
}

/// A position to underline.
struct Underline<'a> {
    place: Span,
    label: Option<&'a str>,
    /// Whether it is the position of the problem itself.
    first: bool,
}

/// The lines of `marks`, all of one file, and those between them.
///
/// Extracted here because the renderer would scan the whole file for every problem.
fn snippet<'a>(
    sources: &'a Sources,
    marks: &[Underline<'a>],
) -> Option<Snippet<'a, Annotation<'a>>> {
    let source = sources.files.get(usize::from(marks.first()?.place.file))?;
    let spans = || marks.iter().map(|mark| span(&source.text, mark.place));
    let first = spans().map(|span| span.start).min()?;
    let last = spans().map(|span| span.end).max()?;
    let start = source.text.get(..first)?.rfind('\n').map_or(0, |newline| newline + 1);
    let end =
        source.text.get(last..)?.find('\n').map_or(source.text.len(), |newline| last + newline);
    let line = 1 + source.text.get(..start)?.matches('\n').count();
    let lines = source.text.get(start..end)?;
    let snippet = Snippet::source(masked(lines)).path(&source.name).line_start(line);
    Some(snippet.annotations(marks.iter().zip(spans()).map(|(mark, span)| {
        let kind = if mark.first { AnnotationKind::Primary } else { AnnotationKind::Context };
        kind.span(span.start - start..span.end - start).label(mark.label)
    })))
}

/// Replaces users and passwords of URLs, and PEM text, by stars, byte for byte, so that the
/// underlined positions stay correct.
fn masked(text: &str) -> Cow<'_, str> {
    let found = credentials(text);
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = text.to_owned();
    for part in found {
        let starred = text.get(part.clone()).unwrap_or_default().bytes();
        let starred = starred.map(|byte| if byte == b'\n' { '\n' } else { '*' });
        out.replace_range(part, &starred.collect::<String>());
    }
    Cow::Owned(out)
}

fn label(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn locate(sources: &Sources, place: Option<Span>) -> Option<(&SourceFile, Span)> {
    let place = place?;
    Some((sources.files.get(usize::from(place.file))?, place))
}

/// The bytes of `place`, aligned to character boundaries. At least one column is marked.
fn span(text: &str, place: Span) -> std::ops::Range<usize> {
    let start = text.floor_char_boundary(place.start as usize);
    let end = text.ceil_char_boundary(place.end as usize);
    start..end.max(start)
}

/// Converts problems to JSON, for editors and pipelines.
///
/// Lines and columns count from 1, columns in characters; `end_column` is exclusive.
#[must_use]
pub fn to_json(sources: &Sources, problems: &[Problem]) -> Value {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let list: Vec<Value> = problems
        .iter()
        .map(|problem| {
            let place = locate(sources, problem.place);
            let place = place.map(|(source, place)| position(source, place));
            json!({
                "severity": match problem.severity {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
                },
                "code": problem.code,
                "message": masked(&problem.message),
                "place": place,
                "label": label(&problem.label),
                "related": problem.related.as_ref().and_then(|(place, label)| {
                    let (source, place) = locate(sources, Some(*place))?;
                    Some(json!({ "place": position(source, place), "label": label }))
                }),
                "help": problem.help.as_deref().map(masked),
            })
        })
        .collect();
    json!({ "errors": errors, "warnings": problems.len() - errors, "problems": list })
}

fn position(source: &SourceFile, place: Span) -> Value {
    let span = span(&source.text, place);
    let (line, column) = line_and_column(&source.text, span.start);
    let (end_line, end_column) = line_and_column(&source.text, span.end);
    json!({
        "file": source.name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
    })
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (1 + before.matches('\n').count(), 1 + before[line_start..].chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_in_words() {
        let problem = Problem::nowhere("a.b", "x");
        let warning = Problem { severity: Severity::Warning, ..problem.clone() };
        assert_eq!(count(&[]), "no problems");
        assert_eq!(count(&[problem.clone(), warning.clone(), warning]), "1 error, 2 warnings");
    }

    #[test]
    fn json_counts_lines_and_characters() {
        let text = "a = 1\nb = \"é\" # x\n";
        let sources = Sources {
            files: vec![SourceFile { name: "a.toml".to_owned(), text: text.to_owned() }],
        };
        let place = Span::of(0, &(10..14));
        let json = to_json(&sources, &[Problem::error("a.b", place, "x")]);
        let place = &json["problems"][0]["place"];
        assert_eq!((place["line"].as_u64(), place["column"].as_u64()), (Some(2), Some(5)));
        assert_eq!(place["end_column"].as_u64(), Some(8));
        assert_eq!(json["errors"], 1);
    }
}
