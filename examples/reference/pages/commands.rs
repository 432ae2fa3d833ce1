//! Commands with their arguments and options, from clap.

use std::fmt::Write as _;

use app_gateway::cli;
use clap::{Arg, ArgAction, Command};

use super::{code, table};

/// An overview and one section for each command.
pub(super) fn sections() -> String {
    let mut root = cli::command().disable_help_subcommand(true).term_width(100);
    // Gives the commands their full names.
    root.build();
    let mut all = Vec::new();
    flatten(&root, &mut all);
    let overview = all.iter().skip(1).map(|command| {
        let name = full_name(command);
        let anchor = name.replace(' ', "-");
        [format!("[`{name}`](#{anchor})"), about(command)]
    });
    let mut out = table(["command", "purpose"], overview);
    for command in &all {
        section(command, &mut out);
    }
    out
}

fn flatten<'a>(command: &'a Command, all: &mut Vec<&'a Command>) {
    all.push(command);
    for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        flatten(one, all);
    }
}

fn full_name(command: &Command) -> String {
    command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

// Writing to a String cannot fail; that is what `let _` stands for here.
fn section(command: &Command, out: &mut String) {
    let _ = writeln!(out, "\n## {}\n", full_name(command));
    let about = match command.get_long_about() {
        Some(long) => long.to_string(),
        None => about(command),
    };
    let _ = writeln!(out, "{}\n", about.trim().replace('<', "\\<"));
    let usage = command.clone().render_usage().to_string();
    let _ = writeln!(out, "```text\n{}\n```", usage.trim_start_matches("Usage: ").trim());
    // `-c` and `--help` are the same everywhere.
    let is_root = command.get_bin_name().is_none_or(|name| !name.contains(' '));
    let is_own = |argument: &&Arg| {
        let is_help = matches!(
            argument.get_action(),
            ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
        );
        !argument.is_hide_set() && (is_root || !(is_help || argument.is_global_set()))
    };
    let rows: Vec<_> = command.get_arguments().filter(is_own).map(row).collect();
    if !rows.is_empty() {
        let _ = write!(out, "\n{}", table(["argument or option", "default", "meaning"], rows));
    }
}

fn row(argument: &Arg) -> [String; 3] {
    let mut meaning = match argument.get_long_help() {
        Some(help) => help.to_string(),
        None => argument.get_help().map(ToString::to_string).unwrap_or_default(),
    };
    meaning = meaning.split_whitespace().collect::<Vec<_>>().join(" ");
    let takes_value = argument.get_action().takes_values();
    let mut default = String::new();
    // A default that is not a fixed value stands in the help text.
    if let Some((text, stated)) = meaning.clone().split_once(" [default: ") {
        stated.trim_end_matches(']').clone_into(&mut default);
        text.clone_into(&mut meaning);
    } else if takes_value {
        let values = argument.get_default_values().iter();
        let values: Vec<_> = values.map(|value| code(&value.to_string_lossy())).collect();
        default = values.join(" ");
    }
    if takes_value {
        let values = argument.get_possible_values();
        let values: Vec<_> = values
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| {
                let help = value.get_help().map(|help| format!(": {help}")).unwrap_or_default();
                format!("`{}`{help}", value.get_name())
            })
            .collect();
        if !values.is_empty() {
            let _ = write!(meaning, ". {}", values.join("; "));
        }
    }
    [code(&spelling(argument, takes_value)), default, meaning]
}

/// An argument as it is typed: `-c, --config DIR`.
fn spelling(argument: &Arg, takes_value: bool) -> String {
    let value = argument.get_value_names().and_then(<[_]>::first).map(ToString::to_string);
    let value = value.unwrap_or_else(|| argument.get_id().as_str().to_uppercase());
    let mut names = Vec::new();
    names.extend(argument.get_short().map(|short| format!("-{short}")));
    names.extend(argument.get_long().map(|long| format!("--{long}")));
    match (names.is_empty(), takes_value) {
        (true, _) if argument.is_required_set() => value,
        (true, _) => format!("[{value}]"),
        (false, true) => format!("{} {value}", names.join(", ")),
        (false, false) => names.join(", "),
    }
}
