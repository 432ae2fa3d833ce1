//! Rejections by reason, each with its routes.

use std::fmt::Write as _;

use crate::message::Reason;

use super::PageView;
use super::escape::Escaped;
use super::sections::{TABLE_END, table};

/// Routes named for a reason.
const MAX_ROUTES_NAMED: usize = 5;

pub(super) fn section(out: &mut String, view: &PageView<'_>) {
    let about = "Requests and connections ended by the gateway since its start, by reason word of the access log";
    let columns = ["Reason", "How often", "Of which routes", "That is"];
    table(out, ("refused", "Refused", about), &columns);
    for (word, count) in &view.figures.refused {
        let reason = Reason::ALL.iter().find(|reason| reason.word() == word);
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{count:.0}</td><td class=\"why\">",
            Escaped(word)
        );
        routes(out, view, word);
        let sentence = reason.map_or("", |reason| reason.sentence());
        let _ = write!(out, "</td><td class=\"why\">{}</td></tr>", Escaped(sentence));
    }
    if view.figures.refused.is_empty() {
        out.push_str("<tr><td colspan=\"4\">nothing</td></tr>");
    }
    out.push_str(TABLE_END);
}

/// The routes with the most rejections, and the number of others. Rejections without a route are
/// not listed.
fn routes(out: &mut String, view: &PageView<'_>, word: &str) {
    let of = view.status.refused.iter().filter(|one| one.reason == word);
    let all = of.clone().count();
    for (index, one) in of.take(MAX_ROUTES_NAMED).enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        let _ =
            write!(out, "{comma}{} {} {}×", Escaped(&one.profile), Escaped(&one.route), one.count);
    }
    match all {
        0 => out.push('–'),
        _ if all > MAX_ROUTES_NAMED => {
            let _ = write!(
                out,
                " and {} more: see <code>app-gateway status --json</code>",
                all - MAX_ROUTES_NAMED
            );
        }
        _ => {}
    }
}
