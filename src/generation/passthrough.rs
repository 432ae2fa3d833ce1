//! Compiled passthrough listeners, which forward connections without terminating TLS.
//!
//! In: the client's address and ClientHello. Out: a route, or the reason for a rejection.

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

/// One compiled listener of a `[tcp.NAME]` table.
pub struct PassthroughListener {
    /// Names of the listener in logs and metrics.
    pub names: Arc<ListenerLabels>,
    /// Address and port.
    pub address: SocketAddr,
    /// Place of the `listen` key in the configuration.
    pub place: Span,
    /// Balancers that name their clients in a PROXY header; `None` if there are none.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Limits on connections.
    pub limits: TcpLimits,
    /// Timeouts of connections.
    pub timeouts: TcpTimeouts,
    /// Counters of the listener.
    pub metrics: ListenerMetrics,
    /// Counters for connections that match no route.
    pub no_route: Arc<PassthroughRouteStats>,
    /// Version of its generation.
    pub config_version: Arc<ConfigVersion>,
    table: Arc<PassthroughTable>,
    guard: Arc<GenerationGuard>,
}

/// State shared by all listeners of a table.
struct PassthroughTable {
    clients: Vec<IpNet>,
    on_failover: OnEndpointChange,
    on_failback: OnEndpointChange,
    close_spread: Duration,
    routes: Vec<Arc<PassthroughRoute>>,
    /// Exact server names, mapped to indices of routes.
    by_name: HashMap<String, usize>,
    /// Wildcard names without their `*.`, mapped to indices of routes.
    by_wildcard: HashMap<String, usize>,
    /// Index of the catch-all route.
    catch_all: Option<usize>,
}

/// One compiled route.
pub struct PassthroughRoute {
    /// Log and metric labels.
    pub stats: Arc<PassthroughRouteStats>,
    /// Place of the `upstream` key in the configuration.
    pub place: Span,
    /// Destination of the connections.
    pub upstream: Arc<Upstream>,
    /// Counters of the upstream.
    pub counters: UpstreamMetrics,
    /// Whether the endpoint is dialled on the port that the client connected to.
    pub same_port: bool,
}

/// Log and metric labels of a route; the only part of its route that a connection keeps.
pub struct PassthroughRouteStats {
    /// Name of the route in logs and metrics.
    pub name: String,
    /// Counters of the route.
    pub metrics: PassthroughMetrics,
}

/// Properties of an open connection that decide whether a new generation keeps it.
#[derive(Clone)]
pub struct PassthroughConn {
    /// Current configuration of its listener.
    pub listener: Arc<ArcSwap<PassthroughListener>>,
    /// Labels of its listener when it was opened.
    pub names: Arc<ListenerLabels>,
    /// Labels of its route.
    pub stats: Arc<PassthroughRouteStats>,
    /// Address of the client.
    pub client: ClientAddr,
    /// Server name in the ClientHello; `None` if it had none or was not read.
    pub server_name: Option<Arc<str>>,
    /// Name of its upstream.
    pub upstream: Arc<str>,
    /// Name of its endpoint.
    pub endpoint: Arc<str>,
}

/// Decision about an open connection after a reload or a change of endpoint health.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReloadVerdict {
    /// The connection is kept.
    Stays,
    /// The configuration no longer allows the connection.
    Forbidden,
    /// Its endpoint was replaced by another: close it within this time.
    Superseded(Duration),
}

/// Inputs for compiling the listeners of a table.
pub(super) struct PassthroughInputs<'a> {
    pub(super) upstreams: &'a [(Arc<Upstream>, UpstreamMetrics)],
    pub(super) names: &'a LabelLimits,
    pub(super) config_version: &'a Arc<ConfigVersion>,
    pub(super) guard: &'a Arc<GenerationGuard>,
}

/// Compiles a table into one passthrough listener per `[[listener]]`.
pub(super) fn compile<'a>(
    tcp: &'a config::Tcp,
    inputs: &'a PassthroughInputs<'a>,
) -> impl Iterator<Item = PassthroughListener> + use<'a> {
    let mut table = PassthroughTable {
        clients: tcp.clients.clone(),
        on_failover: tcp.on_failover,
        on_failback: tcp.on_failback,
        close_spread: tcp.close_spread,
        routes: Vec::new(),
        by_name: HashMap::new(),
        by_wildcard: HashMap::new(),
        catch_all: None,
    };
    let stats = |name: &str| {
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
                Some(above) => table.by_wildcard.insert(above.to_owned(), index),
                None => table.by_name.insert(name.as_str().to_owned(), index),
            };
        }
        if route.server_names.is_empty() {
            table.catch_all = Some(index);
        }
        table.routes.push(Arc::new(PassthroughRoute {
            stats: stats(&route.name),
            place: route.place,
            upstream: Arc::clone(upstream),
            counters: counters.clone(),
            same_port: route.same_port,
        }));
    }
    let (table, no_route) = (Arc::new(table), stats(NO_ROUTE));
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

    /// Networks of clients that may connect; empty for any.
    #[must_use]
    pub fn clients(&self) -> &[IpNet] {
        &self.table.clients
    }

    /// Routes in the order of the configuration.
    #[must_use]
    pub fn routes(&self) -> &[Arc<PassthroughRoute>] {
        &self.table.routes
    }

    /// Whether routing depends on the server name in the ClientHello.
    #[must_use]
    pub fn reads_hello(&self) -> bool {
        !self.table.by_name.is_empty() || !self.table.by_wildcard.is_empty()
    }

    /// Routes a connection by its ClientHello. Pass `None` if it was not read, because
    /// [`PassthroughListener::reads_hello`] is false.
    ///
    /// # Errors
    ///
    /// The reason for the rejection.
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

    /// The route for a server name: an exact match, a wildcard one label above, or the catch-all
    /// route.
    #[must_use]
    pub fn route(&self, name: Option<&str>) -> Option<&Arc<PassthroughRoute>> {
        let PassthroughTable { routes, by_name, by_wildcard, catch_all, .. } = &*self.table;
        let index = name
            .and_then(|name| {
                let above = || {
                    by_wildcard.get(name.split_once('.').filter(|(label, _)| !label.is_empty())?.1)
                };
                by_name.get(name).or_else(above).copied()
            })
            .or(*catch_all)?;
        routes.get(index)
    }

    /// Decides about an open connection. A connection whose ClientHello was not read is treated
    /// like one without a server name.
    #[must_use]
    pub fn reload_verdict(&self, passthrough_conn: &PassthroughConn) -> ReloadVerdict {
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
        let on_change = match upstream.left(index) {
            None => OnEndpointChange::Keep,
            Some(Demotion::Down) => self.table.on_failover,
            Some(Demotion::Returned) => self.table.on_failback,
        };
        match on_change {
            OnEndpointChange::Keep => ReloadVerdict::Stays,
            OnEndpointChange::Close => ReloadVerdict::Superseded(self.table.close_spread),
        }
    }

    /// A copy without routes, for connections that remain after their table was removed.
    #[must_use]
    pub fn without_routes(&self) -> Self {
        let table = PassthroughTable {
            clients: self.table.clients.clone(),
            on_failover: self.table.on_failover,
            on_failback: self.table.on_failback,
            close_spread: self.table.close_spread,
            routes: Vec::new(),
            by_name: HashMap::new(),
            by_wildcard: HashMap::new(),
            catch_all: None,
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
