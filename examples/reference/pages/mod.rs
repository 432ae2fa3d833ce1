//! The generated parts of the reference pages.
//!
//! A page holds a part between the comments `<!-- generated: NAME -->` and `<!-- end -->`; the text
//! around it is written by hand.

mod commands;
mod keys;
mod lists;

use std::fs;
use std::path::{Path, PathBuf};

/// A page of the reference with its present and its regenerated text.
pub(super) struct Page {
    /// Path of the page.
    pub(super) path: PathBuf,
    /// Text in the file.
    pub(super) old: String,
    /// Text with every part regenerated.
    pub(super) new: String,
}

impl Page {
    /// Whether the file differs from the code.
    pub(super) fn is_outdated(&self) -> bool {
        self.old != self.new
    }
}

/// The generated parts: page, name, text.
fn parts() -> Vec<(&'static str, &'static str, String)> {
    vec![
        ("cli.md", "commands", commands::sections()),
        ("exit-codes.md", "exit codes", lists::exit_codes()),
        ("configuration.md", "keys", keys::sections()),
        ("access-log.md", "fields", lists::log_fields()),
        ("reason-codes.md", "reasons", lists::reasons()),
        ("reason-codes.md", "response flags", lists::flags()),
        ("metrics.md", "metrics", lists::metrics()),
    ]
}

/// Regenerates the pages below `root`, the directory of the project.
///
/// # Errors
///
/// A page cannot be read, or lacks the comments around a part.
pub(super) fn regenerated(root: &Path) -> Result<Vec<Page>, String> {
    let mut pages: Vec<Page> = Vec::new();
    for (name, part, text) in parts() {
        let path = root.join("docs/reference").join(name);
        if pages.last().is_none_or(|page| page.path != path) {
            let old = fs::read_to_string(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            pages.push(Page { path, new: old.clone(), old });
        }
        let Some(page) = pages.last_mut() else { continue };
        page.new = replaced(&page.new, part, &text)
            .map_err(|message| format!("{}: {message}", page.path.display()))?;
    }
    Ok(pages)
}

/// `page` with `text` as its generated part `name`.
fn replaced(page: &str, name: &str, text: &str) -> Result<String, String> {
    const END: &str = "<!-- end -->";
    let begin = format!("<!-- generated: {name} -->\n");
    let (before, rest) =
        page.split_once(&begin).ok_or_else(|| format!("there is no line {}", begin.trim_end()))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| format!("{begin} has no {END}"))?;
    Ok(format!("{before}{begin}\n{}\n\n{END}{after}", text.trim()))
}

/// A Markdown table.
fn table<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut out = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(N));
    for row in rows {
        out.push('|');
        for cell in row {
            out.push(' ');
            out.push_str(&cell.replace('|', "\\|"));
            out.push_str(if cell.is_empty() { "|" } else { " |" });
        }
        out.push('\n');
    }
    out
}

/// Text as Markdown code; nothing for no text.
fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}
