//! The reverse proxy, from an accepted connection to the access-log line of each request.
//!
//! ```text
//! accept -> TLS -> h1 or h2 -> VirtualServer::decide -> acquire -> Exchange -> answer or tunnel
//! ```
//!
//! One task per client connection drives its requests, including their upstream connections. Each
//! request has exactly one `RequestLog`, which writes its log line and updates the counters.

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

/// A listener of the reverse proxy, on one worker.
pub struct ReverseService {
    /// The worker.
    pub worker: Rc<Worker>,
    /// The virtual server of the current generation.
    pub virtual_server: Arc<ArcSwap<VirtualServer>>,
    /// Open connections of the listener, on all workers.
    pub admission: Arc<Admission>,
    /// The listener is being removed.
    pub closing: Rc<Cell<bool>>,
}

/// Properties of a client connection, known from its handshake on.
struct ClientConn {
    /// The peer, after the PROXY header of a balancer: the client, or a trusted proxy that names
    /// the client of each request.
    client: ClientAddr,
    /// The address that the client connected to. `None` if no upstream is sent it.
    destination: Option<SocketAddr>,
    /// The PROXY header of the balancer. Boxed, because most connections have none.
    via: Option<Box<ProxyHeader>>,
    tls: &'static str,
    sni: Option<String>,
    handshake: ClientHandshake,
    /// The configuration change after which `handshake` was last checked.
    checked: Cell<u64>,
    /// The current configuration does not accept `handshake`.
    outdated: Cell<bool>,
    /// Time at which the connection was accepted.
    began: Instant,
    /// The reason why the gateway closed the connection, for the requests that end with it.
    ended: Cell<Option<Reason>>,
    /// Quota accounts of the clients on this connection.
    accounts: Accounts,
}

impl ClientConn {
    /// A new connection, before its TLS handshake.
    fn new(peer: ClientAddr, via: Option<Box<ProxyHeader>>) -> Self {
        let client = via.as_ref().map_or(peer, |via| via.client());
        let destination = via.as_ref().and_then(|via| via.destination());
        Self {
            client,
            destination,
            via,
            tls: "",
            sni: None,
            handshake: ClientHandshake::default(),
            checked: Cell::new(u64::MAX),
            outdated: Cell::new(false),
            began: Instant::now(),
            ended: Cell::new(None),
            accounts: Accounts::default(),
        }
    }

    /// Whether the connection must be closed because its listener now requires more of the TLS
    /// handshake. The virtual server is consulted only after a change of configuration.
    fn is_outdated(&self, service: &ReverseService) -> bool {
        let generation = service.worker.local.generation();
        if self.checked.replace(generation) != generation {
            self.outdated.set(!service.virtual_server.load().accepts(&self.handshake));
        }
        self.outdated.get()
    }

    /// Whether a request that has just been read may be served under `virtual_server`. If not, the
    /// connection is outdated; workers learn of a change a moment after it.
    fn serves(&self, virtual_server: &VirtualServer) -> bool {
        let accepted = virtual_server.accepts(&self.handshake);
        self.outdated.set(!accepted);
        accepted
    }

    /// Client information for the upstream connection of a request.
    fn client_info<'a>(
        &'a self,
        virtual_server: &VirtualServer,
        (client, id): (ClientAddr, &'a RequestId),
    ) -> ClientInfo<'a> {
        // The destination is unset if no upstream needed it when the client connected.
        let destination = self.destination.unwrap_or(virtual_server.address);
        let ends = ConnAddrs { source: self.client.0, destination };
        ClientInfo { client, ends, sni: self.sni.as_deref(), id, accounts: &self.accounts }
    }

    /// Parameters for the fields that tell an upstream where a request came from.
    fn origin<'a>(
        &self,
        (virtual_server, client): (&VirtualServer, ClientAddr),
        (route, proxy_target): (&'a CompiledRoute, &'a ProxyTarget),
        (id, trace): (&'a RequestId, Option<&'a TraceParent>),
    ) -> ClientOrigin<'a> {
        ClientOrigin {
            client: client.ip(),
            proxy: virtual_server.trusted_proxy(self.client),
            strip_prefix: proxy_target.strip_prefix.as_deref(),
            sticky_cookie_name: proxy_target.upstream.sticky_cookie_name(),
            request_id: id.as_str(),
            trace,
            passes: &route.passes,
        }
    }
}
