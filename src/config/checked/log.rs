//! Checked form of the log settings.

use std::path::PathBuf;

/// The access log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccessLog {
    /// Destination of the lines.
    pub target: LogTarget,
    /// Format of the lines.
    pub format: LogFormat,
    /// Query parameters whose values are masked, in addition to the built-in ones.
    pub mask: Vec<String>,
    /// Paths with segments that are masked.
    pub mask_path: Vec<String>,
}

/// Destination of access-log lines.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum LogTarget {
    /// No lines are written.
    Off,
    /// Standard output, the container convention.
    #[default]
    Stdout,
    /// A file, opened for appending.
    File {
        /// Absolute, or relative to the working directory.
        path: PathBuf,
        /// Rotation of the file; `None`: the file is not rotated.
        rotation: Option<LogRotation>,
    },
}

/// Size at which a new log file is started, and number of old ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogRotation {
    /// Largest size of a file, in bytes.
    pub size: u64,
    /// Full files kept beside the current one, at least 1.
    pub keep: u32,
    /// Whether the operator configured this bound. If so, lines are dropped when the file cannot be
    /// renamed; by default the file grows.
    pub strict: bool,
}

/// Format of access-log lines.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// One flat JSON object per line.
    #[default]
    Json,
    /// JSON with the field names of the Elastic Common Schema.
    Ecs,
    /// The `combined` format of nginx and Apache.
    Combined,
}

/// Settings of the gateway's own log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OperationalLog {
    /// Lowest level that is logged.
    pub level: LogLevel,
    /// JSON instead of text.
    pub json: bool,
}

/// Lowest level of the gateway's own log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogLevel {
    /// Failures on which someone must act.
    Error,
    /// Also conditions on which someone may have to act.
    Warn,
    /// Also changes of state.
    #[default]
    Info,
    /// Also details for developers.
    Debug,
    /// Also every step.
    Trace,
}
