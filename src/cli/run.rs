//! `app-gateway run`: starts the gateway.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::admin::socket;
use crate::config::problem::{Problem, Sources};
use crate::config::{self, Config, LoadedConfig, RejectedConfig, RootPolicy, Verify};
use crate::generation::{Generation, compile, load};
use crate::message::Reason;
use crate::net::listen::raise_open_files;
use crate::supervisor::privileges::{self, UserAccount};
use crate::supervisor::watch::ConfigWatcher;
use crate::supervisor::{
    ConfigSource, GatewayEnd, InheritedState, ProgramArgs, RunningGateway, start,
};
use crate::telemetry::{Logging, Metrics};
use crate::tls;

use super::{Exit, check, colour, environment, say_wrong};

pub(super) fn run(directory: &Path) -> ExitCode {
    // Before there is another thread.
    if let Err(message) = leave_root(directory) {
        say_wrong(&message);
        return Exit::Config.into();
    }
    let logging = Logging::init();
    let code = start_from(directory, &logging);
    logging.finish();
    code
}

/// Sees to it that root does not run the gateway, unless the configuration wants that. As another user the
/// program begins anew, and this does not return.
///
/// # Errors
///
/// Why it cannot run, in words.
pub(super) fn leave_root(directory: &Path) -> Result<(), String> {
    if !privileges::is_unwanted_root() {
        return Ok(());
    }
    // The supervisor loads the configuration again and reports its problems then.
    let Ok(LoadedConfig { config, .. }) = config::load(directory, &environment) else {
        return Ok(());
    };
    match &config.gateway.root {
        RootPolicy::RunAs(user) => {
            let failed = |error| format!("app-gateway does not start: {error}");
            let account = UserAccount::find(user).map_err(failed)?;
            socket::prepare(&config.socket, directory, account.owner());
            Err(failed(account.execute(std::env::args_os())))
        }
        RootPolicy::Allow => Ok(()),
        RootPolicy::Refuse => Err(privileges::refusal(directory)),
    }
}

