//! The reverse proxy: who serves a client.
//!
//! ```text
//! accept -> TLS -> h1 or h2 -> Site::decide -> acquire -> Exchange -> answer or tunnel -> Record
//! ```
//!
//! One task per client connection drives everything that belongs to it, upstream included. Each
//! request ends in exactly one `RequestLog`, which is the log line and the counters.

mod accept;
mod checkout;
mod h1;
mod h2;
mod record;
mod reply;
mod self_test;
mod tunnel;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::addr::ClientAddr;
use crate::downstream::balancer::ProxyHeader;
use crate::downstream::{RequestId, Worker};
use crate::generation::virtual_server::ProxyTarget;
use crate::generation::{CompiledRoute, VirtualServer};
use crate::message::forward::ClientOrigin;
use crate::message::{Reason, TraceParent};
use crate::net::admission::Admission;
use crate::net::quota::Accounts;
use crate::tls::ClientHandshake;
use crate::upstream::ConnAddrs;

use checkout::ClientInfo;

/// One listener on one worker.
pub struct ReverseService {
    /// The worker.
    pub worker: Rc<Worker>,
    /// What the listener serves at present.
    pub virtual_server: Arc<ArcSwap<VirtualServer>>,
    /// Its open connections, on all workers.
    pub admission: Arc<Admission>,
    /// The listener is being removed.
    pub closing: Rc<Cell<bool>>,
}

/// What is known about a client connection, from its handshake on.
struct ClientConn {
    /// Who is connected, as a balancer says: the client, or a proxy that says of each request whose
    /// it is.
    client: ClientAddr,
    /// Where it connected to; `None` if nobody is told.
    destination: Option<SocketAddr>,
    /// The balancer it came through. Boxed: most come through none.
    via: Option<Box<ProxyHeader>>,
    tls: &'static str,
    sni: Option<String>,
    handshake: ClientHandshake,
    /// The configuration change after which `handshake` was judged last.
    judged: Cell<u64>,
    /// The present configuration does not accept `handshake`.
    outdated: Cell<bool>,
    /// When it was accepted.
    began: Instant,
    /// Why the gateway has given the connection up, for the requests that end with it.
    ended: Cell<Option<Reason>>,
    /// What its clients have open.
    accounts: Accounts,
}

impl ClientConn {
    /// Of a connection on which the client itself has said nothing yet.
    fn of(peer: ClientAddr, via: Option<Box<ProxyHeader>>) -> Self {
        let client = via.as_ref().map_or(peer, |via| via.client());
        let destination = via.as_ref().and_then(|via| via.destination());
        Self {
            client,
            destination,
            via,
            tls: "",
            sni: None,
            handshake: ClientHandshake::default(),
            judged: Cell::new(u64::MAX),
            outdated: Cell::new(false),
            began: Instant::now(),
            ended: Cell::new(None),
            accounts: Accounts::default(),
        }
    }

    /// Whether the connection is to be closed, because what its listener asks of clients in their
    /// handshake has changed. Looks at the site only after a change of configuration.
    fn is_outdated(&self, service: &ReverseService) -> bool {
        let generation = service.worker.local.generation();
        if self.judged.replace(generation) != generation {
            self.outdated.set(!service.virtual_server.load().accepts(&self.handshake));
        }
        self.outdated.get()
    }

    /// Whether a request that has just been read may be served under `virtual_server`. If not, the connection
    /// is outdated: workers hear of a change a moment after it.
    fn serves(&self, virtual_server: &VirtualServer) -> bool {
        let accepted = virtual_server.accepts(&self.handshake);
        self.outdated.set(!accepted);
        accepted
    }

    /// Whom a request of this connection is for.
    fn client_info<'a>(
        &'a self,
        virtual_server: &VirtualServer,
        (client, id): (ClientAddr, &'a RequestId),
    ) -> ClientInfo<'a> {
        // It was not asked for if no upstream was to be told when the client connected.
        let destination = self.destination.unwrap_or(virtual_server.address);
        let ends = ConnAddrs { source: self.client.0, destination };
        ClientInfo { client, ends, sni: self.sni.as_deref(), id, accounts: &self.accounts }
    }

    /// What an upstream is told about where a request of this client's on this connection came from.
    fn origin<'a>(
        &self,
        (virtual_server, client): (&VirtualServer, ClientAddr),
        (route, way): (&'a CompiledRoute, &'a ProxyTarget),
        (id, trace): (&'a RequestId, Option<&'a TraceParent>),
    ) -> ClientOrigin<'a> {
        ClientOrigin {
            client: client.ip(),
            proxy: virtual_server.trusted_proxy(self.client),
            strip_prefix: way.strip_prefix.as_deref(),
            sticky_cookie_value: way.upstream.sticky_cookie_value(),
            request_id: id.as_str(),
            trace,
            passes: &route.passes,
        }
    }
}
