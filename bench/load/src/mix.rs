//! The chats of a call centre, as the product generates them: a number of open chats, and each
//! activity at a rate of its own.
//!
//! With N chats open (3,000 is the largest site that the product is sized for):
//! - nine of ten use WebSockets, and one of ten long polls, because its network blocks WebSockets;
//! - each sends a ping every 3 s, which is answered by a pong (with polls by a POST and a GET);
//! - N/20 messages of 120 bytes a second (150 for 3,000) are sent over WebSockets and echoed;
//! - N/30 queries a second for the waiting time, and N/300 for the state of a queue, use kept
//!   connections;
//! - N/600 new chats a second (a chat takes ten minutes) load the page and a script of 100 KB, and
//!   open a session by poll and a WebSocket with a first message, on two new connections with full
//!   handshakes;
//! - N/3000 uploads a second have 200 KB each.
//!
//! Every latency is counted from the moment at which a unit was due to the end of its response.

use crate::Target;
use crate::client::Client;
use crate::drive::{Pacer, Source, Unit};
use crate::hold::object;
use crate::meter::{Cpu, Latencies, Meter, print_report};
use crate::tls::connector;
use crate::units::{Get, PollingSession, Upload, browser};
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::error::Error;
use std::io::Result;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const WEBSOCKET_PATH: &str = "/socket.io/?EIO=3&transport=websocket";
const PING: &[u8] = b"2";
/// Load before the measuring window.
const WARM_UP: Duration = Duration::from_secs(1);
/// Connections for queries and uploads; and tasks that open new chats.
const REQUEST_CONNECTIONS: usize = 16;
const NEW_CHAT_TASKS: usize = 16;

type Secure = Client<TlsStream<TcpStream>>;

struct MixMeters {
    frames: Meter,
    requests: Meter,
    chats: Meter,
    late: Latencies,
}

impl MixMeters {
    fn done(&self, meter: &Meter, due: Instant, outcome: Result<()>) -> bool {
        match outcome {
            Ok(()) => {
                meter.done(due.elapsed());
                self.late.record(due.elapsed());
                true
            }
            Err(error) => {
                meter.failed(&error);
                false
            }
        }
    }
}

/// When a unit is due, and whether it is a message (or a ping).
type DueUnit = (Instant, bool);

/// Opens the chats, warms up, and counts for the measuring window.
pub(crate) async fn run(
    target: &Target,
    chats: usize,
    window: Duration,
) -> std::result::Result<Map<String, Value>, Box<dyn Error>> {
    let tls = connector(target, false)?;
    let counts = Rc::new(MixMeters {
        frames: Meter::new()?,
        requests: Meter::new()?,
        chats: Meter::new()?,
        late: Latencies::new()?,
    });
    let polling = chats / 10;
    let websockets =
        queues(open_websockets(target.port, &tls, chats - polling).await?, &counts, websocket);
    let mut sessions = Vec::new();
    for _ in 0..polling {
        let (client, _) = Client::connect(&tls, target.port).await?;
        sessions.push(PollingSession::begin(client, target.port).await?);
    }
    let polls = queues(sessions, &counts, request_loop);
    let get = Get::of(target, "/api/queues/support".to_owned())?;
    let upload = Upload::of(target, 200_000)?;
    let questions = queues(open_units(&get, REQUEST_CONNECTIONS).await?, &counts, request_loop);
    let uploads = queues(open_units(&upload, 2).await?, &counts, request_loop);
    let chat_queues = queues(vec![(tls, target.port); NEW_CHAT_TASKS], &counts, new_chats);
    print_report(&object(json!({ "open": chats })));

    let many = f64::from(u32::try_from(chats)?);
    let _pacers = [
        pace(many * 0.9 / 3.0, websockets.clone(), false),
        pace(many / 20.0, websockets, true),
        // A poll is a POST and a GET.
        pace(many * 0.1 / 3.0 * 2.0, polls, false),
        pace(many / 30.0 + many / 300.0, questions, false),
        pace(many / 3000.0, uploads, false),
        pace(many / 600.0, chat_queues, false),
    ];
    tokio::time::sleep(WARM_UP).await;
    for meter in [&counts.frames, &counts.requests, &counts.chats] {
        meter.restart();
    }
    counts.late.clear();
    let cpu = Cpu::of(&target.pids)?;
    let (before, begun) = (cpu.read()?, Instant::now());
    tokio::time::sleep(window).await;
    let (used, seconds) = (cpu.read()? - before, begun.elapsed().as_secs_f64());

    let mut report = Map::new();
    let failed = Cell::new(0);
    for (name, meter) in
        [("frames", &counts.frames), ("requests", &counts.requests), ("chats", &counts.chats)]
    {
        failed.set(failed.get() + meter.failed.get());
        report.insert(name.to_owned(), Value::Object(meter.report()));
    }
    counts.late.report("", &mut report);
    report.insert("failed".to_owned(), failed.get().into());
    report.insert("cpu".to_owned(), used.into());
    report.insert("seconds".to_owned(), seconds.into());
    Ok(report)
}

