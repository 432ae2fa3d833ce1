//! What one listener passes through, and where to: connections whose TLS we do not open.
//!
//! In: what a client's hello says. Out: a route, or the reason why there is none.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::addr::ClientAddr;
use crate::config::{self, OnEndpointChange, ProxyProtocol, Span, TcpLimits, TcpTimeouts};
use crate::message::Reason;
use crate::telemetry::tcp::NO_ROUTE;
use crate::telemetry::{LabelLimits, ListenerMetrics, PassthroughMetrics, UpstreamMetrics};
use crate::tls::hello::HelloProgress;
use crate::upstream::balance::Demotion;
use crate::upstream::{Endpoint, Upstream};

use super::virtual_server::ListenerLabels;
use super::{ConfigVersion, GenerationGuard};

/// One listener of `[tcp.NAME]`, compiled.
pub struct PassthroughListener {
    /// What it is called.
    pub names: Arc<ListenerLabels>,
    /// The address it listens on.
    pub address: SocketAddr,
    /// Where `listen` is written.
    pub place: Span,
    /// Balancers in front of it; `None`: there are none.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How many connections.
    pub limits: TcpLimits,
    /// How long things may take.
    pub timeouts: TcpTimeouts,
    /// Counters.
    pub metrics: ListenerMetrics,
    /// What no route is counted under.
    pub no_route: Arc<PassthroughRouteStats>,
    /// The name of its generation.
    pub config_version: Arc<ConfigVersion>,
    table: Arc<PassthroughTable>,
    guard: Arc<GenerationGuard>,
}

/// What all listeners of a table share.
struct PassthroughTable {
    clients: Vec<IpNet>,
    on_down: OnEndpointChange,
    on_return: OnEndpointChange,
    close_over: Duration,
    routes: Vec<Arc<PassthroughRoute>>,
    /// Names to indices of routes.
    by_name: HashMap<String, usize>,
    /// What follows `*.` in names, likewise.
    below: HashMap<String, usize>,
    /// The route that takes the rest.
    rest: Option<usize>,
}

/// A route, compiled.
pub struct PassthroughRoute {
    /// What is told about it.
    pub tally: Arc<PassthroughRouteStats>,
    /// Where `upstream` is written.
    pub place: Span,
    /// Where connections go.
    pub upstream: Arc<Upstream>,
    /// The upstream's counters.
    pub counters: UpstreamMetrics,
    /// To the port that the client came to.
    pub same_port: bool,
}

/// What is told about a route: all that a connection keeps of the one that let it in.
pub struct PassthroughRouteStats {
    /// Its name in logs and metrics.
    pub name: String,
    /// Its counters.
    pub metrics: PassthroughMetrics,
}

/// A connection that is passed through, as a configuration judges it.
#[derive(Clone)]
pub struct PassthroughConn {
    /// What its listener serves at present.
    pub place: Arc<ArcSwap<PassthroughListener>>,
    /// What its listener was called when it was opened.
    pub names: Arc<ListenerLabels>,
    /// Of the route that took it.
    pub tally: Arc<PassthroughRouteStats>,
    /// Whose it is.
    pub client: ClientAddr,
    /// The name in its hello; `None`: there was none, or it was not asked for.
    pub server_name: Option<Arc<str>>,
    /// Name of the upstream it goes to.
    pub upstream: Arc<str>,
    /// Name of the endpoint it goes to.
    pub endpoint: Arc<str>,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReloadVerdict {
    /// It stays.
    Stays,
    /// It is not allowed any more.
    Forbidden,
    /// Its endpoint is not the one to use any more: it is closed within this time.
    Superseded(Duration),
}

/// What the listeners of a table are made of.
pub(super) struct PassthroughInputs<'a> {
    pub(super) upstreams: &'a [(Arc<Upstream>, UpstreamMetrics)],
    pub(super) names: &'a LabelLimits,
    pub(super) config_version: &'a Arc<ConfigVersion>,
    pub(super) guard: &'a Arc<GenerationGuard>,
}

/// Compiles a table: one passage per listener.
pub(super) fn compile<'a>(
    tcp: &'a config::Tcp,
    inputs: &'a PassthroughInputs<'a>,
) -> impl Iterator<Item = PassthroughListener> + use<'a> {
    let mut table = PassthroughTable {
        clients: tcp.clients.clone(),
        on_down: tcp.on_down,
        on_return: tcp.on_return,
        close_over: tcp.close_over,
        routes: Vec::new(),
        by_name: HashMap::new(),
        below: HashMap::new(),
        rest: None,
    };
    let tally = |name: &str| {
        Arc::new(PassthroughRouteStats {
            name: name.to_owned(),
            metrics: inputs.names.tcp(&tcp.name, name),
        })
    };
    for route in &tcp.routes {
        let Some((upstream, counters)) = inputs.upstreams.get(route.upstream.0) else { continue };
        let index = table.routes.len();
        for name in &route.server_names {
            match name.as_str().strip_prefix("*.") {
                Some(above) => table.below.insert(above.to_owned(), index),
                None => table.by_name.insert(name.as_str().to_owned(), index),
            };
        }
        if route.server_names.is_empty() {
            table.rest = Some(index);
        }
        table.routes.push(Arc::new(PassthroughRoute {
            tally: tally(&route.name),
            place: route.place,
            upstream: Arc::clone(upstream),
            counters: counters.clone(),
            same_port: route.same_port,
        }));
    }
    let (table, no_route) = (Arc::new(table), tally(NO_ROUTE));
    tcp.listeners.iter().map(move |listener| {
        let label = listener.listen.to_string();
        PassthroughListener {
            metrics: match listener.proxy_protocol {
                Some(_) => inputs.names.listener_for_balancers(&tcp.name, &label),
                None => inputs.names.listener(&tcp.name, &label),
            },
            proxy_protocol: listener.proxy_protocol.clone(),
            names: Arc::new(ListenerLabels {
                profile: tcp.name.clone(),
                listener: label,
                logs: tcp.access_log,
            }),
            address: listener.listen,
            place: listener.place,
            limits: tcp.limits,
            timeouts: tcp.timeouts,
            no_route: Arc::clone(&no_route),
            config_version: Arc::clone(inputs.config_version),
            table: Arc::clone(&table),
            guard: Arc::clone(inputs.guard),
        }
    })
}

