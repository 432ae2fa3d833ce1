//! The load tool, for loads that `wrk` and `h2load` do not have, and the origin behind the proxies.
//!
//! Each command puts one kind of load on one port and prints one JSON line at its end; interactive
//! commands print one line for each command that they read. CPU time of the proxy is read at the
//! edges of the measuring window, so that it does not include opening and closing connections.

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

/// Load tool and origin of the benchmarks
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the origin: HTTPS, WebSocket echo, upload sink, Socket.IO polls, and a plain TCP port
    /// for tunnels
    Serve(Origin),
    /// Send GET requests on kept connections
    Get {
        #[command(flatten)]
        load: Load,
        #[arg(long, default_value = "/1k")]
        path: String,
    },
    /// Send POST bodies on kept connections
    Upload {
        #[command(flatten)]
        load: Load,
        /// Bytes of each body
        #[arg(long, default_value_t = 10_000_000)]
        bytes: usize,
    },
    /// Make a TCP connection, a TLS handshake and one request for each unit
    Handshake {
        #[command(flatten)]
        load: Load,
        /// Resume the TLS session each time (default: never)
        #[arg(long)]
        resume: bool,
    },
    /// Send messages over WebSockets and wait for each echo
    Echo {
        #[command(flatten)]
        load: Load,
        /// Bytes of each message, at most 125
        #[arg(long, default_value_t = 125)]
        bytes: u8,
    },
    /// Use Socket.IO over long polls: alternately a POST with a ping and the GET that fetches the
    /// pong
    Polls {
        #[command(flatten)]
        load: Load,
    },
    /// Open a CONNECT tunnel, exchange a byte and close it, for each unit
    Tunnel {
        #[command(flatten)]
        load: Load,
        /// Port of the origin's plain TCP listener
        #[arg(long)]
        origin: u16,
    },
    /// Download through CONNECT tunnels
    TunnelBulk {
        #[command(flatten)]
        load: Load,
        /// Port of the origin's plain TCP listener
        #[arg(long)]
        origin: u16,
    },
    /// Open WebSockets or tunnels and hold them; reads `echo` and `close` from standard input
    Hold {
        #[command(flatten)]
        target: Target,
        #[arg(value_enum)]
        kind: HeldKind,
        #[arg(long)]
        count: usize,
        /// Port of the origin's plain TCP listener, for tunnels
        #[arg(long, default_value_t = 0)]
        origin: u16,
    },
    /// Generate the traffic of a call centre's chats at fixed rates; see `mix.rs`
    Mix {
        #[command(flatten)]
        target: Target,
        /// Number of open chats
        #[arg(long, default_value_t = 3000)]
        chats: usize,
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
    /// Send requests, open connections and hold WebSockets while the proxy reloads; reads
    /// `reloading`, `more N` and `end` from standard input
    Steady {
        #[command(flatten)]
        target: Target,
        /// Requests per second on 32 kept connections
        #[arg(long, default_value_t = 1000.0)]
        rate: f64,
        /// New connections per second, with one request each
        #[arg(long, default_value_t = 50.0)]
        fresh: f64,
        #[arg(long, default_value_t = 100)]
        websockets: usize,
    },
}

/// Addresses and certificate of the origin.
#[derive(Args)]
struct Origin {
    #[arg(long)]
    port: u16,
    /// Address of the plain TCP listener
    #[arg(long)]
    raw: SocketAddr,
    #[arg(long)]
    chain: String,
    #[arg(long)]
    key: String,
}

/// The proxy under test.
#[derive(Args, Clone)]
struct Target {
    /// Port of the proxy on loopback
    #[arg(long)]
    port: u16,
    /// CA for the verification of the proxy's certificate
    #[arg(long)]
    ca: Option<String>,
    /// Process IDs of the proxy, for its CPU time
    #[arg(long, value_delimiter = ',')]
    pids: Vec<i32>,
}

/// Amount of load.
#[derive(Args, Clone)]
struct Load {
    #[command(flatten)]
    target: Target,
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Length of the measuring window in seconds
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Seconds of load before the window, once all connections are open
    #[arg(long, default_value_t = 0.2)]
    warm: f64,
    /// Units per second on a fixed schedule; without it, each connection starts the next unit as
    /// soon as one is done
    #[arg(long)]
    rate: Option<f64>,
    /// Run this number of units one after the other on one connection, instead of a measuring
    /// window
    #[arg(long)]
    count: Option<u64>,
}

/// Kind of connections to hold open.
#[derive(Clone, Copy, ValueEnum)]
enum HeldKind {
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
    meter::print_report(&report);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run(cli.command))
}
