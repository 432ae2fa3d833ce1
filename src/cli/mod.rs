//! The command line: parses arguments, runs commands, sets exit codes.
//!
//! [`Exit`] lists the exit codes.

mod admin_client;
mod check;
mod completions;
mod config_show;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod drift;
mod egress;
mod endpoint;
mod exit;
mod explain;
mod healthcheck;
mod man;
mod plan;
mod ports;
mod reload;
mod run;
mod secret;
mod signal;
mod status;
mod upgrade;
mod why_polling;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

pub use exit::Exit;

use crate::config::{self, Config, RejectedConfig};
use crate::units;

/// Reverse proxy at the edge of Hybrid Chat.
#[derive(Parser)]
#[command(name = "app-gateway", version, about, long_about = None, max_term_width = 100)]
struct Cli {
    /// Check the configuration and exit, as `nginx -t` does (same as `check`)
    #[arg(short = 't')]
    test: bool,
    /// Send a signal to the running gateway, as `nginx -s` does
    #[arg(short = 's', value_name = "SIGNAL", value_enum)]
    signal: Option<signal::Signal>,
    #[command(flatten)]
    directory: Directory,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args, Clone)]
struct Directory {
    /// Configuration directory [default: /etc/app-gateway if it exists, else ./config]
    #[arg(short = 'c', long = "config", value_name = "DIR", global = true)]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until signalled (TERM or INT: drain and exit; again: at once; QUIT: no time limit)
    Run,
    /// Check a configuration directory, including certificates, and print every problem
    Check {
        /// The directory; the same as -c
        directory: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The old spelling of `--json`
        #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "", value_parser = format_is_json)]
        format: Option<String>,
    },
    /// Show the effective configuration
    #[command(subcommand)]
    Config(config_show::ConfigCommand),
    /// Explain how a request would be decided, and by which line of which file
    Explain(explain::Explain),
    /// Show the traffic through the forward proxy of the running gateway
    #[command(subcommand)]
    Egress(egress::EgressCommand),
    /// Test the requirements of the product from this host: components, certificates, proxy, ports
    ///
    /// Opens and closes connections; changes nothing. Exit code 0: nothing failed (warnings do not
    /// count), 1: something failed.
    Doctor(doctor::DoctorArgs),
    /// Print the connections that firewalls must allow, as a table for their administrators
    Ports(ports::TableFormat),
    /// Create the secret that several gateways share (`shared-secret-file`)
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Print the JSON Schema of the configuration files, for editors
    Schema,
    /// Run a demo on this host: development certificates, a Hybrid Chat stand-in, the gateway
    #[cfg(feature = "demo")]
    Demo {
        /// Directory for the development certificates
        #[arg(long, value_name = "DIR", default_value = "certs-example")]
        directory: PathBuf,
    },
    /// Show the changes a directory would make in the running gateway, without applying them
    ///
    /// The gateway reads the directory itself, validates it as a reload does, and lists the
    /// differences, the open connections they affect, and the recent requests that would be
    /// answered differently. Exit code 0: no changes, 3: changes, 1: it would be rejected.
    Plan {
        /// The directory [default: the one the gateway runs on]
        directory: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Reload the configuration of the running gateway and print the changes
    Reload {
        /// Roll back after this time (such as 60s) unless `app-gateway confirm` comes first
        #[arg(long, value_name = "TIME", value_parser = time)]
        confirm: Option<String>,
    },
    /// Keep the configuration that `reload --confirm` applied
    Confirm {
        /// Roll back at once instead (the same as `rollback`)
        #[arg(long)]
        abort: bool,
    },
    /// Return to the previous configuration, regardless of the files
    Rollback,
    /// Take an endpoint of an upstream out of use, or put it back
    ///
    /// The state lasts until the gateway is restarted, and survives reloads.
    Endpoint {
        /// The new state
        #[arg(value_enum)]
        action: endpoint::EndpointAction,
        /// Name of the upstream
        upstream: String,
        /// Host and port of the endpoint, as `app-gateway status` shows them
        endpoint: Option<String>,
    },
    /// Upgrade the binary: start a new process and hand the listening sockets to it, as USR2 does
    ///
    /// Waits until the new process serves. If it fails to, the old one continues unchanged, and the
    /// reason is printed.
    Upgrade,
    /// Show the state of the running gateway: configuration, endpoints, recent reloads
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare the configuration of other gateways with the running one
    ///
    /// Exit code 0: they are equal, 1: they differ, 4: that is unknown.
    Drift {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Explain why Socket.IO sessions of the running gateway stay on polling, and how to fix it
    WhyPolling {
        /// One session with its timeline: its id (`sid` in the client's requests), or the short
        /// form in the access log. The id itself is not sent to the gateway.
        #[arg(allow_hyphen_values = true)]
        session: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the running gateway whether it is ready (exit code 0) or not (1)
    Healthcheck,
    /// Print a completion script for a shell
    ///
    /// For example: app-gateway completions bash > /etc/bash_completion.d/app-gateway
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: completions::Shell,
    },
    /// Write the manual pages, one for each command
    Man {
        /// Directory for the pages, e.g. /usr/local/share/man/man1; it is created if missing
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// The command line of the program, for its completions, its manual and its reference.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program with these arguments, the first being its name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Printing help fails only if standard output is closed.
            let _ = error.print();
            // 0 for help, 2 for mistakes.
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let directory = cli.directory.config.clone();
    match cli.command {
        None if cli.test => check::check(&chosen(directory), false),
        None if let Some(signal) = cli.signal => signal::signal(&chosen(directory), signal),
        None => {
            let _ = command().print_help();
            Exit::Usage.into()
        }
        Some(Command::Run) => run::run(&chosen(directory)),
        Some(Command::Check { directory: named, json, format: _ }) => {
            check::check(&chosen(named.or(directory)), json)
        }
        Some(Command::Config(command)) => config_show::config(&chosen(directory), &command),
        Some(Command::Explain(asked)) => explain::explain(&chosen(directory), &asked),
        Some(Command::Doctor(asked)) => doctor::doctor(&chosen(directory), &asked),
        Some(Command::Ports(form)) => ports::ports(&chosen(directory), &form),
        Some(Command::Egress(asked)) => egress::egress(&chosen(directory), &asked),
        Some(Command::Secret(asked)) => secret::secret(&asked),
        Some(Command::Schema) => {
            say(&format!("{:#}\n", config::schema()));
            ExitCode::SUCCESS
        }
        #[cfg(feature = "demo")]
        Some(Command::Demo { directory: certificates }) => {
            demo::demo(&chosen(directory), &certificates)
        }
        Some(Command::Plan { directory: named, json }) => {
            plan::plan(&chosen(directory), named, json)
        }
        Some(Command::Reload { confirm }) => reload::reload(&chosen(directory), confirm),
        Some(Command::Confirm { abort: false }) => reload::confirm(&chosen(directory)),
        Some(Command::Upgrade) => upgrade::upgrade(&chosen(directory)),
        Some(Command::Confirm { abort: true } | Command::Rollback) => {
            reload::rollback(&chosen(directory))
        }
        Some(Command::Endpoint { action, upstream, endpoint }) => {
            endpoint::endpoint(&chosen(directory), action, upstream, endpoint)
        }
        Some(Command::Status { json }) => status::status(&chosen(directory), json),
        Some(Command::Drift { json }) => drift::drift(&chosen(directory), json),
        Some(Command::WhyPolling { session, json }) => {
            why_polling::why_polling(&chosen(directory), session.as_deref(), json)
        }
        Some(Command::Healthcheck) => healthcheck::healthcheck(&chosen(directory)),
        Some(Command::Completions { shell }) => completions::completions(shell),
        Some(Command::Man { out }) => man::man(&out),
    }
}

/// A duration of at least a second and at most a day, as written.
fn time(text: &str) -> Result<String, String> {
    match units::parse_duration(text)?.as_secs() {
        1..=86_400 => Ok(text.to_owned()),
        _ => Err("from 1s to 24h".to_owned()),
    }
}

/// Rejects `--format`, which had one name among many.
fn format_is_json(_: &str) -> Result<String, String> {
    Err("`--format json` is now `--json`; text is the default".to_owned())
}

/// The beginning of a text, if it has more than `most` characters.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The directory asked for, or the first of the usual ones.
fn chosen(asked: Option<PathBuf>) -> PathBuf {
    let system = Path::new("/etc/app-gateway");
    asked.unwrap_or_else(
        || if system.is_dir() { system.to_owned() } else { PathBuf::from("config") },
    )
}

/// The environment as `${NAME}` sees it. A value that is not UTF-8 reads as absent.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Loads a directory for a command that is about something else: warnings are not drawn.
fn load_quietly(directory: &Path, env: config::Env<'_>) -> Result<Config, ()> {
    match config::load(directory, env) {
        Ok(loaded) => Ok(loaded.config),
        Err(RejectedConfig { sources, problems, .. }) => {
            complain(&sources, &problems);
            Err(())
        }
    }
}

/// Prints a line for each kind of configuration problem, after the answer of a command about
/// something else.
fn summarise(sources: &config::problem::Sources, problems: &[config::problem::Problem]) {
    if let Some(summary) = config::summary(sources, problems) {
        say_wrong(&summary);
    }
}

fn complain(sources: &config::problem::Sources, problems: &[config::problem::Problem]) {
    if !problems.is_empty() {
        say_wrong(&config::draw(sources, problems, colour(&io::stderr())));
    }
}

/// Whether a stream is a terminal that wants colour (<https://no-color.org>).
fn colour(stream: &impl io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes to standard output. A closed pipe is not an error.
fn say(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a line to standard error.
fn say_wrong(text: &str) {
    let _ = writeln!(io::stderr(), "{}", text.trim_end());
}

/// Writes an answer of the gateway to standard output; see [`escaped`].
fn say_escaped(text: &str) {
    say(&escaped(text));
}

/// Writes an answer of the gateway to standard error; see [`escaped`].
fn say_wrong_escaped(text: &str) {
    say_wrong(&escaped(text));
}

/// Writes control characters of a text, except line ends and tabs, as `\u001b`. A terminal would
/// obey them, and the text may come from a client or from a process that took the gateway's place.
fn escaped(text: &str) -> std::borrow::Cow<'_, str> {
    let is_obeyed = |c: char| {
        let is_bidi = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        (c.is_control() && !matches!(c, '\n' | '\t')) || is_bidi
    };
    if !text.contains(is_obeyed) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_obeyed(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_gateway_answers_is_obeyed_by_a_terminal() {
        assert_eq!(escaped("plain\n\ttext, ünïcode"), "plain\n\ttext, ünïcode");
        assert_eq!(escaped("\u{1b}[2Ja\rb\u{9b}c\u{202e}"), "\\u001b[2Ja\\u000db\\u009bc\\u202e");
    }

    /// Whether the parser accepts these arguments for a command that explains.
    fn explains(arguments: &str) -> bool {
        let all = ["app-gateway", "explain"].into_iter().chain(arguments.split_whitespace());
        Cli::try_parse_from(all).is_ok_and(|cli| matches!(cli.command, Some(Command::Explain(_))))
    }

    #[test]
    fn explain_takes_a_request_a_way_out_or_a_way_through() {
        assert!(explains("GET https://chat.example.com/ --from 192.0.2.1"));
        assert!(explains("egress api.twilio.com:443 --client 10.0.0.5"));
        assert!(explains("egress api.twilio.com:443 --client 10.0.0.5 --user ccm --certificate a"));
        assert!(explains("tcp chat.example.com:8443 --client 10.0.0.5") && explains("tcp :8443"));
        for wrong in
            ["", "GET", "egress", "egress a:443", "egress a:443 --client ccm", "tcp", "GET a b"]
        {
            assert!(!explains(wrong), "{wrong}");
        }
    }
}