impl PassthroughListener {
    /// Whether this client may connect.
    #[must_use]
    pub fn admits(&self, client: ClientAddr) -> bool {
        let clients = &self.table.clients;
        clients.is_empty() || clients.iter().any(|network| network.contains(&client.ip()))
    }

    /// Networks of clients that may connect; none: any.
    #[must_use]
    pub fn clients(&self) -> &[IpNet] {
        &self.table.clients
    }

    /// Its routes, in the order of the file.
    #[must_use]
    pub fn routes(&self) -> &[Arc<PassthroughRoute>] {
        &self.table.routes
    }

    /// Whether the name in the client's hello decides where it goes.
    #[must_use]
    pub fn reads_hello(&self) -> bool {
        !self.table.by_name.is_empty() || !self.table.below.is_empty()
    }

    /// Where a connection goes that begins like this; `None`: nobody has looked, because
    /// [`PassthroughListener::reads_hello`] is false.
    ///
    /// # Errors
    ///
    /// Why it goes nowhere.
    pub fn judge(&self, read: Option<&HelloProgress>) -> Result<&Arc<PassthroughRoute>, Reason> {
        let name = match read {
            None => None,
            Some(HelloProgress::Hello(hello)) => hello.sni.as_deref(),
            Some(HelloProgress::NotTls) => return Err(Reason::TcpNotTls),
            Some(HelloProgress::Malformed | HelloProgress::TooLarge | HelloProgress::NeedMore) => {
                return Err(Reason::TcpBadHello);
            }
        };
        self.route(name).ok_or(match name {
            Some(_) => Reason::TcpSniUnknown,
            None => Reason::TcpSniMissing,
        })
    }

    /// The route for a name: its own, that of a wildcard one label above, or the one that takes the
    /// rest.
    #[must_use]
    pub fn route(&self, name: Option<&str>) -> Option<&Arc<PassthroughRoute>> {
        let PassthroughTable { routes, by_name, below, rest, .. } = &*self.table;
        let index = name
            .and_then(|name| {
                let above =
                    || below.get(name.split_once('.').filter(|(label, _)| !label.is_empty())?.1);
                by_name.get(name).or_else(above).copied()
            })
            .or(*rest)?;
        routes.get(index)
    }

    /// What is to become of a connection that is open. `None` as its server name stands for one that
    /// has none; a connection nobody asked for its name is judged as if it had none.
    #[must_use]
    pub fn outlook(&self, passthrough_conn: &PassthroughConn) -> ReloadVerdict {
        if !self.admits(passthrough_conn.client) {
            return ReloadVerdict::Forbidden;
        }
        let Some(route) = self.route(passthrough_conn.server_name.as_deref()) else {
            return ReloadVerdict::Forbidden;
        };
        let upstream = &route.upstream;
        let same = |endpoint: &Arc<Endpoint>| endpoint.label == passthrough_conn.endpoint;
        let index = upstream.endpoints.iter().position(same);
        let Some(index) = index.filter(|_| upstream.name == passthrough_conn.upstream) else {
            return ReloadVerdict::Forbidden;
        };
        let fate = match upstream.left(index) {
            None => OnEndpointChange::Keep,
            Some(Demotion::Down) => self.table.on_down,
            Some(Demotion::Returned) => self.table.on_return,
        };
        match fate {
            OnEndpointChange::Keep => ReloadVerdict::Stays,
            OnEndpointChange::Close => ReloadVerdict::Superseded(self.table.close_over),
        }
    }

    /// The same listener leading nowhere, for what is left of it once its table is gone.
    #[must_use]
    pub fn emptied(&self) -> Self {
        let table = PassthroughTable {
            clients: self.table.clients.clone(),
            on_down: self.table.on_down,
            on_return: self.table.on_return,
            close_over: self.table.close_over,
            routes: Vec::new(),
            by_name: HashMap::new(),
            below: HashMap::new(),
            rest: None,
        };
        Self {
            names: Arc::clone(&self.names),
            proxy_protocol: self.proxy_protocol.clone(),
            metrics: self.metrics.clone(),
            no_route: Arc::clone(&self.no_route),
            config_version: Arc::clone(&self.config_version),
            table: Arc::new(table),
            guard: Arc::clone(&self.guard),
            ..*self
        }
    }
}
