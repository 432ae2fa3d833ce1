//! Administrative state of endpoints, as set by operators.

use std::sync::Arc;

use crate::upstream::{AdminState, Upstream};

use super::CommandOptions;

/// Sets the administrative state of an endpoint. The result is for the client of the admin API.
///
/// # Errors
///
/// The fault of the command, in a sentence for the client.
pub(super) fn assign(
    upstreams: &[Arc<Upstream>],
    question: &CommandOptions,
) -> Result<String, String> {
    let name = question.upstream.as_deref().unwrap_or_default();
    let upstream = upstreams.iter().find(|upstream| *upstream.name == *name).ok_or_else(|| {
        let names: Vec<_> = upstreams.iter().map(|upstream| &*upstream.name).collect();
        format!("no upstream is called `{name}`; there is {}", names.join(", "))
    })?;
    let duty = match question.duty.as_deref().unwrap_or_default() {
        "failback" => return fail_back(upstream),
        "up" => AdminState::Up,
        "drain" => AdminState::Drain,
        "maintenance" => AdminState::Maintenance,
        other => return Err(format!("`{other}` is neither up, drain, maintenance nor failback")),
    };
    let wanted = question.endpoint.as_deref().unwrap_or_default();
    let bare = wanted.split_once("://").map_or(wanted, |(_, rest)| rest).trim_end_matches('/');
    let mut all = upstream.endpoints.iter().enumerate();
    let (index, endpoint) =
        all.find(|(_, endpoint)| *endpoint.label == *bare).ok_or_else(|| {
            let labels: Vec<_> = upstream.endpoints.iter().map(|one| &*one.label).collect();
            format!("`{wanted}` is no endpoint of `{name}`; there is {}", labels.join(", "))
        })?;
    endpoint.health.assign(duty);
    tracing::info!(upstream = name, endpoint = bare, "by command: {}", duty.word());
    let now = upstream.duty(index);
    if now != duty {
        return Err(format!(
            "the configuration has `{}` for {bare} and takes precedence; change it and reload",
            now.word()
        ));
    }
    let open = endpoint.health.open();
    Ok(match duty {
        AdminState::Up => format!("{bare} is used again while it is up"),
        AdminState::Drain => {
            format!("{bare} gets nothing new; {open} requests and WebSockets are open")
        }
        AdminState::Maintenance => {
            format!("{bare} gets nothing; {open} requests and WebSockets are open")
        }
    })
}

fn fail_back(upstream: &Upstream) -> Result<String, String> {
    let name = &upstream.name;
    if !upstream.upstream_state.tiers.on_backup() {
        return Err(format!("`{name}` does not use its backups"));
    }
    upstream.upstream_state.tiers.request_failback();
    Ok(format!("`{name}` uses its primary endpoints again as soon as one is up"))
}
