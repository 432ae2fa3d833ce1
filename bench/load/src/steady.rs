//! Load during reloads of the proxy: counts failed requests, refused connections and cut
//! WebSockets.

use crate::Target;
use crate::client::Client;
use crate::drive::Pacer;
use crate::hold::{commands, object};
use crate::meter::{Latencies, print_report};
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

const KEPT_CONNECTIONS: usize = 32;
/// Tasks that open new connections; several, so that a slow connection does not delay the others.
const NEW_CONNECTION_TASKS: usize = 8;
/// Interval between the messages of a WebSocket.
const PING_INTERVAL: Duration = Duration::from_millis(500);

type Secure = Client<TlsStream<TcpStream>>;

struct SteadyCounters {
    requests: Cell<u64>,
    failed: Cell<u64>,
    /// Kept connections that the proxy closed between two requests. The request was repeated on a
    /// new one.
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

impl SteadyCounters {
    fn record(&self, due: Instant) {
        add(&self.requests);
        if self.reloading.get() { &self.during } else { &self.quiet }.record(due.elapsed());
    }
}

/// The connection parameters and counters that each task needs.
#[derive(Clone)]
struct LoadClient {
    connector: TlsConnector,
    port: u16,
    counters: Rc<SteadyCounters>,
}

/// Starts the load, prints `ready`, and continues until `end`.
pub(crate) async fn run(
    target: &Target,
    rate: f64,
    fresh: f64,
    websockets: usize,
) -> std::result::Result<(), Box<dyn Error>> {
    let counters = Rc::new(SteadyCounters {
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
    let client_side = LoadClient {
        connector: connector(target, false)?,
        port: target.port,
        counters: Rc::clone(&counters),
    };
    let mut pacers = Vec::new();
    for (tasks, rate, kept) in
        [(KEPT_CONNECTIONS, rate, true), (NEW_CONNECTION_TASKS, fresh, false)]
    {
        let mut queues = Vec::new();
        for _ in 0..tasks {
            let (queue, due) = unbounded_channel();
            queues.push(queue);
            if kept {
                let client = client_side.connect().await?;
                tokio::task::spawn_local(requests(client_side.clone(), client, due));
            } else {
                tokio::task::spawn_local(connections(client_side.clone(), due));
            }
        }
        pacers.push(Pacer::start(rate, move |number, at| {
            let at_queue = usize::try_from(number).unwrap_or(0) % queues.len();
            let _ = queues[at_queue].send(at);
        }));
    }
    client_side.open(websockets).await?;
    print_report(&object(json!({ "ready": websockets })));

    let mut commands = commands();
    while let Some(command) = commands.recv().await {
        match command.split_once(' ') {
            None if command == "reloading" => counters.reloading.set(true),
            Some(("more", count)) => client_side.open(count.parse()?).await?,
            _ => break,
        }
        print_report(&Map::new());
    }
    drop(pacers);
    // Wait until every WebSocket has sent another message.
    tokio::time::sleep(PING_INTERVAL * 3).await;
    let mut report = object(json!({
        "requests": counters.requests.get(), "failed": counters.failed.get(), "closed": counters.closed.get(),
        "fresh": counters.fresh.get(), "refused": counters.refused.get(),
        "websockets": counters.websockets.get(), "cut": counters.cut.get(),
    }));
    counters.quiet.report("quiet-", &mut report);
    counters.during.report("during-", &mut report);
    print_report(&report);
    Ok(())
}

impl LoadClient {
    async fn connect(&self) -> Result<Secure> {
        Ok(Client::connect(&self.connector, self.port).await?.0)
    }

    async fn open(&self, count: usize) -> Result<()> {
        for _ in 0..count {
            let mut client = self.connect().await?;
            client.upgrade("/websocket", self.port).await?;
            add(&self.counters.websockets);
            let counters = Rc::clone(&self.counters);
            tokio::task::spawn_local(async move {
                while client.send_text(b"hello").await.is_ok() && client.frame().await.is_ok() {
                    tokio::time::sleep(PING_INTERVAL).await;
                }
                add(&counters.cut);
            });
        }
        Ok(())
    }
}

/// Sends requests on a kept connection, which is replaced when it closes.
async fn requests(
    client_side: LoadClient,
    mut client: Secure,
    mut due: UnboundedReceiver<Instant>,
) {
    let request = plain("/1k", client_side.port);
    while let Some(at) = due.recv().await {
        let mut outcome = client.exchange(&request, drop).await;
        if outcome.as_ref().is_err_and(is_before_response) {
            // Every HTTP client repeats such a request (RFC 9112 section 9.3.1).
            add(&client_side.counters.closed);
            outcome = async {
                client = client_side.connect().await?;
                client.exchange(&request, drop).await
            }
            .await;
        }
        if outcome.is_ok() {
            client_side.counters.record(at);
            continue;
        }
        add(&client_side.counters.failed);
        match client_side.connect().await {
            Ok(fresh) => client = fresh,
            Err(_) => return add(&client_side.counters.failed),
        }
    }
}

/// Whether an error means that no byte of a response was received.
fn is_before_response(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    )
}

/// Opens a connection for each request.
async fn connections(client_side: LoadClient, mut due: UnboundedReceiver<Instant>) {
    let request = plain("/1k", client_side.port);
    while due.recv().await.is_some() {
        add(&client_side.counters.fresh);
        let outcome = async { client_side.connect().await?.exchange(&request, drop).await }.await;
        if outcome.is_err() {
            add(&client_side.counters.refused);
        }
    }
}
