//! `app-gateway demo`: runs the gateway and a stand-in for Hybrid Chat on one host.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::config::{self, Config, LoadedConfig, RejectedConfig};
use crate::demo;
use crate::net::listen::probe;
use crate::supervisor::watch::ConfigWatcher;
use crate::supervisor::{ConfigSource, Environment, InheritedState};
use crate::telemetry::Logging;
use crate::tls;

use super::{complain, environment, run, say, say_wrong};

/// Address of the stand-in: the components' real ports on a loopback address of their own.
const STAND_IN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// The LAN profile's port where 443 may not be bound or is taken.
const OTHER_LAN_PORT: u16 = 10443;

pub(super) fn demo(config: &Path, certificates: &Path) -> ExitCode {
    let logging = Logging::init();
    let code = start(config, certificates, &logging);
    logging.finish();
    code
}

fn start(config: &Path, certificates: &Path, logging: &Logging) -> ExitCode {
    let certificates = match demo::ensure(certificates) {
        Ok(certificates) => certificates,
        Err(error) => {
            say_wrong(&format!("the demo cannot make its certificates: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // The stand-in has a runtime of its own, as the real components have hosts of their own.
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                say_wrong(&format!("the demo cannot start: {error}"));
                return ExitCode::FAILURE;
            }
        };
    let stand_in = match runtime.block_on(demo::start(STAND_IN, &certificates)) {
        Ok(stand_in) => stand_in,
        Err(error) => {
            say_wrong(&format!("the Hybrid Chat stand-in cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let lan =
        std::env::var("LAN_PORT").ok().and_then(|port| port.parse().ok()).unwrap_or_else(lan_port);
    let mut set = demo::environment(&certificates, STAND_IN);
    set.push(("LAN_PORT".to_owned(), lan.to_string()));
    let env = move |name: &str| {
        let demo = set.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        // An access log that the user chose takes precedence. By default the demo writes none to
        // the terminal, which shows its instructions.
        demo.or_else(|| environment(name))
            .or_else(|| (name == "ACCESS_LOG").then(|| "off".to_owned()))
    };
    let code = serve(config, Arc::new(env), logging.clone(), (lan, &certificates.ca));
    runtime.block_on(stand_in.stop());
    code
}

fn serve(
    directory: &Path,
    env: Environment,
    logging: Logging,
    (lan, ca): (u16, &Path),
) -> ExitCode {
    let watch = ConfigWatcher::new(directory.to_owned());
    let Ok(config) = load(directory, &*env) else {
        say_wrong(&format!(
            "the demo runs on the shipped configuration, which is refused or not in {}; name it with -c",
            directory.display()
        ));
        return ExitCode::FAILURE;
    };
    let admin = config.admin.as_ref().map(|admin| admin.listen);
    let origin = ConfigSource {
        directory: directory.to_owned(),
        environment: env,
        provider: tls::provider(),
        // The stand-in lives in this process and would end with it.
        program: None,
        logging,
    };
    let started = || say(&welcome(lan, admin, ca));
    run::serve(config, (origin, watch), InheritedState::default(), started)
}

/// 443 if it can be had.
fn lan_port() -> u16 {
    let standard = SocketAddr::from((Ipv4Addr::LOCALHOST, 443));
    if probe(standard).is_ok() { 443 } else { OTHER_LAN_PORT }
}

fn welcome(lan: u16, admin: Option<SocketAddr>, ca: &Path) -> String {
    let lan = if lan == 443 { String::new() } else { format!(":{lan}") };
    let mut text = format!(
        "\nThe demo is up. Open these two in two browser windows and chat:\n\n  \
         customer   https://localhost:8443/customer-gadget/\n  \
         agent      https://localhost{lan}/agent-gadget/\n\n\
         Each page shows its transport: polling first, then websocket.\n\
         The browser warns about the certificate, which was made for this demo: go on, or trust\n  {}\n",
        ca.display()
    );
    if let Some(admin) = admin {
        let _ =
            write!(text, "\nstatus       http://{admin}/\nmetrics      http://{admin}/metrics\n");
    }
    text.push_str(
        "access log   set ACCESS_LOG=stdout to see one line per request\nend          Ctrl-C\n\n",
    );
    text
}

/// Loads a directory. Prints its problems to standard error with source excerpts.
fn load(directory: &Path, env: config::Env<'_>) -> Result<Config, ()> {
    match config::load(directory, env) {
        Ok(LoadedConfig { config, warnings }) => {
            complain(&config.sources, &warnings);
            Ok(config)
        }
        Err(RejectedConfig { sources, problems, .. }) => {
            complain(&sources, &problems);
            Err(())
        }
    }
}
