//! `app-gateway completions`: prints completion scripts for shells.

use std::process::ExitCode;

use clap::ValueEnum;

use super::{command, say};

/// A shell with completion scripts.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Shell {
    /// Bash, with bash-completion
    Bash,
    /// Zsh
    Zsh,
    /// Fish
    Fish,
}

pub(super) fn completions(shell: Shell) -> ExitCode {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut command = command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut command, name, &mut script);
    say(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
