//! The logs: where they go, and how they are written.

use std::path::PathBuf;

/// The access log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccessLog {
    /// Where its lines go.
    pub target: LogTarget,
    /// How they are written.
    pub format: LogFormat,
    /// Query parameters whose values are masked, besides those that always are.
    pub mask: Vec<String>,
    /// Paths with segments that are masked.
    pub mask_path: Vec<String>,
}

/// Where access-log lines go.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum LogTarget {
    /// Nowhere.
    Off,
    /// Standard output, the container convention.
    #[default]
    Stdout,
    /// A file, opened for appending.
    File {
        /// Absolute, or relative to the working directory.
        path: PathBuf,
        /// When a new one is started; `None`: never.
        rotation: Option<Rotation>,
    },
}

/// When a new log file is started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rotation {
    /// Largest size of a file, in bytes.
    pub size: u64,
    /// Full files kept beside the present one, at least 1.
    pub keep: u32,
    /// Whether the bound was asked for: if the file cannot be renamed, lines are dropped. Else, as by
    /// default, the file grows.
    pub strict: bool,
}

/// How access-log lines are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// One flat JSON object per line.
    #[default]
    Json,
    /// JSON in the names of the Elastic Common Schema.
    Ecs,
    /// As nginx and Apache write their `combined`.
    Combined,
}

/// How the gateway speaks about itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OperationalLog {
    /// From this level on.
    pub level: LogLevel,
    /// As JSON, instead of text.
    pub json: bool,
}

/// How much the gateway says about itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogLevel {
    /// What needs somebody.
    Error,
    /// And what may need somebody.
    Warn,
    /// And what happens.
    #[default]
    Info,
    /// And details.
    Debug,
    /// And every step.
    Trace,
}
