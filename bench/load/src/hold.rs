//! Opens many WebSockets or tunnels and holds them, so that what they cost a proxy can be looked at.

use crate::client::Client;
use crate::meter::{Cpu, tell};
use crate::tls::connector;
use crate::units::{ORIGIN, ping};
use crate::{Held, Target};
use serde_json::{Map, Value, json};
use std::error::Error;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_rustls::client::TlsStream;

/// How many are opened at a time: a crowd, and no flood that would overrun an accept queue.
const AT_A_TIME: usize = 16;

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

/// Lines of commands, from standard input.
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

/// A report of one kind of figure or another.
pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

/// Opens them, then does as it is told until it is told to close.
pub(crate) async fn run(
    target: &Target,
    kind: Held,
    count: usize,
    origin: u16,
) -> Result<(), Box<dyn Error>> {
    let connector = match kind {
        Held::Websockets => Some(connector(target, false)?),
        Held::Tunnels => None,
    };
    let cpu = Cpu::of(&target.pids)?;
    let before = cpu.read()?;
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..AT_A_TIME.min(count - held.len()) {
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
    // All of them work: a proxy may have answered before it reached the origin.
    let echoed = echoes(&mut held).await;
    tell(&object(json!({ "open": held.len(), "echoed": echoed, "cpu": cpu.read()? - before })));
    let mut commands = commands();
    while let Some(command) = commands.recv().await {
        match command.as_str() {
            "echo" => {
                let echoed = echoes(&mut held).await;
                tell(&object(json!({ "echoed": echoed })));
            }
            _ => break,
        }
    }
    held.clear();
    tell(&object(json!({ "open": 0 })));
    Ok(())
}

async fn echoes(held: &mut [Open]) -> usize {
    let mut echoed = 0;
    for one in held {
        echoed += usize::from(one.echoes().await);
    }
    echoed
}
