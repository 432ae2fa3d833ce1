//! Passthrough section of the status page: connections of each route, and rejections by reason.

use std::fmt::Write as _;

use super::PageView;
use super::escape::Escaped;
use super::sections::{MAX_TABLE_ROWS, TABLE_END, table};

pub(super) fn section(out: &mut String, view: &PageView<'_>) {
    let all = &view.status.passed_through;
    if all.is_empty() {
        return;
    }
    let about = "Connections forwarded without terminating TLS, since their route was configured";
    let columns = ["Route", "Goes to", "Open", "Passed on", "Not passed on", "Profile"];
    table(out, ("passed", "Passed through", about), &columns);
    for one in all.iter().take(MAX_TABLE_ROWS) {
        let goes = one.upstream.as_deref().unwrap_or("–");
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td class=\"why\">",
            Escaped(&one.route),
            Escaped(goes),
            one.open,
            one.passed
        );
        for (index, (word, count)) in one.refused.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let _ = write!(out, "{comma}{} {count}×", Escaped(word));
        }
        if one.refused.is_empty() {
            out.push('–');
        }
        let _ = write!(out, "</td><td>{}</td></tr>", Escaped(&one.profile));
    }
    out.push_str(TABLE_END);
}
