//! Problems for people and for programs.
//!
//! People get the offending line with the mistake underlined and the way out below it, as from a
//! compiler, because a network engineer at three in the morning should not have to count lines.
//!
//! In: problems and the files they are in. Out: text or JSON. Never: draws more than
//! anybody would read; the rest is counted.

use std::borrow::Cow;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

use super::outline::credentials;
use super::problem::{Place, Problem, Severity, Source, Sources};

/// Most problems drawn.
const DRAWN: usize = 100;

/// Columns of the drawing.
const WIDTH: usize = 110;

/// Draws `problems` with the lines they are in, and counts them.
#[must_use]
pub fn draw(sources: &Sources, problems: &[Problem], colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() }.term_width(WIDTH);
    let mut out = String::new();
    let is_error = |problem: &Problem| problem.severity == Severity::Error;
    let errors = problems.iter().filter(|problem| is_error(problem)).count();
    let (mut room, mut warnings) = (DRAWN, DRAWN.saturating_sub(errors));
    for problem in problems {
        let left = if is_error(problem) { &mut room } else { &mut warnings };
        if *left == 0 {
            continue;
        }
        *left -= 1;
        out.push_str(renderer.render(&[group(sources, problem)]).trim_end());
        out.push_str("\n\n");
    }
    out.push_str(&count(problems));
    if problems.len() > DRAWN {
        out.push_str(", the first 100 of which are shown");
    }
    out.push('\n');
    out
}

/// `2 errors, 1 warning`.
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
        problem.place.map(|place| Mark { place, label: label(&problem.label), first: true });
    let related = problem.related.as_ref();
    let related =
        related.map(|(place, text)| Mark { place: *place, label: label(text), first: false });
    let marks: Vec<Mark<'_>> = primary.into_iter().chain(related).collect();
    match marks.as_slice() {
        // Two places of one file are drawn in one piece, in the order of the file.
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

/// A place to underline.
struct Mark<'a> {
    place: Place,
    label: Option<&'a str>,
    /// Whether it is the problem itself.
    first: bool,
}

/// The lines of `marks`, all of one file, and those between them.
///
/// Cut out here and not by the renderer, which would go through the whole file for every problem.
fn snippet<'a>(sources: &'a Sources, marks: &[Mark<'a>]) -> Option<Snippet<'a, Annotation<'a>>> {
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

/// Users and passwords of URLs starred, byte for byte, so that what is underlined stays where it is.
fn masked(text: &str) -> Cow<'_, str> {
    let found = credentials(text);
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = text.to_owned();
    for part in found {
        out.replace_range(part.clone(), &"*".repeat(part.len()));
    }
    Cow::Owned(out)
}

fn label(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn locate(sources: &Sources, place: Option<Place>) -> Option<(&Source, Place)> {
    let place = place?;
    Some((sources.files.get(usize::from(place.file))?, place))
}

/// The bytes of `place`, moved to where characters begin. At least one column is marked.
fn span(text: &str, place: Place) -> std::ops::Range<usize> {
    let start = text.floor_char_boundary(place.start as usize);
    let end = text.ceil_char_boundary(place.end as usize);
    start..end.max(start)
}

/// The same as JSON, for editors and pipelines.
///
/// Lines and columns count from 1, columns in characters; `end_column` is one past the last.
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

fn position(source: &Source, place: Place) -> Value {
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
        let sources =
            Sources { files: vec![Source { name: "a.toml".to_owned(), text: text.to_owned() }] };
        let place = Place::of(0, &(10..14));
        let json = to_json(&sources, &[Problem::error("a.b", place, "x")]);
        let place = &json["problems"][0]["place"];
        assert_eq!((place["line"].as_u64(), place["column"].as_u64()), (Some(2), Some(5)));
        assert_eq!(place["end_column"].as_u64(), Some(8));
        assert_eq!(json["errors"], 1);
    }
}