/// Opens WebSockets, a few at a time.
async fn open_websockets(port: u16, tls: &TlsConnector, count: usize) -> Result<Vec<Secure>> {
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..16.min(count - held.len()) {
            let tls = tls.clone();
            opening.spawn_local(async move {
                let (mut client, _) = Client::connect(&tls, port).await?;
                client.upgrade(WEBSOCKET_PATH, port).await?;
                Ok::<_, std::io::Error>(client)
            });
        }
        while let Some(client) = opening.join_next().await {
            held.push(client.map_err(std::io::Error::other)??);
        }
    }
    Ok(held)
}

async fn open_units<S: Source>(source: &S, count: usize) -> Result<Vec<S::Unit>> {
    let mut units = Vec::new();
    for _ in 0..count {
        units.push(source.open().await?);
    }
    Ok(units)
}

/// Starts a task for each part and returns the queues that tell the tasks when a unit is due.
fn queues<T, F: Future<Output = ()> + 'static>(
    parts: Vec<T>,
    counts: &Rc<MixMeters>,
    task: impl Fn(T, UnboundedReceiver<DueUnit>, Rc<MixMeters>) -> F,
) -> Vec<UnboundedSender<DueUnit>> {
    let each = |part| {
        let (queue, due) = unbounded_channel();
        tokio::task::spawn_local(task(part, due, Rc::clone(counts)));
        queue
    };
    parts.into_iter().map(each).collect()
}

fn pace(rate: f64, queues: Vec<UnboundedSender<DueUnit>>, message: bool) -> Pacer {
    let mut next = 0;
    Pacer::start(rate, move |_, at| {
        if let Some(queue) = queues.get(next) {
            // A failed task has no receiver any more; its failure is counted.
            let _ = queue.send((at, message));
            next = (next + 1) % queues.len();
        }
    })
}

async fn websocket(mut client: Secure, mut due: UnboundedReceiver<DueUnit>, counts: Rc<MixMeters>) {
    let message = format!("42[\"message\",\"{}\"]", "m".repeat(103));
    while let Some((at, is_message)) = due.recv().await {
        let text = if is_message { message.as_bytes() } else { PING };
        let outcome = async {
            client.send_text(text).await?;
            client.frame().await.map(drop)
        };
        if !counts.done(&counts.frames, at, outcome.await) {
            return;
        }
    }
}

async fn request_loop(
    mut unit: impl Unit,
    mut due: UnboundedReceiver<DueUnit>,
    counts: Rc<MixMeters>,
) {
    while let Some((at, _)) = due.recv().await {
        let outcome = unit.once(&counts.requests).await;
        if !counts.done(&counts.requests, at, outcome) {
            return;
        }
    }
}

async fn new_chats(
    side: (TlsConnector, u16),
    mut due: UnboundedReceiver<DueUnit>,
    counts: Rc<MixMeters>,
) {
    while let Some((at, _)) = due.recv().await {
        let outcome = open_chat(&side.0, side.1).await;
        if !counts.done(&counts.chats, at, outcome) {
            return;
        }
    }
}

/// All requests of a new chat. The chat is closed at once, so that the number of open chats stays
/// the same.
async fn open_chat(tls: &TlsConnector, port: u16) -> Result<()> {
    let (mut page, _) = Client::connect(tls, port).await?;
    for path in ["/customer-widget/", "/100k"] {
        page.exchange(format!("{}\r\n", browser("GET", path, port)).as_bytes(), drop).await?;
    }
    PollingSession::begin(page, port).await?;
    let (mut socket, _) = Client::connect(tls, port).await?;
    socket.upgrade(WEBSOCKET_PATH, port).await?;
    socket.send_text(b"42[\"joinConversation\",\"support\"]").await?;
    socket.frame().await.map(drop)
}
