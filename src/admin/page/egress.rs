//! Forward proxy section of the status page: requests by rule, and open tunnels.

use maud::{Markup, html};

use crate::admin::report::TunnelList;
use crate::units::display_bytes;

use super::PageView;
use super::problems::ago;
use super::sections::{MAX_TABLE_ROWS, NOTHING, PageTable, row};

/// Tunnels shown: the page has other things to show, and a command for all of them.
const MAX_TUNNELS_SHOWN: usize = 20;

pub(super) fn section(view: &PageView<'_>) -> Markup {
    let Some(tunnels) = &view.status.tunnels else { return NOTHING };
    html! { (rules(view)) (open_tunnels(view, tunnels)) }
}

fn rules(view: &PageView<'_>) -> Markup {
    let table = PageTable {
        id: "egress",
        title: "Forward proxy",
        about: "Requests since the start",
        columns: &["Rule", "Result", "Requests"],
    };
    let used = view.figures.egress.iter().filter(|one| *one.1 > 0.0).take(MAX_TABLE_ROWS);
    let rows = html! {
        @for ((rule, result), count) in used {
            @let result = if result == "ok" { "served" } else { result };
            (row(&[rule, result, &format!("{count:.0}")]))
        }
    };
    table.section(&rows, &NOTHING)
}

fn open_tunnels(view: &PageView<'_>, tunnels: &TunnelList) -> Markup {
    let about = format!("{} are open; the oldest first", tunnels.open);
    let table = PageTable {
        id: "tunnels",
        title: "Tunnels of the forward proxy",
        about: &about,
        columns: &["Client", "User", "Destination", "Rule", "Opened", "Sent", "Received"],
    };
    let more = tunnels.open.saturating_sub(tunnels.shown.len().min(MAX_TUNNELS_SHOWN));
    let rows = html! {
        @for one in tunnels.shown.iter().take(MAX_TUNNELS_SHOWN) {
            (row(&[
                &one.client,
                one.user.as_deref().unwrap_or("–"),
                &one.destination,
                &one.rule,
                &ago(&one.since, view.now),
                &display_bytes(one.request_bytes),
                &display_bytes(one.response_bytes),
            ]))
        }
        @if more > 0 {
            tr {
                td colspan="7" {
                    "and " (more) " more: see " code { "app-gateway egress list" }
                }
            }
        }
    };
    table.section(&rows, &NOTHING)
}
