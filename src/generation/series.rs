//! Warning about names that exceed `metrics-limit`.

use crate::config::problem::{Problem, Severity};
use crate::telemetry::LabelLimits;

/// The warning, if some names share the series `other`.
pub(super) fn over_limit(names: &LabelLimits, limit: usize) -> Option<Problem> {
    let [routes, listeners, upstreams, _] = names.over();
    let counts = [(routes, "routes"), (listeners, "listeners"), (upstreams, "upstreams")];
    let over = counts.iter().filter(|(count, _)| *count > 0);
    let over: Vec<_> = over.map(|(count, kind)| format!("{count} {kind}")).collect();
    (!over.is_empty()).then(|| Problem {
        severity: Severity::Warning,
        code: "gateway.metrics-limit",
        message: format!("{} are over `metrics-limit`, which is {limit}", over.join(" and ")),
        place: None,
        label: String::new(),
        related: None,
        help: Some(
            "they are counted together as `other`; raise it under `[gateway]` if your Prometheus \
             can take more series"
                .to_owned(),
        ),
    })
}
