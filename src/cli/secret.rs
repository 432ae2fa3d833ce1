//! `app-gateway secret new`: creates a secret that gateways share.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use crate::tls::SharedSecrets;

use super::{say, say_wrong};

#[derive(Subcommand)]
pub(super) enum SecretCommand {
    /// Make a new one: on standard output, or as a file that only its owner can read
    New {
        /// The file; one that is there already is left alone
        file: Option<PathBuf>,
    },
}

pub(super) fn secret(asked: &SecretCommand) -> ExitCode {
    let SecretCommand::New { file } = asked;
    let made = SharedSecrets::random_line().and_then(|line| match file {
        None => {
            say(&format!("{line}\n"));
            Ok(())
        }
        Some(path) => {
            let failed = |error| format!("{} cannot be written: {error}", path.display());
            write(path, &line).map_err(failed)
        }
    });
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            say_wrong(&message);
            ExitCode::FAILURE
        }
    }
}

fn write(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_all()
}
