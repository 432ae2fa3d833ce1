//! Problems in a configuration, where they are, and how they are drawn.

/// Where something is written: a file of [`Sources`] and a byte range in it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Place {
    /// Index into [`Sources::files`].
    pub file: u16,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// The files a configuration was read from.
#[derive(Debug, Default)]
pub struct Sources {
    /// Name as shown to the operator, and text.
    pub files: Vec<Source>,
}

/// One file.
#[derive(Debug)]
pub struct Source {
    /// Path as shown to the operator, e.g. `config/internet.toml`.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl Sources {
    /// `file:line`, the way compilers and editors write a place; lines count from 1.
    #[must_use]
    pub fn locate(&self, place: Place) -> String {
        let Some(source) = self.files.get(usize::from(place.file)) else { return String::new() };
        let before = source.text.as_bytes().iter().take(place.start as usize);
        format!("{}:{}", source.name, 1 + before.filter(|b| **b == b'\n').count())
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
    pub place: Option<Place>,
    /// What is said under the marked text.
    pub label: String,
    /// A second place that belongs to it, with what is said there.
    pub related: Option<(Place, String)>,
    /// The way out, if we know it.
    pub help: Option<String>,
}
