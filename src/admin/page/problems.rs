//! Problems of the gateway in sentences, each with its remedy.

use crate::admin::report::{ReloadAttempt, ReloadResult};
use crate::generation::drift::{DriftPeer, PeerState};
use crate::units::display_span;
use crate::upstream::snapshot::{EndpointSnapshot, Snapshot};

use super::PageView;
use super::escape::figure;

/// Days before its end from which a certificate is a problem.
const CERTIFICATE_DAYS: i64 = 14;
/// Requests per second below which a share of errors says nothing.
const MIN_REQUEST_RATE: f64 = 0.1;

/// One thing that is wrong.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct PageProblem {
    /// Description of the problem.
    pub what: String,
    /// Advice on how to fix it.
    pub remedy: String,
}

fn trouble(what: impl Into<String>, remedy: impl Into<String>) -> PageProblem {
    PageProblem { what: what.into(), remedy: remedy.into() }
}

/// All that is wrong, worst first.
pub(super) fn troubles(view: &PageView<'_>) -> Vec<PageProblem> {
    let mut all = Vec::new();
    if let Some(why) = &view.unready {
        all.push(trouble(
            format!("New work is not taken: {why}."),
            match why.as_str() {
                "draining" => "The process exits when its connections are closed; `app-gateway upgrade` or the service manager started this.",
                "starting" => "Wait; the log names the reason.",
                _ => "Bring an endpoint of that upstream up; `ready` in gateway.toml requires it.",
            },
        ));
    }
    for upstream in &view.status.upstreams {
        endpoints(upstream, view.now, &mut all);
    }
    all.extend(view.status.peers.iter().filter_map(peer));
    all.extend(refusal(view).map(|attempt| {
        trouble(
            format!(
                "The last reload ({}) was refused {}: generation {} still serves.",
                attempt.trigger,
                ago(&attempt.time, view.now),
                view.status.generation
            ),
            "Correct the lines shown under Reloads; then run `app-gateway check`.",
        )
    }));
    certificates(view, &mut all);
    let rate = view.past.now(&view.figures);
    if rate.requests > MIN_REQUEST_RATE && rate.errors * 20.0 > rate.requests {
        all.push(trouble(
            format!(
                "{} % of the requests of the last minute were answered with 5xx.",
                figure(rate.errors / rate.requests * 100.0)
            ),
            "The routes below show where; the access log has a reason word on each line.",
        ));
    }
    if view.past.log_lost(&view.figures) > 0.0 {
        all.push(trouble(
            "Access-log lines are being lost.",
            "The disk is full or slow: make room, or move the log.",
        ));
    }
    all
}

/// Problem of a peer gateway, or of its comparison.
fn peer(peer: &DriftPeer) -> Option<PageProblem> {
    let (name, count) = (&peer.peer, peer.differences.len());
    let (what, remedy) = match peer.state {
        PeerState::Waiting | PeerState::Alike => return None,
        PeerState::Differs => (
            format!("Gateway {name} differs from this one: {count} differences."),
            "`app-gateway drift` names them; list intended differences in `ignore`.",
        ),
        PeerState::Clock => (
            format!("Gateway {name} cannot be compared: {}.", peer.detail),
            "Set the clocks of both hosts.",
        ),
        PeerState::Unreachable | PeerState::Unverified | PeerState::Itself => (
            format!("Gateway {name} cannot be compared: {}.", peer.detail),
            "See whether it runs, has the same shared secret and a route with `drift = true`.",
        ),
    };
    Some(trouble(what, remedy))
}

fn endpoints(upstream: &Snapshot, now: i64, all: &mut Vec<PageProblem>) {
    let name = &upstream.upstream;
    for endpoint in &upstream.endpoints {
        let remedy = match endpoint.state.as_str() {
            "down" => {
                "See whether the component runs and its port can be reached from here: `app-gateway doctor`."
            }
            "ejected" => {
                "Requests to it failed, so it is ejected for a while; see the log of the component."
            }
            _ => continue,
        };
        all.push(trouble(
            format!("{name} endpoint {} is {}.", endpoint.endpoint, state(endpoint, now)),
            remedy,
        ));
    }
    if upstream.on_backup {
        all.push(trouble(
            format!("{name} uses its backups: {}.", upstream.why),
            "It returns when a primary endpoint is up, or at once with `app-gateway endpoint`.",
        ));
    }
}

/// The state of an endpoint, for how long, and why.
pub(super) fn state(endpoint: &EndpointSnapshot, now: i64) -> String {
    let mut text = endpoint.state.clone();
    if endpoint.since > 0 && matches!(endpoint.state.as_str(), "up" | "down") {
        text = format!("{text} for {}", display_span(now - endpoint.since));
    }
    let why = match endpoint.state.as_str() {
        "down" => endpoint.fault.as_deref().unwrap_or(&endpoint.why),
        "drain" | "maintenance" => "taken out by the operator",
        _ => "",
    };
    if why.is_empty() { text } else { format!("{text}: {why}") }
}

/// The latest attempt, if it was refused.
pub(super) fn refusal<'a>(view: &'a PageView<'_>) -> Option<&'a ReloadAttempt> {
    view.status.reloads.back().filter(|attempt| attempt.result == ReloadResult::Refused)
}

/// Age of a time stamp, in words.
pub(super) fn ago(time: &str, now: i64) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(then) => format!("{} ago", display_span(now - then.as_second())),
        Err(_) => "at an unknown time".to_owned(),
    }
}

fn certificates(view: &PageView<'_>, all: &mut Vec<PageProblem>) {
    for (name, _, end) in &view.figures.certificates {
        let days = days_left(*end, view.now);
        let what = match days {
            ..0 => format!("Certificate {name} has expired: clients refuse it."),
            0..CERTIFICATE_DAYS => format!("Certificate {name} ends in {days} days."),
            _ => continue,
        };
        all.push(trouble(
            what,
            "Put the renewed files in place; the gateway loads them by itself.",
        ));
    }
}

/// Whole days until then.
pub(super) fn days_left(end: f64, now: i64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
    let end = end as i64;
    (end - now).div_euclid(86_400)
}
