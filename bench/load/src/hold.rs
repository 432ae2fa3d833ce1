//! Opens many WebSockets or tunnels and keeps them open, to measure what they cost a proxy.

use crate::client::Client;
use crate::meter::{Cpu, print_report};
use crate::tls::connector;
use crate::units::{ORIGIN, ping};
use crate::{HeldKind, Target};
use serde_json::{Map, Value, json};
use std::error::Error;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_rustls::client::TlsStream;

/// Maximum number of connections in the making, so that accept queues do not overflow.
const MAX_OPENING: usize = 16;

enum Open {
    WebSocket(Box<Client<TlsStream<TcpStream>>>),
    Tunnel(Client<TcpStream>),
}

impl Open {
    async fn echoes(&mut self) -> bool {
        match self {
            Self::WebSocket(client) => {
                client.send_text(b"hello").await.is_ok() && client.frame().await.is_ok()
            }
            Self::Tunnel(client) => ping(client).await.is_ok(),
        }
    }
}

/// Lines of commands from standard input.
pub(crate) fn commands() -> UnboundedReceiver<String> {
    let (commands, read) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if commands.send(line).is_err() {
                return;
            }
        }
    });
    read
}

/// The value as a JSON object.
pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

/// Opens the connections, then executes commands until `close`.
pub(crate) async fn run(
    target: &Target,
    kind: HeldKind,
    count: usize,
    origin: u16,
) -> Result<(), Box<dyn Error>> {
    let connector = match kind {
        HeldKind::Websockets => Some(connector(target, false)?),
        HeldKind::Tunnels => None,
    };
    let cpu = Cpu::of(&target.pids)?;
    let before = cpu.read()?;
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..MAX_OPENING.min(count - held.len()) {
            let (connector, port) = (connector.clone(), target.port);
            opening.spawn_local(async move {
                let Some(connector) = connector else {
                    return Client::tunnel(port, ORIGIN, origin).await.map(Open::Tunnel);
                };
                let (mut client, _) = Client::connect(&connector, port).await?;
                client.upgrade("/websocket", port).await?;
                Ok(Open::WebSocket(Box::new(client)))
            });
        }
        while let Some(opened) = opening.join_next().await {
            held.push(opened??);
        }
    }
    // All connections must echo, because a proxy may answer 200 or 101 before it has reached the
    // origin.
    let echoed = echoes(&mut held).await;
    print_report(&object(
        json!({ "open": held.len(), "echoed": echoed, "cpu": cpu.read()? - before }),
    ));
    let mut commands = commands();
    while let Some(command) = commands.recv().await {
        match command.as_str() {
            "echo" => {
                let echoed = echoes(&mut held).await;
                print_report(&object(json!({ "echoed": echoed })));
            }
            _ => break,
        }
    }
    held.clear();
    print_report(&object(json!({ "open": 0 })));
    Ok(())
}

async fn echoes(held: &mut [Open]) -> usize {
    let mut echoed = 0;
    for one in held {
        echoed += usize::from(one.echoes().await);
    }
    echoed
}
