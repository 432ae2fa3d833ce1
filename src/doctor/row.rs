//! Result row of a check.

use serde::Serialize;

/// State of a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowState {
    /// The requirement is met.
    Good,
    /// It works, or may work; an administrator should look at it.
    Warning,
    /// It does not work.
    Failed,
    /// Worth knowing; nothing that can be judged from here.
    Note,
    /// The configuration does not contain its address.
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
    /// The public name and the webhook URLs.
    Public,
    /// Components behind the gateway.
    Components,
    /// The platforms through the forward proxy.
    Proxy,
    /// Other services that Hybrid Chat needs.
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

    /// Name of the group.
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
    /// Name of the checked item.
    pub name: String,
    /// State of the item.
    pub state: RowState,
    /// Address, name or file that was looked at; may be empty.
    pub target: String,
    /// Finding, without a full stop.
    pub found: String,
    /// Advice; empty if there is none.
    pub next: String,
    /// The row of the product's requirements it answers: `installation 1`, `connectivity 6`,
    /// `finesse 1`, or a heading.
    pub requirement: &'static str,
    /// Difference of the server's clock to ours, in milliseconds, if its answer has a time.
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

    /// The same row for an item that is not configured; `line` would configure it.
    #[must_use]
    pub fn not_configured(self, line: &str) -> Self {
        Self {
            state: RowState::NotConfigured,
            found: "not configured".to_owned(),
            next: format!("to check it, add to [doctor]: {line}"),
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
