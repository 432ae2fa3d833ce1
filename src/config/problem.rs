//! Problems in a configuration, and where they are.
//!
//! A problem that only follows from another is noise at three in the morning, so the steps of
//! loading share `Findings`, which remembers what has been complained about already.
//!
//! In: what a step found. Out: a list in reading order. Never: decides what is wrong.

use std::collections::HashSet;
use std::ops::Range;

/// Where something is written: a file of [`Sources`] and a byte range in it.
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
    /// A byte range of a file; what lies past 4 GiB is cut.
    #[must_use]
    pub fn of(file: u16, span: &Range<usize>) -> Self {
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { file, start: offset(span.start), end: offset(span.end) }
    }
}

/// The files a configuration was read from.
#[derive(Debug, Default)]
pub struct Sources {
    /// Name as shown to the operator, and text.
    pub files: Vec<SourceFile>,
}

/// One file.
#[derive(Debug)]
pub struct SourceFile {
    /// Path as shown to the operator, e.g. `config/internet.toml`.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl Sources {
    /// `file:line`, the way compilers and editors write a place; lines count from 1.
    #[must_use]
    pub fn locate(&self, place: Span) -> String {
        let Some(source) = self.files.get(usize::from(place.file)) else { return String::new() };
        let text = source.text.as_bytes();
        let before = text.get(..place.start as usize).unwrap_or(text);
        // Asked of each of thousands of changes.
        format!("{}:{}", source.name, 1 + memchr::memchr_iter(b'\n', before).count())
    }

    /// For locating more than a few places: [`Sources::locate`] counts lines each time.
    #[must_use]
    pub fn lines(&self) -> LineIndex<'_> {
        let ends = |source: &SourceFile| {
            let ends = memchr::memchr_iter(b'\n', source.text.as_bytes());
            ends.map(|end| u32::try_from(end).unwrap_or(u32::MAX)).collect()
        };
        LineIndex { sources: self, ends: self.files.iter().map(ends).collect() }
    }
}

/// Where the lines of [`Sources`] end, for locating many places.
#[derive(Debug)]
pub struct LineIndex<'a> {
    sources: &'a Sources,
    /// Offsets of line ends, by file.
    ends: Vec<Vec<u32>>,
}

impl LineIndex<'_> {
    /// As [`Sources::locate`].
    #[must_use]
    pub fn locate(&self, place: Span) -> String {
        let file = usize::from(place.file);
        let (Some(source), Some(ends)) = (self.sources.files.get(file), self.ends.get(file)) else {
            return String::new();
        };
        format!("{}:{}", source.name, 1 + ends.partition_point(|end| *end < place.start))
    }
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is accepted, and said.
    Warning,
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Refused or said.
    pub severity: Severity,
    /// Stable name, `area.what`.
    pub code: &'static str,
    /// What is wrong, one line, no full stop.
    pub message: String,
    /// Where; `None` for the directory as a whole.
    pub place: Option<Span>,
    /// What is said under the marked text.
    pub label: String,
    /// A second place that belongs to it, with what is said there.
    pub related: Option<(Span, String)>,
    /// The way out, if we know it.
    pub help: Option<String>,
}

impl Problem {
    /// What makes the configuration unusable.
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

    /// What is better known than not.
    #[must_use]
    pub fn warning(code: &'static str, place: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, place, message) }
    }

    /// What is wrong with the directory or a file as a whole.
    #[must_use]
    pub fn nowhere(code: &'static str, message: impl Into<String>) -> Self {
        let start = Span { file: 0, start: 0, end: 0 };
        Self { place: None, ..Self::error(code, start, message) }
    }

    /// Says something under the marked text.
    #[must_use]
    pub fn with_label(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    /// Names the way out.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Shows the second place that belongs to it.
    #[must_use]
    pub fn with_related(self, place: Span, label: impl Into<String>) -> Self {
        Self { related: Some((place, label.into())), ..self }
    }
}

/// Problems as they are found, without those that only follow from others.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Problem>,
    /// Values an earlier step has refused: what they mean is not worth a second complaint.
    struck: HashSet<Span>,
    /// Tables from which an earlier step has taken something out: what they lack proves nothing.
    damaged: HashSet<Span>,
}

impl Findings {
    /// Adds a problem, unless the very place has been struck.
    pub(super) fn push(&mut self, problem: Problem) {
        if problem.place.is_none_or(|place| !self.struck.contains(&place)) {
            self.list.push(problem);
        }
    }

    /// Adds the problem of a value, and says no more about that value.
    pub(super) fn strike(&mut self, value: Span, problem: Problem) {
        self.push(problem);
        self.struck.insert(value);
    }

    /// Something was taken out of the table at `place`.
    pub(super) fn damage(&mut self, place: Span) {
        self.damaged.insert(place);
    }

    /// Whether something was taken out of the table at `place`.
    pub(super) fn is_damaged(&self, place: Span) -> bool {
        self.damaged.contains(&place)
    }

    /// Whether anything was taken out or left out anywhere.
    pub(super) fn any_damage(&self) -> bool {
        !self.damaged.is_empty() || !self.struck.is_empty()
    }

    /// Whether the configuration is refused.
    pub(super) fn refused(&self) -> bool {
        self.list.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// All of them: warnings first, so that errors stand next to the prompt; in the order of the
    /// files.
    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let mut list = self.list;
        list.sort_by_key(|problem| {
            let place = problem.place.map(|place| (place.file, place.start));
            (std::cmp::Reverse(problem.severity), place)
        });
        list
    }
}
