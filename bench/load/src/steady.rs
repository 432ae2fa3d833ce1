//! Load that goes on while the proxy reloads: what fails, what is refused, what is cut.

use crate::Target;
use crate::client::Client;
use crate::drive::Pacer;
use crate::hold::{commands, object};
use crate::meter::{Latencies, tell};
use crate::tls::connector;
use crate::units::plain;
use serde_json::{Map, json};
use std::cell::Cell;
use std::error::Error;
use std::io::{ErrorKind, Result};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const KEPT: usize = 32;
/// Clients that open new connections, so that one slow one does not keep the others from being opened on time.
const OPENERS: usize = 8;
/// How often each WebSocket says something.
const PING: Duration = Duration::from_millis(500);

type Secure = Client<TlsStream<TcpStream>>;

struct Seen {
    requests: Cell<u64>,
    failed: Cell<u64>,
    /// Kept connections that the proxy closed between two requests; the request was made on a new one.
    closed: Cell<u64>,
    fresh: Cell<u64>,
    refused: Cell<u64>,
    websockets: Cell<u64>,
    cut: Cell<u64>,
    reloading: Cell<bool>,
    quiet: Latencies,
    during: Latencies,
}

fn add(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl Seen {
    fn took(&self, due: Instant) {
        add(&self.requests);
        if self.reloading.get() { &self.during } else { &self.quiet }.record(due.elapsed());
    }
}

/// Everything a task needs.
#[derive(Clone)]
struct Side {
    connector: TlsConnector,
    port: u16,
    seen: Rc<Seen>,
}

/// Starts the load, says `ready`, and goes on until `end`.
pub(crate) async fn run(
    target: &Target,
    rate: f64,
    fresh: f64,
    websockets: usize,
) -> std::result::Result<(), Box<dyn Error>> {
    let seen = Rc::new(Seen {
        requests: Cell::new(0),
        failed: Cell::new(0),
        closed: Cell::new(0),
        fresh: Cell::new(0),
        refused: Cell::new(0),
        websockets: Cell::new(0),
        cut: Cell::new(0),
        reloading: Cell::new(false),
        quiet: Latencies::new()?,
        during: Latencies::new()?,
    });
    let side =
        Side { connector: connector(target, false)?, port: target.port, seen: Rc::clone(&seen) };
    let mut pacers = Vec::new();
    for (tasks, rate, kept) in [(KEPT, rate, true), (OPENERS, fresh, false)] {
        let mut queues = Vec::new();
        for _ in 0..tasks {
            let (queue, due) = unbounded_channel();
            queues.push(queue);
            if kept {
                let client = side.connect().await?;
                tokio::task::spawn_local(requests(side.clone(), client, due));
            } else {
                tokio::task::spawn_local(connections(side.clone(), due));
            }
        }
        pacers.push(Pacer::start(rate, move |number, at| {
            let at_queue = usize::try_from(number).unwrap_or(0) % queues.len();
            let _ = queues[at_queue].send(at);
        }));
    }
    side.open(websockets).await?;
    tell(&object(json!({ "ready": websockets })));

    let mut commands = commands();
    while let Some(command) = commands.recv().await {
        match command.split_once(' ') {
            None if command == "reloading" => seen.reloading.set(true),
            Some(("more", count)) => side.open(count.parse()?).await?,
            _ => break,
        }
        tell(&Map::new());
    }
    drop(pacers);
    // Until every WebSocket has said something once more.
    tokio::time::sleep(PING * 3).await;
    let mut report = object(json!({
        "requests": seen.requests.get(), "failed": seen.failed.get(), "closed": seen.closed.get(),
        "fresh": seen.fresh.get(), "refused": seen.refused.get(),
        "websockets": seen.websockets.get(), "cut": seen.cut.get(),
    }));
    seen.quiet.report("quiet-", &mut report);
    seen.during.report("during-", &mut report);
    tell(&report);
    Ok(())
}

impl Side {
    async fn connect(&self) -> Result<Secure> {
        Ok(Client::connect(&self.connector, self.port).await?.0)
    }

    async fn open(&self, count: usize) -> Result<()> {
        for _ in 0..count {
            let mut client = self.connect().await?;
            client.upgrade("/websocket", self.port).await?;
            add(&self.seen.websockets);
            let seen = Rc::clone(&self.seen);
            tokio::task::spawn_local(async move {
                while client.send_text(b"hello").await.is_ok() && client.frame().await.is_ok() {
                    tokio::time::sleep(PING).await;
                }
                add(&seen.cut);
            });
        }
        Ok(())
    }
}

/// Requests on a kept connection, and on its successors.
async fn requests(side: Side, mut client: Secure, mut due: UnboundedReceiver<Instant>) {
    let request = plain("/1k", side.port);
    while let Some(at) = due.recv().await {
        let mut outcome = client.exchange(&request, drop).await;
        if outcome.as_ref().is_err_and(between_requests) {
            // As every HTTP client does (RFC 9112, section 9.3.1).
            add(&side.seen.closed);
            outcome = async {
                client = side.connect().await?;
                client.exchange(&request, drop).await
            }
            .await;
        }
        if outcome.is_ok() {
            side.seen.took(at);
            continue;
        }
        add(&side.seen.failed);
        match side.connect().await {
            Ok(fresh) => client = fresh,
            Err(_) => return add(&side.seen.failed),
        }
    }
}

/// Whether an error means that no byte of an answer came.
fn between_requests(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    )
}

/// A connection for each request.
async fn connections(side: Side, mut due: UnboundedReceiver<Instant>) {
    let request = plain("/1k", side.port);
    while due.recv().await.is_some() {
        add(&side.seen.fresh);
        let outcome = async { side.connect().await?.exchange(&request, drop).await }.await;
        if outcome.is_err() {
            add(&side.seen.refused);
        }
    }
}
