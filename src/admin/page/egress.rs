//! Forward proxy section of the status page: requests by rule, and open tunnels.

use std::fmt::Write as _;

use crate::units::display_bytes;

use super::PageView;
use super::escape::Escaped;
use super::problems::ago;
use super::sections::{MAX_TABLE_ROWS, TABLE_END, row, table};

/// Tunnels shown: the page has other things to show, and a command for all of them.
const MAX_TUNNELS_SHOWN: usize = 20;

pub(super) fn section(out: &mut String, view: &PageView<'_>) {
    let Some(tunnels) = &view.status.tunnels else { return };
    let about = "Requests since the start";
    table(out, ("egress", "Forward proxy", about), &["Rule", "Result", "Requests"]);
    for ((rule, result), count) in
        view.figures.egress.iter().filter(|one| *one.1 > 0.0).take(MAX_TABLE_ROWS)
    {
        let result = if result == "ok" { "served" } else { result };
        row(out, &[rule, result, &format!("{count:.0}")]);
    }
    out.push_str(TABLE_END);
    let about = format!("{} are open; the oldest first", tunnels.open);
    let columns = ["Client", "User", "Destination", "Rule", "Opened", "Sent", "Received"];
    table(out, ("tunnels", "Tunnels of the forward proxy", &about), &columns);
    for one in tunnels.shown.iter().take(MAX_TUNNELS_SHOWN) {
        row(
            out,
            &[
                &one.client,
                one.user.as_deref().unwrap_or("–"),
                &one.destination,
                &one.rule,
                &ago(&one.since, view.now),
                &display_bytes(one.request_bytes),
                &display_bytes(one.response_bytes),
            ],
        );
    }
    let more = tunnels.open.saturating_sub(tunnels.shown.len().min(MAX_TUNNELS_SHOWN));
    if more > 0 {
        let _ = write!(
            out,
            "<tr><td colspan=\"7\">and {} more: see <code>app-gateway egress list</code></td></tr>",
            Escaped(more)
        );
    }
    out.push_str(TABLE_END);
}
