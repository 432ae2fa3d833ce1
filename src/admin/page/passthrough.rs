//! Passthrough section of the status page: connections of each route, and rejections by reason.

use maud::{Markup, html};

use super::PageView;
use super::sections::{MAX_TABLE_ROWS, NOTHING, PageTable};

pub(super) fn section(view: &PageView<'_>) -> Markup {
    let all = &view.status.passed_through;
    if all.is_empty() {
        return NOTHING;
    }
    let table = PageTable {
        id: "passed",
        title: "Passed through",
        about: "Connections forwarded without terminating TLS, since their route was configured",
        columns: &["Route", "Goes to", "Open", "Forwarded", "Rejected", "Profile"],
    };
    let rows = html! {
        @for one in all.iter().take(MAX_TABLE_ROWS) {
            tr {
                th scope="row" { (one.route) }
                td { (one.upstream.as_deref().unwrap_or("–")) }
                td { (one.open) }
                td { (one.passed) }
                td class="why" {
                    @for (index, (word, count)) in one.rejected.iter().enumerate() {
                        @if index > 0 { ", " }
                        (word) " " (count) "×"
                    }
                    @if one.rejected.is_empty() { "–" }
                }
                td { (one.profile) }
            }
        }
    };
    table.section(&rows, &NOTHING)
}