fn start_from(directory: &Path, logging: &Logging) -> ExitCode {
    let inheritance = match InheritedState::receive() {
        Ok(inheritance) => inheritance,
        Err(error) => {
            logging.say(&format!("app-gateway does not start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // Before anything is read, so that no change falls between.
    let watch = ConfigWatcher::new(directory.to_owned());
    let config = match config::load(directory, &environment) {
        Ok(LoadedConfig { config, warnings }) => {
            logging.change(config.gateway.logging);
            warn(logging, &config.sources, &warnings);
            config
        }
        Err(refused) => {
            let metrics = Metrics::new(Reason::ALL.iter().map(|reason| reason.word()));
            let refused = match metrics {
                Ok(metrics) => load::with_named_files(refused, &tls::provider(), &metrics),
                Err(_) => refused,
            };
            let RejectedConfig { sources, problems, .. } = refused;
            inheritance.refuse(&config::draw(&sources, &problems, false));
            complain(logging, &sources, &problems);
            logging.say(&format!(
                "app-gateway does not start: the configuration in {} is refused",
                directory.display()
            ));
            return Exit::Config.into();
        }
    };
    // The files may have become whole since this was asked.
    if privileges::is_unwanted_root() && config.gateway.root != RootPolicy::Allow {
        let said = privileges::refusal(directory);
        inheritance.refuse(&said);
        logging.say(&said);
        return Exit::Config.into();
    }
    let origin = ConfigSource {
        directory: directory.to_owned(),
        environment: Arc::new(environment),
        provider: tls::provider(),
        program: ProgramArgs::of_this_process(),
        logging: logging.clone(),
    };
    let started = || tracing::info!("configuration from {}", directory.display());
    serve(config, (origin, watch), inheritance, started)
}

/// Compiles a configuration and serves it; `started` is called once everything listens.
pub(super) fn serve(
    config: Config,
    (origin, watch): (ConfigSource, ConfigWatcher),
    inheritance: InheritedState,
    started: impl FnOnce(),
) -> ExitCode {
    let logging = origin.logging.clone();
    logging.change(config.gateway.logging);
    let Ok(metrics) = Metrics::new(Reason::ALL.iter().map(|reason| reason.word())) else {
        logging.say("app-gateway does not start: two metrics have one name");
        return ExitCode::FAILURE;
    };
    let compiled = match compile(config, &origin.provider, &metrics, None) {
        Ok(compiled) => compiled,
        Err(refused) => {
            let (config, problems) = *refused;
            inheritance.refuse(&config::draw(&config.sources, &problems, false));
            complain(&logging, &config.sources, &problems);
            logging.say("app-gateway does not start: the configuration is refused");
            return Exit::Config.into();
        }
    };
    let generation = compiled.generation;
    warn(&logging, &generation.config.sources, &compiled.warnings);
    match raise_open_files() {
        Ok(limit) => judge_open_files(limit, &generation.config),
        Err(error) => tracing::warn!("the limit on open files stays as it is: {error}"),
    }
    start::resolve_names(&generation);
    announce(&generation);
    let gateway = match begin((generation, metrics), (origin, watch), inheritance) {
        Ok(gateway) => gateway,
        Err(error) => {
            logging.say(&format!("app-gateway does not start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    started();
    tracing::info!("serving");
    match gateway.run() {
        Ok(GatewayEnd::Drained | GatewayEnd::Cut) => ExitCode::SUCCESS,
        Ok(GatewayEnd::WorkerDied) => {
            logging.say(
                "app-gateway ends: a worker thread died; this is a fault in the gateway, please report the messages above",
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            logging.say(&format!("app-gateway ends: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Reports warnings: with source excerpts for people, as log events for programs.
fn warn(logging: &Logging, sources: &Sources, warnings: &[Problem]) {
    if logging.is_json() && !warnings.is_empty() {
        tracing::warn!("{}", config::draw(sources, warnings, false).trim_end());
    } else {
        complain(logging, sources, warnings);
    }
}

/// Draws problems into the log.
fn complain(logging: &Logging, sources: &Sources, problems: &[Problem]) {
    if !problems.is_empty() {
        logging.say(&config::draw(sources, problems, colour(&std::io::stderr())));
    }
}

/// Binds, starts, and relieves the process that this one succeeds, if there is one.
fn begin(
    (generation, metrics): (Generation, Arc<Metrics>),
    (origin, watch): (ConfigSource, ConfigWatcher),
    mut inheritance: InheritedState,
) -> Result<RunningGateway, String> {
    inheritance.hand_over_tickets(&generation.shared.local);
    let begun = start::bind(&generation, &mut inheritance).and_then(|bound| {
        announce_listeners(&generation);
        RunningGateway::start(generation, metrics, bound, (origin, watch))
    });
    let mut gateway = begun.map_err(|error| {
        inheritance.refuse(&error.to_string());
        error.to_string()
    })?;
    inheritance.ready().map_err(|error| format!("the old process did not hand over: {error}"))?;
    if inheritance.is_child() {
        gateway.open_admin_socket();
        tracing::info!("took over the listening sockets of the old process");
    }
    Ok(gateway)
}

/// Warns of a limit on open files that is too low for the configured connections.
fn judge_open_files(limit: u64, config: &Config) {
    tracing::debug!("{limit} open files allowed");
    let connections = config.connections().sum();
    let wanted = config::open_files(connections);
    let way_out = "set LimitNOFILE in the service, `ulimit -Hn` in the shell or --ulimit nofile for the container, or lower `connections` under `limits`";
    if limit < wanted.min(config::FEW_OPEN_FILES) {
        tracing::warn!(
            "only {limit} open files are allowed, too few for an ordinary day; {connections} connections need {wanted}: {way_out}"
        );
    } else if limit < wanted {
        tracing::warn!(
            "{limit} open files are allowed; {connections} connections, as configured, need {wanted}: {way_out}"
        );
    }
}

/// Logs the addresses that are listened on.
fn announce_listeners(generation: &Generation) {
    for virtual_server in &generation.virtual_servers {
        tracing::info!(
            profile = virtual_server.names.profile,
            "listening on {}",
            virtual_server.address
        );
    }
    for listener in
        generation.forward_proxy.iter().flat_map(|forward_proxy| &forward_proxy.listeners)
    {
        tracing::info!("the forward proxy listens on {}", listener.address);
    }
    for passthrough_listener in &generation.passthrough_listeners {
        tracing::info!(
            profile = passthrough_listener.names.profile,
            "listening on {}",
            passthrough_listener.address
        );
    }
}

/// Logs a summary of the configuration, and warns about unsafe settings.
fn announce(generation: &Generation) {
    tracing::info!("app-gateway {}: {}", env!("CARGO_PKG_VERSION"), check::summary(generation));
    let allowed = generation.config.gateway.root == RootPolicy::Allow;
    if allowed && rustix::process::geteuid().is_root() {
        tracing::warn!(
            "runs as root (`allow-root`): an attacker who controls this process controls this host"
        );
    }
    for upstream in &generation.config.upstreams {
        if let Verify::None { place } = upstream.verify {
            tracing::warn!(
                upstream = &*upstream.name,
                "NOT VERIFIED: anyone between here and this upstream can read and change its traffic ({})",
                generation.config.sources.locate(place)
            );
        }
    }
}
