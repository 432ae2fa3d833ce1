//! Log settings of `[gateway]`.

use std::ops::RangeInclusive;
use std::path::Path;

use crate::config::checked::{
    AccessLog, LogFormat, LogLevel, LogRotation, LogTarget, OperationalLog,
};
use crate::config::file::{
    AccessLogFile, AccessLogFormatFile, AccessLogTable, GatewayFile, LevelFile, LogFormatFile,
    Rotate, RotateFile, Written,
};
use crate::config::problem::{Problem, Span};

use super::{Checker, value};

/// Permitted sizes of a log file. A smaller one is a typing mistake.
const FILE_SIZES: RangeInclusive<u64> = 64 * 1024..=1 << 40;

/// Permitted numbers of old files.
const KEEP_COUNTS: RangeInclusive<u64> = 1..=1000;

/// Default rotation of files.
const DEFAULT_ROTATION: LogRotation = LogRotation { size: 100 << 20, keep: 10, strict: false };

/// Default number of old files.
const DEFAULT_KEEP: usize = 10;

/// Settings of the gateway's own log.
pub(super) fn logging(body: &GatewayFile) -> OperationalLog {
    let level = match body.log_level.as_ref().map(|level| level.value) {
        Some(LevelFile::Error) => LogLevel::Error,
        Some(LevelFile::Warn) => LogLevel::Warn,
        None | Some(LevelFile::Info) => LogLevel::Info,
        Some(LevelFile::Debug) => LogLevel::Debug,
        Some(LevelFile::Trace) => LogLevel::Trace,
    };
    let json = matches!(&body.log_format, Some(Written { value: LogFormatFile::Json, .. }));
    OperationalLog { level, json }
}

impl Checker<'_> {
    pub(super) fn access_log(&mut self, written: Option<&Written<AccessLogFile>>) -> AccessLog {
        match written.map(|written| (&written.value, self.place(written))) {
            None => AccessLog::default(),
            Some((AccessLogFile::Word(word), place)) => {
                AccessLog { target: self.log_target(word, place), ..AccessLog::default() }
            }
            Some((AccessLogFile::Table(table), _)) => self.access_log_table(table),
        }
    }

    fn access_log_table(&mut self, table: &AccessLogTable) -> AccessLog {
        let mut target = self.log_target(&table.file.value, self.place(&table.file));
        if let Some(written) = &table.rotate {
            let configured = match &written.value {
                Rotate::Off => None,
                Rotate::Table(table) => Some(self.rotation(table)),
            };
            if let LogTarget::File { rotation, .. } = &mut target {
                *rotation = configured;
            } else if configured.is_some() {
                let message = "only a file can be rotated".to_owned();
                self.found.push(
                    Problem::error("access-log.rotate", self.place(written), message)
                        .with_label("there is no file")
                        .with_help("give `file` a path, or take `rotate` out"),
                );
            }
        }
        let format = match table.format.as_ref().map(|format| format.value) {
            None | Some(AccessLogFormatFile::Json) => LogFormat::Json,
            Some(AccessLogFormatFile::Ecs) => LogFormat::Ecs,
            Some(AccessLogFormatFile::Combined) => LogFormat::Combined,
        };
        let names = table.mask.iter().flat_map(|list| &list.value);
        let mask = names.map(|name| self.mask(name)).collect();
        let paths = table.mask_path.iter().flat_map(|list| &list.value);
        let mask_path = paths.map(|path| self.mask_path(path)).collect();
        AccessLog { target, format, mask, mask_path }
    }

    fn rotation(&mut self, written: &RotateFile) -> LogRotation {
        let size = self.size(Some(&written.size), *FILE_SIZES.start(), FILE_SIZES);
        let keep = self.count(written.keep.as_ref(), DEFAULT_KEEP, KEEP_COUNTS);
        LogRotation { size, keep: u32::try_from(keep).unwrap_or(u32::MAX), strict: true }
    }

    fn mask(&mut self, written: &Written<String>) -> String {
        let name = &written.value;
        if name.is_empty() || name.contains(['&', '=', '?', '#']) {
            let message = format!("`{name}` cannot be the name of a query parameter");
            self.found.push(
                Problem::error("access-log.mask", self.place(written), message)
                    .with_label("the part before the `=`, without `?` and `&`"),
            );
        }
        name.clone()
    }

    fn mask_path(&mut self, written: &Written<String>) -> String {
        let path = &written.value;
        let segments: Vec<_> = path.split('/').skip(1).collect();
        let odd = |segment: &&str| segment.contains('*') && !matches!(*segment, "*" | "**");
        let wrong = if !path.starts_with('/') || path.contains(['?', '#']) {
            Some("a path begins with `/`, and ends before the query")
        } else if segments.iter().any(odd) {
            Some("`*` matches a whole segment")
        } else if segments.iter().rev().skip(1).any(|segment| *segment == "**") {
            Some("`**` must be last; it matches all following segments")
        } else if !path.contains('*') {
            Some("no segment is masked: `*` or `**` is missing")
        } else {
            None
        };
        if let Some(label) = wrong {
            let message = format!("`{path}` is not a pattern for masked segments");
            self.found.push(
                Problem::error("access-log.mask-path", self.place(written), message)
                    .with_label(label)
                    .with_help("write it like `/rooms/*/files/*` or `/uploads/**`"),
            );
        }
        path.clone()
    }

    fn log_target(&mut self, word: &str, place: Span) -> LogTarget {
        match word {
            "stdout" => LogTarget::Stdout,
            "off" => LogTarget::Off,
            path if path.contains('/') => {
                let path = value::join(self.dir, path);
                if !path.parent().is_some_and(Path::is_dir) || path.is_dir() {
                    let message =
                        format!("the access log cannot be written to `{}`", path.display());
                    self.found.push(
                        Problem::error("gateway.access-log", place, message)
                            .with_label("its directory does not exist, or it is a directory itself")
                            .with_help("create the directory, or write \"stdout\""),
                    );
                }
                LogTarget::File { path, rotation: Some(DEFAULT_ROTATION) }
            }
            word => {
                let message = format!("`{word}` is neither \"stdout\", \"off\" nor a path");
                self.found.push(
                    Problem::error("gateway.access-log", place, message)
                        .with_label("a path has a `/` in it")
                        .with_help(format!(
                            "for a file in the configuration directory write `./{word}`"
                        )),
                );
                LogTarget::Stdout
            }
        }
    }
}
