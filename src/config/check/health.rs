//! `[upstream.NAME.check]`: health checks of the endpoints.
//!
//! Produces a [`HealthCheck`]. No check is performed.

use std::time::Duration;

use crate::config::checked::{CheckKind, HealthCheck};
use crate::config::file::{CheckFile, CheckKindFile, InitialFile, UpstreamFile, Written};
use crate::config::problem::Problem;

use super::Checker;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
const MIN_INTERVAL: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_hours(1);

/// Default statuses that pass.
const DEFAULT_STATUSES: [(u16, u16); 1] = [(200, 399)];

impl Checker<'_> {
    pub(super) fn health_check(&mut self, upstream: &UpstreamFile) -> Option<HealthCheck> {
        let Some(file) = upstream.check.as_ref().map(|check| &check.value) else {
            // Without a check the return of a primary endpoint would not be noticed.
            let announces = upstream.proxy_protocol.is_some();
            return upstream.backup.as_ref().map(|_| connecting(announces));
        };
        let backups = upstream.backup.iter().flat_map(|list| &list.value);
        let mut all = upstream.endpoints.value.iter().chain(backups);
        let all_tls = all.all(|endpoint| endpoint.value.starts_with("https://"));
        let port = file.port.as_ref().map(|written| self.number(Some(written), 443, 1..=65_535));
        let plain = self.plain_check(file, all_tls);
        let kind = match (file.kind.as_ref().map(|kind| kind.value), &file.path) {
            (Some(CheckKindFile::Tls), _) if !all_tls => {
                self.check_of_plain(file);
                CheckKind::Tcp
            }
            (Some(CheckKindFile::Http), None) => {
                self.check_without_path(file);
                CheckKind::Tcp
            }
            (Some(CheckKindFile::Http) | None, Some(path)) => self.http_check(file, path),
            (None, _) if plain => CheckKind::Tcp,
            (Some(CheckKindFile::Tls) | None, _) => CheckKind::Tls,
            (Some(CheckKindFile::Tcp), _) => CheckKind::Tcp,
        };
        if !matches!(kind, CheckKind::Http { .. }) {
            self.needless(file);
        }
        let interval = self.duration(file.interval.as_ref(), DEFAULT_INTERVAL, MIN_INTERVAL..=HOUR);
        let timeout = self.duration(
            file.timeout.as_ref(),
            DEFAULT_TIMEOUT,
            MIN_INTERVAL / 10..=Duration::from_mins(5),
        );
        Some(HealthCheck {
            kind,
            port: port.and_then(|port| u16::try_from(port).ok()),
            plain,
            announces: file.proxy_protocol.as_ref().map_or_else(
                || upstream.proxy_protocol.is_some() && file.port.is_none(),
                |written| written.value,
            ),
            interval,
            timeout,
            rise: self.number_u32(file.rise.as_ref(), 2, 1..=100),
            fall: self.number_u32(file.fall.as_ref(), 3, 1..=100),
            initially_up: !matches!(
                file.initial.as_ref().map(|initial| initial.value),
                Some(InitialFile::Down)
            ),
        })
    }

    /// Whether the check omits TLS although the endpoint uses it.
    fn plain_check(&mut self, file: &CheckFile, all_tls: bool) -> bool {
        let Some(written) = &file.tls else { return false };
        let tls_only =
            matches!(file.kind.as_ref().map(|kind| kind.value), Some(CheckKindFile::Tls));
        let wrong = match written.value {
            true if !all_tls => {
                Some(("an `http://` endpoint has no TLS settings", "leave `tls` out"))
            }
            false if tls_only => {
                Some(("a handshake without TLS", "leave `tls` out, or write `kind = \"tcp\"`"))
            }
            false if file.port.is_none() => Some((
                "the endpoint's own port speaks TLS",
                "name the port that does not, with `port`",
            )),
            _ => None,
        };
        if let Some((label, help)) = wrong {
            let message = "this check cannot be made";
            let problem = Problem::error("check.tls", self.place(written), message);
            self.found.push(problem.with_label(label).with_help(help));
        }
        !written.value
    }

    fn http_check(&mut self, file: &CheckFile, path: &Written<String>) -> CheckKind {
        let plain = path.value.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        if !path.value.starts_with('/') || !plain {
            let message = format!("`{}` is not the path of a request", path.value);
            let problem = Problem::error("check.path", self.place(path), message);
            self.found.push(
                problem
                    .with_label("it starts with `/`; other characters are written as %XX")
                    .with_help("write the component's health path, like `/api/SystemInfo`"),
            );
        }
        if let Some(host) = &file.host {
            let plain =
                host.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
            if host.value.is_empty() || !plain {
                let message = format!("`{}` is not a host", host.value);
                self.found.push(Problem::error("check.host", self.place(host), message));
            }
        }
        CheckKind::Http {
            path: path.value.clone(),
            host: file.host.as_ref().map(|host| host.value.clone()),
            status: file
                .status
                .as_ref()
                .map_or(DEFAULT_STATUSES.to_vec(), |written| self.statuses(written)),
            body: file.body.as_ref().map_or(String::new(), |body| body.value.clone()),
        }
    }

    fn statuses(&mut self, written: &Written<String>) -> Vec<(u16, u16)> {
        statuses(&written.value).unwrap_or_else(|part| {
            let message = format!("`{part}` is neither a status nor a range of them");
            let problem = Problem::error("check.status", self.place(written), message);
            let label = "statuses are numbers from 100 to 599";
            self.found
                .push(problem.with_label(label).with_help("write `status = \"200-299, 404\"`"));
            DEFAULT_STATUSES.to_vec()
        })
    }

    fn check_without_path(&mut self, file: &CheckFile) {
        if let Some(kind) = &file.kind
            && !self.found.is_damaged(self.place(kind))
        {
            self.found.push(
                Problem::error("check.path", self.place(kind), "an HTTP check needs a path")
                    .with_label("`path` is missing")
                    .with_help("add `path = \"/\"`, or write `kind = \"tls\"`"),
            );
        }
    }

    fn check_of_plain(&mut self, file: &CheckFile) {
        if let Some(kind) = &file.kind {
            self.found.push(
                Problem::error("check.kind", self.place(kind), "an `http://` endpoint has no TLS")
                    .with_label("no TLS handshake is possible")
                    .with_help("write `kind = \"tcp\"`, or leave `kind` out"),
            );
        }
    }

    /// Reports keys that only apply to HTTP checks.
    fn needless(&mut self, file: &CheckFile) {
        let keys = [
            ("path", file.path.as_ref()),
            ("host", file.host.as_ref()),
            ("status", file.status.as_ref()),
            ("body", file.body.as_ref()),
        ];
        let with_path = file.kind.as_ref().is_some_and(|kind| kind.value == CheckKindFile::Http);
        for (key, written) in keys {
            let Some(written) = written.filter(|_| !with_path) else { continue };
            let message = format!("`{key}` only applies to HTTP checks");
            let problem = Problem::error("check.needless", self.place(written), message);
            self.found.push(
                problem
                    .with_label("this check sends no request")
                    .with_help(format!("leave `{key}` out, or add a `path`")),
            );
        }
    }
}

/// The default check of upstreams that have backups.
fn connecting(announces: bool) -> HealthCheck {
    HealthCheck {
        kind: CheckKind::Tls,
        port: None,
        plain: false,
        announces,
        interval: DEFAULT_INTERVAL,
        timeout: DEFAULT_TIMEOUT,
        rise: 2,
        fall: 3,
        initially_up: true,
    }
}

/// Parses `200-299, 404`.
///
/// # Errors
///
/// The invalid part.
pub(super) fn statuses(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let status =
        |text: &str| text.trim().parse().ok().filter(|status| (100..=599).contains(status));
    text.split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (status(first), status(last)) {
                (Some(first), Some(last)) if first <= last => Ok((first, last)),
                _ => Err(part.trim().to_owned()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_statuses() {
        assert_eq!(statuses("200"), Ok(vec![(200, 200)]));
        assert_eq!(statuses(" 200-399,404 "), Ok(vec![(200, 399), (404, 404)]));
        for (bad, part) in [("", ""), ("99", "99"), ("300-200", "300-200"), ("200,x", "x")] {
            assert_eq!(statuses(bad), Err(part.to_owned()));
        }
    }
}
