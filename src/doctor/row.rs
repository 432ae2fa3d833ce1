//! What came of a check.

use serde::Serialize;

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowState {
    /// As it should be.
    Good,
    /// It works, or may work; somebody should look at it.
    Warning,
    /// It does not work.
    Failed,
    /// Worth knowing; nothing that can be judged from here.
    Note,
    /// Nobody said where it is.
    NotConfigured,
}

impl RowState {
    /// The word in the table, up to four letters.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warn",
            Self::Failed => "FAIL",
            Self::Note => "note",
            Self::NotConfigured => "-",
        }
    }
}

/// Rows that stand together, and can be asked for together.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowGroup {
    /// The files.
    Configuration,
    /// Addresses the gateway listens on.
    Listeners,
    /// Certificates it shows.
    Certificates,
    /// The public name and what the platforms call.
    Public,
    /// What is behind it.
    Components,
    /// The way out to the platforms.
    Proxy,
    /// What Hybrid Chat needs besides.
    Services,
    /// The machine.
    Host,
}

impl RowGroup {
    /// All, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::Configuration,
        Self::Listeners,
        Self::Certificates,
        Self::Public,
        Self::Components,
        Self::Proxy,
        Self::Services,
        Self::Host,
    ];

    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Listeners => "listeners",
            Self::Certificates => "certificates",
            Self::Public => "public",
            Self::Components => "components",
            Self::Proxy => "proxy",
            Self::Services => "services",
            Self::Host => "host",
        }
    }
}

/// The requirement of a row about checks that have no rows of their own.
pub const UNFINISHED_REQUIREMENT: &str = "unfinished";

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DoctorRow {
    /// Which rows it stands with.
    pub group: RowGroup,
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub state: RowState,
    /// Address, name or file that was looked at; may be empty.
    pub target: String,
    /// What was found, without a full stop.
    pub found: String,
    /// What to do about it; empty if nothing.
    pub next: String,
    /// The row of the product's requirements it answers: `installation 1`, `connectivity 6`,
    /// `finesse 1`, or a heading.
    pub requirement: &'static str,
    /// How far the other side's clock is ahead of ours, in milliseconds, if it said what time it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_ahead_ms: Option<i64>,
}

impl DoctorRow {
    /// A row that is good so far.
    #[must_use]
    pub fn new(
        group: RowGroup,
        requirement: &'static str,
        name: impl Into<String>,
        target: impl Into<String>,
    ) -> Self {
        Self {
            group,
            name: name.into(),
            state: RowState::Good,
            target: target.into(),
            found: String::new(),
            next: String::new(),
            requirement,
            clock_ahead_ms: None,
        }
    }

    /// Whether it stands for checks that did not come to an end.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.requirement == UNFINISHED_REQUIREMENT
    }

    /// The same row, good.
    #[must_use]
    pub fn good(self, found: impl Into<String>) -> Self {
        Self { state: RowState::Good, found: found.into(), ..self }
    }

    /// The same row, worth knowing.
    #[must_use]
    pub fn note(self, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { state: RowState::Note, found: found.into(), next: next.into(), ..self }
    }

    /// The same row, to be looked at.
    #[must_use]
    pub fn warning(self, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { state: RowState::Warning, found: found.into(), next: next.into(), ..self }
    }

    /// The same row, failed.
    #[must_use]
    pub fn failed(self, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { state: RowState::Failed, found: found.into(), next: next.into(), ..self }
    }

    /// The same row, of something nobody has named; `line` would name it.
    #[must_use]
    pub fn not_configured(self, line: &str) -> Self {
        Self {
            state: RowState::NotConfigured,
            found: "not configured".to_owned(),
            next: format!("to have it looked at, add to [doctor]: {line}"),
            ..self
        }
    }

    /// The same row, a warning instead of a failure, because `why`.
    #[must_use]
    pub fn excused(mut self, why: &str) -> Self {
        if self.state == RowState::Failed {
            self.state = RowState::Warning;
            self.found = format!("{} ({why})", self.found);
        }
        self
    }
}
