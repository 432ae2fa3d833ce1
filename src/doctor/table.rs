//! Formats rows as text, 80 columns wide. A word shows the state; colour only repeats it.
//!
//! Does not depend on the destination; the caller decides about colour.

use std::fmt::Write as _;

use super::row::{DoctorRow, RowGroup, RowState};

/// Columns of everything here.
pub const TABLE_COLUMNS: usize = 80;

/// Column of the finding: after two blanks, the state and the name.
const RESULT_COLUMN: usize = 2 + 6 + 25;

/// Column of the advice.
const ADVICE_INDENT: usize = 8;

/// The rows as a table, those of a group together.
#[must_use]
pub fn text(rows: &[DoctorRow], colour: bool) -> String {
    let mut out = String::new();
    for group in RowGroup::ALL {
        let mut rows = rows.iter().filter(|row| row.group == group).peekable();
        if rows.peek().is_some() {
            if !out.is_empty() {
                out.push('\n');
            }
            let _ = writeln!(out, "{}", paint(group.word(), "1", colour));
        }
        for row in rows {
            write_row(&mut out, row, colour);
        }
    }
    out
}

fn write_row(out: &mut String, row: &DoctorRow, colour: bool) {
    let found = match (row.target.is_empty(), row.found.is_empty()) {
        (true, _) => row.found.clone(),
        (false, true) => row.target.clone(),
        (false, false) => format!("{}: {}", row.target, row.found),
    };
    // Text to copy must not be wrapped, so it gets lines of its own.
    let long =
        found.split_whitespace().any(|word| word.chars().count() > TABLE_COLUMNS - RESULT_COLUMN);
    let begin = if long { ADVICE_INDENT } else { RESULT_COLUMN };
    let mut lines = wrap(&found, TABLE_COLUMNS - begin).into_iter();
    let word = row.state.word();
    let state = format!("{}{}", paint(word, code(row.state), colour), " ".repeat(6 - word.len()));
    let name = &row.name;
    if long || name.chars().count() >= 25 {
        let _ = writeln!(out, "  {state}{name}");
    } else {
        let first = lines.next().unwrap_or_default();
        let _ = writeln!(out, "{}", format!("  {state}{name:<25}{first}").trim_end());
    }
    for line in lines {
        let _ = writeln!(out, "{:begin$}{line}", "");
    }
    for (index, line) in wrap(&row.next, TABLE_COLUMNS - ADVICE_INDENT - 3).iter().enumerate() {
        let mark = if index == 0 { "-> " } else { "   " };
        let _ = writeln!(out, "{:ADVICE_INDENT$}{mark}{line}", "");
    }
}

/// Number of rows in each state, in one line.
#[must_use]
pub fn summary(rows: &[DoctorRow]) -> String {
    let count = |state| rows.iter().filter(|row| row.state == state).count();
    let mut parts = vec![format!("{} ok", count(RowState::Good))];
    for (state, one, many) in [
        (RowState::Failed, "failed", "failed"),
        (RowState::Warning, "warning", "warnings"),
        (RowState::Note, "note", "notes"),
        (RowState::NotConfigured, "not configured", "not configured"),
    ] {
        match count(state) {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            number => parts.push(format!("{number} {many}")),
        }
    }
    parts.join(", ")
}

fn code(state: RowState) -> &'static str {
    match state {
        RowState::Good => "32",
        RowState::Warning => "33",
        RowState::Failed => "1;31",
        RowState::Note => "36",
        RowState::NotConfigured => "2",
    }
}

fn paint(text: &str, code: &str, colour: bool) -> String {
    if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// A table of cells. Columns are as wide as their content; flexible columns are wrapped, and longer
/// words are cut.
#[must_use]
pub fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    laid_out(head, rows, &vec![1; head.len()])
}

/// The same with whole words, so that a host name can be copied. The table is wider than usual if it
/// has to be.
#[must_use]
pub fn columns_of_words(head: &[&str], rows: &[Vec<String>]) -> String {
    let longest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
        let words = cells.chain(head.get(column).copied()).flat_map(str::split_whitespace);
        words.map(|word| word.chars().count()).max().unwrap_or(1)
    };
    let least: Vec<usize> = (0..head.len()).map(longest).collect();
    laid_out(head, rows, &least)
}

