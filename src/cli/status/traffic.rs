//! Traffic sections of `status`: Socket.IO sessions, passthrough, rejections and open tunnels.
//!
//! The text is at most 80 columns wide. Details that do not fit are counted here and listed by
//! `status --json`.

use std::cmp::Reverse;
use std::fmt::Write as _;

use crate::admin::report::{
    PassthroughSummary, RejectionCount, SocketIoSummary, Status, TunnelList,
};
use crate::doctor::table::columns;
use crate::units::{display_bytes, display_span};

/// Most rows of a table.
const MAX_ROWS: usize = 10;

/// Most routes named for a reason.
const MAX_ROUTES_NAMED: usize = 3;

/// Lines about Socket.IO, each with its name.
pub(super) fn socket_io(told: &SocketIoSummary) -> Vec<(&'static str, String)> {
    let SocketIoSummary { sessions, causes, warnings } = told;
    let mut lines = Vec::new();
    if sessions.open() > 0 || !causes.is_empty() {
        let on = sessions.upgraded + sessions.direct;
        let (open, stuck) = (sessions.open(), sessions.stuck);
        let young = match sessions.polling {
            0 => String::new(),
            young => format!(", {young} too young to judge"),
        };
        lines.push((
            "Socket.IO",
            format!("{open} sessions: {on} on a WebSocket, {stuck} stuck on polling{young}"),
        ));
    }
    for one in causes {
        let ended = match one.ended {
            0 => String::new(),
            ended => format!(", {ended} that ended"),
        };
        lines.push(("", format!("{}: {} stuck{ended}", one.cause, one.stuck)));
    }
    if !causes.is_empty() {
        lines.push(("", "what to do: app-gateway why-polling".to_owned()));
    }
    lines.extend(warnings.iter().map(|warning| ("warning", warning.clone())));
    lines
}

/// The tables.
pub(super) fn tables(out: &mut String, status: &Status, now: i64) {
    passed_through(out, &status.passed_through);
    rejections(out, status);
    if let Some(tunnels) = &status.tunnels {
        tunnels_of(out, tunnels, now);
    }
}

/// Writes the first rows, and how many there are besides.
fn table(out: &mut String, head: &[&str], mut rows: Vec<Vec<String>>, all: usize) {
    if rows.is_empty() {
        return;
    }
    rows.truncate(MAX_ROWS);
    let more = all - rows.len();
    let _ = write!(out, "\n{}", columns(head, &rows));
    if more > 0 {
        let _ = writeln!(out, "and {more} more: app-gateway status --json");
    }
}

fn passed_through(out: &mut String, all: &[PassthroughSummary]) {
    let row = |one: &PassthroughSummary| {
        let refused = one.rejected.iter().map(|(word, count)| format!("{word} {count}x"));
        vec![
            format!("{} {}", one.profile, one.route),
            one.upstream.clone().unwrap_or_default(),
            one.open.to_string(),
            one.passed.to_string(),
            refused.collect::<Vec<_>>().join(", "),
        ]
    };
    let head = ["passed through", "to", "open", "forwarded", "rejected"];
    table(out, &head, all.iter().map(row).collect(), all.len());
}

/// Rejections by reason, the most frequent first, each with the routes that have the most.
fn rejections(out: &mut String, status: &Status) {
    let mut all: Vec<_> = status.rejected_in_all.iter().collect();
    all.sort_by_key(|(word, count)| (Reverse(**count), *word));
    let row = |(word, count): &(&String, &u64)| {
        let of = status.rejected.iter().filter(|one| one.reason == **word);
        let mut of: Vec<&RejectionCount> = of.collect();
        of.sort_by_key(|one| Reverse(one.count));
        let named = of.iter().take(MAX_ROUTES_NAMED);
        let mut routes: Vec<_> =
            named.map(|one| format!("{} {} {}x", one.profile, one.route, one.count)).collect();
        if of.len() > MAX_ROUTES_NAMED {
            routes.push(format!("and {} more", of.len() - MAX_ROUTES_NAMED));
        }
        vec![(*word).clone(), count.to_string(), routes.join(", ")]
    };
    let head = ["rejected since the start", "times", "by route"];
    table(out, &head, all.iter().map(row).collect(), all.len());
}

