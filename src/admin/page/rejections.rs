//! Rejections by reason, each with its routes.

use maud::{Markup, html};

use crate::message::Reason;

use super::PageView;
use super::sections::{NOTHING, PageTable};

/// Routes named for a reason.
const MAX_ROUTES_NAMED: usize = 5;

pub(super) fn section(view: &PageView<'_>) -> Markup {
    let table = PageTable {
        id: "rejected",
        title: "Rejected",
        about: "Requests and connections ended by the gateway since its start, by reason word of the access log",
        columns: &["Reason", "Count", "Routes", "Meaning"],
    };
    let rows = html! {
        @for (word, count) in &view.figures.refused {
            @let reason = Reason::ALL.iter().find(|reason| reason.word() == word);
            tr {
                th scope="row" { (word) }
                td { (format!("{count:.0}")) }
                td class="why" { (routes(view, word)) }
                td class="why" { (reason.map_or("", |reason| reason.sentence())) }
            }
        }
        @if view.figures.refused.is_empty() { tr { td colspan="4" { "nothing" } } }
    };
    table.section(&rows, &NOTHING)
}

/// The routes with the most rejections, and the number of others. Rejections without a route are
/// not listed.
fn routes(view: &PageView<'_>, word: &str) -> Markup {
    let of = view.status.rejected.iter().filter(|one| one.reason == word);
    let all = of.clone().count();
    html! {
        @for (index, one) in of.take(MAX_ROUTES_NAMED).enumerate() {
            @if index > 0 { ", " }
            (one.profile) " " (one.route) " " (one.count) "×"
        }
        @if all == 0 {
            "–"
        } @else if all > MAX_ROUTES_NAMED {
            " and " (all - MAX_ROUTES_NAMED) " more: see "
            code { "app-gateway status --json" }
        }
    }
}