/// `least`: how narrow each column may become.
fn laid_out(head: &[&str], rows: &[Vec<String>], least: &[usize]) -> String {
    let widest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.len())).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..head.len()).map(widest).collect();
    let room = TABLE_COLUMNS.saturating_sub(2 * head.len().saturating_sub(1));
    while widths.iter().sum::<usize>() > room {
        let wide = widths.iter_mut().zip(least).filter(|(width, least)| **width > **least);
        let Some((most, _)) = wide.max_by_key(|(width, _)| **width) else { break };
        *most -= 1;
    }
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let rule = widths.iter().map(|width| "-".repeat(*width)).collect();
    for row in [&head, &rule].into_iter().chain(rows) {
        let cells: Vec<_> =
            row.iter().zip(&widths).map(|(cell, width)| cut(cell, *width)).collect();
        for line in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
            let mut text = String::new();
            for (cell, width) in cells.iter().zip(&widths) {
                let part = cell.get(line).map_or("", String::as_str);
                let _ = write!(text, "{part:<width$}  ");
            }
            let _ = writeln!(out, "{}", text.trim_end());
        }
    }
    out
}

/// Breaks a text at blanks into lines of up to `width` characters; a word that is longer is one.
#[must_use]
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The same, for cells: a word that is longer is cut.
fn cut(text: &str, width: usize) -> Vec<String> {
    let letters: Vec<_> = wrap(text, width).iter().map(|l| l.chars().collect::<Vec<_>>()).collect();
    letters.iter().flat_map(|line| line.chunks(width.max(1))).map(String::from_iter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<DoctorRow> {
        let row = |group, name: &str, target: &str| DoctorRow::new(group, "", name, target);
        vec![
            row(RowGroup::Components, "chat-server", "10.0.0.5:8444").good("TLS 1.3, 300 days"),
            row(RowGroup::Components, "customer-channel-manager", "10.0.0.5:8451").failed(
                "connection refused, and a text that is so long that it needs a second line",
                "start it, or correct its port in `endpoints` of [upstream.customer-channel-manager]",
            ),
            row(RowGroup::Components, "a-name-that-needs-a-line-of-its-own", "[::1]:1").good("x"),
            row(RowGroup::Public, "webhook", "https://chat.example.com/a/path/that/is/to/be/registered")
                .note("", "there"),
            row(RowGroup::Services, "sql", "").not_configured("sql = [\"sql.example.com\"]"),
            row(RowGroup::Host, "clock", "").warning("3 s behind", "set it"),
        ]
    }

    #[test]
    fn fits_the_terminal_and_names_every_state() {
        let text = text(&rows(), false);
        assert!(text.lines().all(|line| line.chars().count() <= TABLE_COLUMNS), "{text}");
        let expected = "\
public
  note  webhook
        https://chat.example.com/a/path/that/is/to/be/registered
        -> there

components
  ok    chat-server              10.0.0.5:8444: TLS 1.3, 300 days
  FAIL  customer-channel-manager 10.0.0.5:8451: connection refused, and a text
                                 that is so long that it needs a second line
        -> start it, or correct its port in `endpoints` of
           [upstream.customer-channel-manager]
  ok    a-name-that-needs-a-line-of-its-own
                                 [::1]:1: x

services
  -     sql                      not configured
        -> to check it, add to [doctor]: sql = [\"sql.example.com\"]

host
  warn  clock                    3 s behind
        -> set it
";
        assert_eq!(text, expected);
        assert_eq!(summary(&rows()), "2 ok, 1 failed, 1 warning, 1 note, 1 not configured");
    }

    #[test]
    fn colour_changes_nothing_but_the_colour() {
        let coloured = text(&rows(), true);
        assert!(coloured.contains("\u{1b}[1;31mFAIL\u{1b}[0m"));
        let mut plain = String::new();
        for part in coloured.split('\u{1b}') {
            plain.push_str(
                part.strip_prefix('[').and_then(|p| p.split_once('m')).map_or(part, |p| p.1),
            );
        }
        assert_eq!(plain, text(&rows(), false));
    }

    #[test]
    fn cells_are_wrapped_where_the_table_is_too_wide() {
        let long = "words ".repeat(12);
        let rows = vec![vec!["a".to_owned(), long.clone(), long], vec!["b".to_owned()]];
        let text = columns(&["one", "two", "three"], &rows);
        assert!(text.lines().all(|line| line.chars().count() <= TABLE_COLUMNS), "{text}");
        assert!(text.starts_with("one  two"), "{text}");
        let name = "a-host-with-a-long-name.of-a-long-domain.example.com";
        let rows = vec![vec![format!("who ({name})"), format!("to {name}"), "words ".repeat(9)]];
        assert_eq!(cut("abcdef gh", 4), ["abcd", "ef", "gh"]);
        let text = columns_of_words(&["one", "two", "three"], &rows);
        assert_eq!(text.matches(name).count(), 2, "{text}");
        assert_eq!(wrap("abcdef gh i", 4), ["abcdef", "gh i"]);
        assert_eq!(wrap("", 4), Vec::<String>::new());
    }
}
