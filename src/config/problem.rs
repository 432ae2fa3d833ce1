//! Problems in a configuration, with their positions.
//!
//! A problem that only follows from another distracts the operator, so the steps of loading share
//! `Findings`, which records the values that have already been reported.
//!
//! The result is a list in reading order. The steps decide what is wrong, not this module.

use std::collections::HashSet;
use std::ops::Range;

/// A position: a file of [`Sources`] and a byte range in it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Span {
    /// Index into [`Sources::files`].
    pub file: u16,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// A byte range of a file; offsets past 4 GiB are clamped.
    #[must_use]
    pub fn of(file: u16, span: &Range<usize>) -> Self {
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { file, start: offset(span.start), end: offset(span.end) }
    }
}

/// The files a configuration was read from.
#[derive(Debug, Default)]
pub struct Sources {
    /// The files, sorted by name.
    pub files: Vec<SourceFile>,
}

/// One file.
#[derive(Debug)]
pub struct SourceFile {
    /// Path as shown to the operator, e.g. `config/internet.toml`.
    pub name: String,
    /// Text of the file.
    pub text: String,
}

impl Sources {
    /// Formats a position as `file:line`, like compilers and editors; lines count from 1.
    #[must_use]
    pub fn locate(&self, place: Span) -> String {
        let Some(source) = self.files.get(usize::from(place.file)) else { return String::new() };
        let text = source.text.as_bytes();
        let before = text.get(..place.start as usize).unwrap_or(text);
        // `memchr`, because a comparison can have thousands of changes to locate.
        format!("{}:{}", source.name, 1 + memchr::memchr_iter(b'\n', before).count())
    }

    /// An index for locating more than a few positions, because [`Sources::locate`] counts lines
    /// each time.
    #[must_use]
    pub fn lines(&self) -> LineIndex<'_> {
        let ends = |source: &SourceFile| {
            let ends = memchr::memchr_iter(b'\n', source.text.as_bytes());
            ends.map(|end| u32::try_from(end).unwrap_or(u32::MAX)).collect()
        };
        LineIndex { sources: self, ends: self.files.iter().map(ends).collect() }
    }
}

/// Line ends of [`Sources`], for locating many positions.
#[derive(Debug)]
pub struct LineIndex<'a> {
    sources: &'a Sources,
    /// Offsets of line ends, by file.
    ends: Vec<Vec<u32>>,
}

impl LineIndex<'_> {
    /// Formats a position like [`Sources::locate`].
    #[must_use]
    pub fn locate(&self, place: Span) -> String {
        let file = usize::from(place.file);
        let (Some(source), Some(ends)) = (self.sources.files.get(file), self.ends.get(file)) else {
            return String::new();
        };
        format!("{}:{}", source.name, 1 + ends.partition_point(|end| *end < place.start))
    }
}

/// Severity of a [`Problem`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// The configuration is rejected.
    Error,
    /// The configuration is accepted with a warning.
    Warning,
}

/// A mistake or doubtful setting in the configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// Stable code of the form `area.fault`.
    pub code: &'static str,
    /// Description in one line, without full stop.
    pub message: String,
    /// Position; `None` for the directory as a whole.
    pub place: Option<Span>,
    /// Text under the marked part of the line.
    pub label: String,
    /// A second, related position with its text.
    pub related: Option<(Span, String)>,
    /// Suggested correction, if known.
    pub help: Option<String>,
}

impl Problem {
    /// A problem for which the configuration is rejected.
    #[must_use]
    pub fn error(code: &'static str, place: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            place: Some(place),
            label: String::new(),
            related: None,
            help: None,
        }
    }

    /// A problem that does not prevent the use of the configuration.
    #[must_use]
    pub fn warning(code: &'static str, place: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, place, message) }
    }

    /// An error in the directory or a file as a whole.
    #[must_use]
    pub fn nowhere(code: &'static str, message: impl Into<String>) -> Self {
        let start = Span { file: 0, start: 0, end: 0 };
        Self { place: None, ..Self::error(code, start, message) }
    }

    /// Adds text under the marked part of the line.
    #[must_use]
    pub fn with_label(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    /// Adds a suggested correction.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Adds a related position.
    #[must_use]
    pub fn with_related(self, place: Span, label: impl Into<String>) -> Self {
        Self { related: Some((place, label.into())), ..self }
    }
}

/// Collects problems, without those that only follow from others.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Problem>,
    /// Values that an earlier step rejected; further problems of them are not reported.
    struck: HashSet<Span>,
    /// Tables from which an earlier step removed something; keys missing there are not reported.
    damaged: HashSet<Span>,
}

impl Findings {
    /// Adds a problem, unless its exact position has been struck.
    pub(super) fn push(&mut self, problem: Problem) {
        if problem.place.is_none_or(|place| !self.struck.contains(&place)) {
            self.list.push(problem);
        }
    }

    /// Adds the problem of a value and suppresses further problems of that value.
    pub(super) fn strike(&mut self, value: Span, problem: Problem) {
        self.push(problem);
        self.struck.insert(value);
    }

    /// Records that something was removed from the table at `place`.
    pub(super) fn damage(&mut self, place: Span) {
        self.damaged.insert(place);
    }

    /// Whether something was removed from the table at `place`.
    pub(super) fn is_damaged(&self, place: Span) -> bool {
        self.damaged.contains(&place)
    }

    /// Whether anything was removed anywhere.
    pub(super) fn any_damage(&self) -> bool {
        !self.damaged.is_empty() || !self.struck.is_empty()
    }

    /// Whether the configuration is rejected.
    pub(super) fn refused(&self) -> bool {
        self.list.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// All problems in the order of the files; warnings come first, so that errors stand next to
    /// the prompt.
    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let mut list = self.list;
        list.sort_by_key(|problem| {
            let place = problem.place.map(|place| (place.file, place.start));
            (std::cmp::Reverse(problem.severity), place)
        });
        list
    }
}
