//! Closed lists: exit codes, fields of the access log, reason words, response flags, metrics.

use app_gateway::cli::Exit;
use app_gateway::message::Reason;
use app_gateway::message::reason::{Flag, Origin};
use app_gateway::telemetry::Metrics;
use app_gateway::telemetry::line::Key;

use super::{code, table};

pub(super) fn exit_codes() -> String {
    let rows = Exit::ALL.map(|exit| [exit.code().to_string(), exit.meaning().to_owned()]);
    table(["exit code", "meaning"], rows)
}

pub(super) fn log_fields() -> String {
    let time = ["time", "@timestamp", "Time at which the line was written, in UTC."];
    let fields = Key::ALL.iter().map(|key| [key.name(), key.ecs_name(), key.meaning()]);
    let rows = std::iter::once(time).chain(fields).map(|[name, ecs, meaning]| {
        let ecs = if name == ecs { code(name) } else { code(ecs) };
        [code(name), ecs, meaning.to_owned()]
    });
    table(["field", "in `ecs`", "meaning"], rows)
}

pub(super) fn reasons() -> String {
    let rows = Reason::ALL.iter().map(|reason| {
        // No status is logged for connections that end before there is a request.
        let status = if reason.code() == 0 { "-".to_owned() } else { reason.code().to_string() };
        let flag = reason.flag().letters().to_owned();
        [code(reason.word()), status, flag, reason.sentence().to_owned()]
    });
    table(["reason", "status", "flag", "meaning"], rows)
}

pub(super) fn flags() -> String {
    let rows = Flag::ALL.iter().map(|flag| {
        let origin = if flag.origin() == Origin::Envoy { "Envoy" } else { "app-gateway" };
        [code(flag.letters()), origin.to_owned(), flag.sentence().to_owned()]
    });
    table(["response flag", "letters of", "meaning"], rows)
}

pub(super) fn metrics() -> String {
    let metrics = Metrics::new(Reason::ALL.iter().map(|reason| reason.word()));
    // Two families of one name are the only error, and no gateway would start with them.
    let families = metrics.map(|metrics| metrics.families()).unwrap_or_default();
    let rows = families.into_iter().map(|family| {
        let labels: Vec<_> = family.labels.iter().map(|label| code(label)).collect();
        [code(&family.name), family.kind.to_owned(), labels.join(", "), family.help]
    });
    table(["metric", "type", "labels", "meaning"], rows)
}
