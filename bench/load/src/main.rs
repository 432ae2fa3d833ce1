//! The clients that `wrk` and `h2load` cannot be, and the origin behind the proxies.
//!
//! Each command is one kind of load on one port, and prints one JSON line when it is done (the
//! interactive ones a line per command they read). The CPU time of the proxy is read here, at the
//! edges of the window that counts, so neither opening connections nor closing them is in it.

mod client;
mod drive;
mod hold;
mod meter;
mod mix;
mod serve;
mod steady;
mod tls;
mod units;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

/// Load for the bench, and the origin behind the proxies.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The origin: HTTPS, WebSocket echo, upload sink, Socket.IO polls, and a bare TCP port for tunnels
    Serve(Origin),
    /// GET requests on kept connections
    Get {
        #[command(flatten)]
        load: Load,
        #[arg(long, default_value = "/1k")]
        path: String,
    },
    /// POST bodies on kept connections
    Upload {
        #[command(flatten)]
        load: Load,
        /// Bytes of each body
        #[arg(long, default_value_t = 10_000_000)]
        bytes: usize,
    },
    /// A TCP connection, a TLS handshake and a request each time
    Handshake {
        #[command(flatten)]
        load: Load,
        /// Resume a session each time; without this, never
        #[arg(long)]
        resume: bool,
    },
    /// Messages over WebSockets, each echoed
    Echo {
        #[command(flatten)]
        load: Load,
        /// Bytes of each message, at most 125
        #[arg(long, default_value_t = 125)]
        bytes: u8,
    },
    /// Socket.IO over long polls: a POST with a ping and the GET that fetches the pong, in turns
    Polls {
        #[command(flatten)]
        load: Load,
    },
    /// A CONNECT tunnel, a byte there and back, and its end, each time
    Tunnel {
        #[command(flatten)]
        load: Load,
        /// Port of the origin's bare TCP listener
        #[arg(long)]
        origin: u16,
    },
    /// Bytes down CONNECT tunnels
    TunnelBulk {
        #[command(flatten)]
        load: Load,
        /// Port of the origin's bare TCP listener
        #[arg(long)]
        origin: u16,
    },
    /// Opens many and holds them; `echo` and `close` on standard input
    Hold {
        #[command(flatten)]
        target: Target,
        #[arg(value_enum)]
        kind: Held,
        #[arg(long)]
        count: usize,
        /// Port of the origin's bare TCP listener, for tunnels
        #[arg(long, default_value_t = 0)]
        origin: u16,
    },
    /// What a call centre's chats are, at once and at fixed rates; see `mix.rs`
    Mix {
        #[command(flatten)]
        target: Target,
        /// Chats that are open
        #[arg(long, default_value_t = 3000)]
        chats: usize,
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
    /// Requests, new connections and WebSockets that go on while the proxy reloads; `reloading`, `more N` and
    /// `end` on standard input
    Steady {
        #[command(flatten)]
        target: Target,
        /// Requests per second on 32 kept connections
        #[arg(long, default_value_t = 1000.0)]
        rate: f64,
        /// New connections per second, with a request each
        #[arg(long, default_value_t = 50.0)]
        fresh: f64,
        #[arg(long, default_value_t = 100)]
        websockets: usize,
    },
}

/// Where the origin listens.
#[derive(Args)]
struct Origin {
    #[arg(long)]
    port: u16,
    /// Bare TCP
    #[arg(long)]
    raw: SocketAddr,
    #[arg(long)]
    chain: String,
    #[arg(long)]
    key: String,
}

/// The proxy in question.
#[derive(Args, Clone)]
struct Target {
    /// Its port on loopback
    #[arg(long)]
    port: u16,
    /// CA that its certificate is verified against
    #[arg(long)]
    ca: Option<String>,
    /// Its processes, whose CPU time is counted
    #[arg(long, value_delimiter = ',')]
    pids: Vec<i32>,
}

/// How much.
#[derive(Args, Clone)]
struct Load {
    #[command(flatten)]
    target: Target,
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Length of the window that counts
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Load before it, once all connections are open
    #[arg(long, default_value_t = 0.2)]
    warm: f64,
    /// Units per second on a fixed schedule; without it, each connection begins the next as soon as one is done
    #[arg(long)]
    rate: Option<f64>,
    /// In place of a window: so many units, one after the other on one connection
    #[arg(long)]
    count: Option<u64>,
}

/// What is held open.
#[derive(Clone, Copy, ValueEnum)]
enum Held {
    /// WebSockets over TLS
    Websockets,
    /// CONNECT tunnels
    Tunnels,
}

async fn run(command: Command) -> Result<(), Box<dyn Error>> {
    let report = match command {
        Command::Serve(origin) => return serve::run(&origin).await,
        Command::Hold { target, kind, count, origin } => {
            return hold::run(&target, kind, count, origin).await;
        }
        Command::Steady { target, rate, fresh, websockets } => {
            return steady::run(&target, rate, fresh, websockets).await;
        }
        Command::Mix { target, chats, seconds } => {
            mix::run(&target, chats, Duration::from_secs_f64(seconds)).await?
        }
        Command::Get { load, path } => {
            drive::drive(&load, &units::Get::of(&load.target, path)?).await?
        }
        Command::Upload { load, bytes } => {
            drive::drive(&load, &units::Upload::of(&load.target, bytes)?).await?
        }
        Command::Handshake { load, resume } => {
            drive::drive(&load, &units::Handshake::of(&load.target, resume)?).await?
        }
        Command::Echo { load, bytes } => {
            drive::drive(&load, &units::Echo::of(&load.target, bytes)?).await?
        }
        Command::Polls { load } => drive::drive(&load, &units::Polls::of(&load.target)?).await?,
        Command::Tunnel { load, origin } => {
            drive::drive(&load, &units::Tunnel { port: load.target.port, origin }).await?
        }
        Command::TunnelBulk { load, origin } => {
            drive::drive(&load, &units::TunnelBulk { port: load.target.port, origin }).await?
        }
    };
    meter::tell(&report);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run(cli.command))
}