fn tunnels_of(out: &mut String, tunnels: &TunnelList, now: i64) {
    let rows = tunnels.shown.iter().map(|one| {
        let since = one.since.parse::<jiff::Timestamp>().map(|then| now - then.as_second());
        let client = match &one.user {
            Some(user) => format!("{} ({user})", one.client),
            None => one.client.clone(),
        };
        vec![
            client,
            one.destination.clone(),
            one.rule.clone(),
            since.map_or_else(|_| one.since.clone(), display_span),
            display_bytes(one.request_bytes),
            display_bytes(one.response_bytes),
        ]
    });
    let head = ["tunnels", "destination", "rule", "open for", "sent", "received"];
    table(out, &head, rows.collect(), tunnels.open);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::report::TunnelStatus;
    use crate::socketio::report::{CauseReport, SessionCounts};

    fn busy() -> Status {
        let refused = |reason: &str, route: &str, count| RejectionCount {
            reason: reason.to_owned(),
            profile: "internet".to_owned(),
            route: route.to_owned(),
            count,
        };
        let tunnel = |number: usize| TunnelStatus {
            id: number.to_string(),
            since: "1970-01-01T00:00:00Z".to_owned(),
            client: format!("[2001:db8:aaaa:bbbb:cccc:dddd:eeee:{number}]:54321"),
            user: (number == 0).then(|| "customer-channel-manager".to_owned()),
            destination: "a-rather-long-name-of-a-host.customers.example.com:443".to_owned(),
            rule: "channel-manager-to-the-platforms".to_owned(),
            request_bytes: 1536,
            response_bytes: 5 << 20,
        };
        let passed = |route: &str, upstream: Option<&str>| PassthroughSummary {
            profile: "internet".to_owned(),
            route: route.to_owned(),
            upstream: upstream.map(str::to_owned),
            open: 3,
            passed: 120,
            rejected: [("upstream_down".to_owned(), 4), ("upstream_connect_failed".to_owned(), 2)]
                .into(),
        };
        Status {
            rejected: ["/shut/", "/chat/api/", "/ccm/", "/mre/"]
                .map(|route| refused("route_denied", route, route.len() as u64))
                .to_vec(),
            rejected_in_all: [("no_route".to_owned(), 9), ("route_denied".to_owned(), 26)].into(),
            passed_through: vec![passed("chat.example.com", Some("sites")), passed("none", None)],
            tunnels: Some(TunnelList { open: 13, shown: (0..13).map(tunnel).collect() }),
            ..Status::default()
        }
    }

    #[test]
    fn what_goes_on_fits_into_eighty_columns() {
        let mut text = String::new();
        tables(&mut text, &busy(), 600);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("\nand 3 more: app-gateway status --json\n"), "{text}");
        for word in ["10 min", "1.5 KiB", "5 MiB", "/chat/api/ 10x", "and 1 more"] {
            // Cells are broken at blanks.
            let parts = word.split(' ').all(|part| text.contains(part));
            assert!(parts, "{word} is not in\n{text}");
        }
        let most = text.find("route_denied").unwrap();
        assert!(most < text.find("no_route").unwrap(), "the most frequent first:\n{text}");
    }

    #[test]
    fn where_nothing_goes_on_nothing_is_said() {
        let mut text = String::new();
        tables(&mut text, &Status::default(), 600);
        let tunnels = Some(TunnelList::default());
        tables(&mut text, &Status { tunnels, ..Status::default() }, 600);
        assert_eq!(text, "");
    }

    #[test]
    fn sessions_have_the_causes_that_keep_them_from_a_websocket() {
        let cause = |cause: &str, stuck, ended| CauseReport {
            cause: cause.to_owned(),
            stuck,
            ended,
            meaning: String::new(),
            next: String::new(),
        };
        let mut told = SocketIoSummary {
            sessions: SessionCounts { polling: 1, stuck: 2, upgraded: 3, direct: 4, ended: 5 },
            causes: vec![cause("upgrade_stripped", 2, 1), cause("never_tried", 0, 3)],
            warnings: vec!["too short".to_owned()],
        };
        let lines: Vec<_> = socket_io(&told).into_iter().map(|(_, value)| value).collect();
        assert_eq!(
            lines,
            [
                "10 sessions: 7 on a WebSocket, 2 stuck on polling, 1 too young to judge",
                "upgrade_stripped: 2 stuck, 1 that ended",
                "never_tried: 0 stuck, 3 that ended",
                "what to do: app-gateway why-polling",
                "too short",
            ]
        );
        told = SocketIoSummary {
            sessions: SessionCounts::default(),
            causes: Vec::new(),
            warnings: Vec::new(),
        };
        assert!(socket_io(&told).is_empty());
    }
}
