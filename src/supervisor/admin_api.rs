//! Supervisor side of the admin API: serves the admin listener and the admin socket, and carries
//! out their commands.

use std::rc::Rc;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};

use crate::admin::egress::EgressViews;
use crate::admin::report::ReloadOutcome;
use crate::admin::{self, AdminApi, AdminCommand, socket};
use crate::telemetry::access_log::LogReopener;

use super::{RunningGateway, plan};

impl RunningGateway {
    /// Opens the admin socket, which the parent of a binary upgrade held until now. A failure is
    /// logged, and the gateway serves without an admin socket.
    pub fn open_admin_socket(&mut self) {
        let config = &self.reloader.generation.config;
        match socket::open(&config.socket, &self.reloader.origin.directory) {
            Ok(socket) => self.socket = socket,
            Err(error) => {
                tracing::error!("{error}; commands on this host do not reach this gateway");
            }
        }
    }

    /// Serves the admin listener and the admin socket in the returned tasks, which may be aborted.
    /// Commands for the supervisor arrive on the returned channel.
    pub(super) fn open_admin_api(
        &mut self,
    ) -> std::io::Result<(mpsc::UnboundedReceiver<AdminCommand>, Vec<JoinHandle<()>>)> {
        let (asks, admin_commands) = mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        let reopener = self.reloader.log.reopener();
        let api = Rc::new(AdminApi {
            metrics: Arc::clone(&self.reloader.metrics),
            health: Arc::clone(&self.health),
            status: Rc::clone(&self.reloader.status),
            upstreams: self.checks.upstreams(),
            needed: self.checks.needed(),
            asks,
            way_out: self.egress_views(),
            book: Rc::clone(&self.sessions),
            page: admin::page::StatusPage::new(self.checks.serving()),
            logging: self.reloader.origin.logging.clone(),
            reopen: Box::new(move || reopener.reopen()),
        });
        tasks.push(spawn_local(admin::page::remember(Rc::clone(&api))));
        if let Some(listener) = &self.admin {
            let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
            tasks.push(spawn_local(admin::serve(listener, Rc::clone(&api))));
        }
        if let Some(socket) = &self.socket {
            let path = socket.path().display();
            tracing::info!("commands on this host reach this gateway at {path}");
            let listener = tokio::net::UnixListener::from_std(socket.listener()?)?;
            tasks.push(spawn_local(admin::serve_socket(listener, api)));
        }
        spawn_local(self.reloader.log.watch());
        spawn_local(reopen_on_signal(self.reloader.log.reopener())?);
        Ok((admin_commands, tasks))
    }

    fn egress_views(&self) -> EgressViews {
        let forward_shared = || Arc::clone(&self.reloader.forward_shared);
        let (tunnels, oldest, seen) = (forward_shared(), forward_shared(), forward_shared());
        EgressViews {
            oldest: Box::new(move |most| oldest.live.oldest(most)),
            tunnels: Box::new(move || tunnels.live.json()),
            seen: Box::new(move || serde_json::json!(seen.seen())),
        }
    }

    /// Carries out a command of the admin API. Failed replies are ignored: the client may have
    /// disconnected, and the log has the result.
    pub(super) async fn execute(&mut self, command: AdminCommand) {
        match command {
            AdminCommand::Reload(confirm, reply) => {
                self.watch.remember().await;
                let _ = reply.send(self.reload("command", confirm).await);
            }
            AdminCommand::Confirm(reply) => {
                let _ = reply.send(self.reloader.confirm());
            }
            AdminCommand::Rollback(reply) => {
                let _ = reply.send(self.roll_back().await);
            }
            AdminCommand::Upgrade(reply) => self.upgrade(Some(reply)),
            AdminCommand::Plan(directory, reply) => {
                let planning = plan::PlanInputs {
                    origin: self.reloader.origin.clone(),
                    directory,
                    generation: Arc::clone(&self.reloader.generation),
                    started: self.reloader.started.clone(),
                    workers: self.reloader.workers.clone(),
                };
                spawn_local(async move { reply.send(planning.plan().await) });
            }
        }
    }

    /// Returns to the last confirmed generation. The watcher still remembers the files that were
    /// tried, so they are not applied again until they change.
    pub(super) async fn roll_back(&mut self) -> ReloadOutcome {
        let outcome = self.reloader.roll_back().await;
        self.checks.follow(&self.reloader.generation);
        self.drift.follow(&self.reloader.generation);
        self.dns.all_due();
        self.watch.watch_files(self.reloader.generation.files());
        outcome
    }
}

/// Reopens the access log on every USR1, also while draining.
fn reopen_on_signal(reopener: LogReopener) -> std::io::Result<impl Future<Output = ()>> {
    let mut signals = signal(SignalKind::user_defined1())?;
    Ok(async move {
        while signals.recv().await.is_some() {
            match reopener.reopen() {
                Ok(()) => tracing::info!("USR1: the access log was reopened"),
                Err(message) => tracing::error!("USR1: {message}"),
            }
        }
    })
}
