//! `app-gateway man`: writes the manual pages, generated from the command line.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap_mangen::Man;

use super::{Exit, command, say, say_wrong};

pub(super) fn man(out: &Path) -> ExitCode {
    let mut command = command().disable_help_subcommand(true);
    // Gives the commands their full names, such as `app-gateway-check`.
    command.build();
    match fs::create_dir_all(out).and_then(|()| write(&command, out)) {
        Ok(pages) => {
            say(&format!("{pages} pages in {}\n", out.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say_wrong(&format!("{} cannot be written: {error}", out.display()));
            ExitCode::FAILURE
        }
    }
}

/// Writes the page of a command and those of its subcommands; returns their number.
fn write(command: &clap::Command, out: &Path) -> io::Result<usize> {
    let mut pages = 1;
    for subcommand in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        pages += write(subcommand, out)?;
    }
    let man = Man::new(command.clone()).manual("app-gateway manual");
    let mut page = Vec::new();
    man.render(&mut page)?;
    page.extend_from_slice(exit_status().as_bytes());
    fs::write(out.join(man.get_filename()), page)?;
    Ok(pages)
}

/// The section EXIT STATUS, in roff.
fn exit_status() -> String {
    let mut out = String::from(".SH \"EXIT STATUS\"\n");
    for exit in Exit::ALL {
        let meaning = exit.meaning().replace('`', "").replace('\\', "\\e").replace('-', "\\-");
        // Writing to a String cannot fail.
        let _ = writeln!(out, ".TP\n\\fB{}\\fR\n{meaning}", exit.code());
    }
    out
}
