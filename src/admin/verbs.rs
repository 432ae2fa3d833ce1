//! Commands of the admin API: reload, plan, upgrade, stop and others.
//!
//! A command is a `POST` over the admin socket, or over TCP from this host with the token of
//! `token-file`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use crate::units::parse_duration;

use super::report::ReloadResult;
use super::{
    AdminApi, AdminCommand, CommandOptions, CommandOrigin, endpoint_state, guard, json, said, text,
};

/// Time for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest body that is read, in bytes.
const LONGEST_BODY: usize = 16 * 1024;

/// Executes a command, or passes it on to the supervisor.
pub(super) async fn verb(
    path: &str,
    request: Request<Incoming>,
    peer: CommandOrigin,
    api: &AdminApi,
) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "this requires POST\n");
    }
    if peer == CommandOrigin::Remote {
        return text(StatusCode::FORBIDDEN, "this is available on this host only\n");
    }
    if peer == CommandOrigin::Local
        && let Err(message) = token(&request, api).await
    {
        return said(StatusCode::FORBIDDEN, message);
    }
    let question = match question(request).await {
        Ok(question) => question,
        Err((status, message)) => return said(status, message),
    };
    if question.directory.is_some() && peer != CommandOrigin::Trusted {
        return text(
            StatusCode::FORBIDDEN,
            "planning another directory is allowed only over the admin socket, because the output \
             can contain file contents\n",
        );
    }
    match path {
        "/endpoint" => match endpoint_state::assign(&api.upstreams.borrow(), &question) {
            Ok(done) => said(StatusCode::OK, done),
            Err(message) => said(StatusCode::UNPROCESSABLE_ENTITY, message),
        },
        "/stop" => signal(rustix::process::Signal::TERM),
        "/quit" => signal(rustix::process::Signal::QUIT),
        "/reopen" => match (api.reopen)() {
            Ok(()) => text(StatusCode::OK, "the access log was reopened\n"),
            Err(message) => said(StatusCode::INTERNAL_SERVER_ERROR, message),
        },
        _ => pass_on(path, question, api).await,
    }
}

/// Checks the token of a verb over TCP. The file is read on another thread.
async fn token(request: &Request<Incoming>, api: &AdminApi) -> Result<(), String> {
    let serving = api.page.serving();
    let admin = serving.as_ref().and_then(|generation| generation.config.admin.as_ref());
    let file = admin.and_then(|admin| admin.token_file.as_ref()).map(|named| named.file.clone());
    let given = request.headers().get(header::AUTHORIZATION).cloned();
    let checked =
        tokio::task::spawn_blocking(move || guard::check_token(file.as_ref(), given.as_ref()));
    checked.await.unwrap_or_else(|error| Err(error.to_string()))
}

async fn question(request: Request<Incoming>) -> Result<CommandOptions, (StatusCode, String)> {
    let body = Limited::new(request.into_body(), LONGEST_BODY).collect();
    let Ok(body) = tokio::time::timeout(BODY_TIMEOUT, body).await else {
        let message = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
        return Err((StatusCode::REQUEST_TIMEOUT, message));
    };
    let bad = |message| (StatusCode::BAD_REQUEST, message);
    let body = body.map_err(|error| bad(format!("the body cannot be read: {error}")))?.to_bytes();
    if body.is_empty() {
        return Ok(CommandOptions::default());
    }
    serde_json::from_slice(&body)
        .map_err(|error| bad(format!("the body is not a question: {error}")))
}

/// Sends ourselves a signal, so that there is one way to end.
fn signal(signal: rustix::process::Signal) -> Response<Full<Bytes>> {
    let own = rustix::process::getpid();
    match rustix::process::kill_process(own, signal) {
        Ok(()) => text(StatusCode::ACCEPTED, "draining\n"),
        Err(error) => said(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn pass_on(path: &str, question: CommandOptions, api: &AdminApi) -> Response<Full<Bytes>> {
    let confirm = match question.confirm.as_deref().map(parse_duration).transpose() {
        Ok(confirm) => confirm,
        Err(message) => return said(StatusCode::BAD_REQUEST, message),
    };
    if api.health.draining.load(Ordering::Relaxed) {
        return text(StatusCode::CONFLICT, "the gateway is draining\n");
    }
    if path == "/plan" {
        let (sender, plan) = oneshot::channel();
        return answered(api, AdminCommand::Plan(question.directory, sender), plan)
            .await
            .map_or_else(|gone| gone, |plan| json(StatusCode::OK, &plan));
    }
    if path == "/upgrade" {
        let (sender, succession) = oneshot::channel();
        return match answered(api, AdminCommand::Upgrade(sender), succession).await {
            Ok(done) if done.pid.is_none() => json(StatusCode::UNPROCESSABLE_ENTITY, &done),
            Ok(done) => json(StatusCode::OK, &done),
            Err(gone) => gone,
        };
    }
    let (sender, outcome) = oneshot::channel();
    let ask = match path {
        "/confirm" => AdminCommand::Confirm(sender),
        "/rollback" => AdminCommand::Rollback(sender),
        _ => AdminCommand::Reload(confirm, sender),
    };
    match answered(api, ask, outcome).await {
        Ok(outcome) if outcome.result == ReloadResult::Refused => {
            json(StatusCode::UNPROCESSABLE_ENTITY, &outcome)
        }
        Ok(outcome) => json(StatusCode::OK, &outcome),
        Err(gone) => gone,
    }
}

/// The supervisor's answer to a command, or an error if the supervisor has stopped.
async fn answered<T>(
    api: &AdminApi,
    ask: AdminCommand,
    answer: oneshot::Receiver<T>,
) -> Result<T, Response<Full<Bytes>>> {
    let gone = || text(StatusCode::CONFLICT, "the gateway is draining\n");
    api.asks.send(ask).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}
