//! `app-gateway config show`: prints the effective configuration of a directory.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use crate::config::{self, EffectiveConfig, LoadedConfig, RejectedConfig};

use super::{complain, environment, say, say_wrong};

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the effective configuration as TOML: all files in one, defaults included
    ///
    /// Variables of the environment are expanded, defaults are marked, and defaults that depend on
    /// other settings are comments. Passwords and other secrets are shown as `***`. `check` accepts
    /// the text again; relative paths start at the directory it is saved in.
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn config(directory: &Path, command: &ConfigCommand) -> ExitCode {
    let ConfigCommand::Show { json } = command;
    let config = match config::load(directory, &environment) {
        Ok(LoadedConfig { config, .. }) => config,
        Err(RejectedConfig { sources, problems, .. }) => {
            complain(&sources, &problems);
            return ExitCode::FAILURE;
        }
    };
    let Some(effective) = EffectiveConfig::new(&config.sources, directory, &environment) else {
        say_wrong(
            "the defaults of this configuration cannot be shown, which is a fault of the program",
        );
        return ExitCode::FAILURE;
    };
    if *json {
        say(&format!("{:#}\n", effective.to_json()));
    } else {
        say(&format!(
            "# Effective configuration of {}. Relative paths start there.\n{}",
            directory.display(),
            effective.to_toml()
        ));
    }
    ExitCode::SUCCESS
}
