//! Virtual servers: everything that one listener of the reverse proxy serves, and the routing
//! decision for a request.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderName, Method};
use ipnet::IpNet;

use crate::addr::{ClientAddr, HostPattern};
use crate::config::{self, ClientAddressField, Limits, ProxyProtocol, Timeouts};
use crate::message::forward::{ResponseEdits, TrustedProxy};
use crate::message::path::{self, Oddities};
use crate::message::{Framing, HeaderFields, Reason, RequestHead, client, host};
use crate::net::quota::Quota;
use crate::route::{PathMatch, RouteError, RouteTable};
use crate::telemetry::socketio::SocketIoLabels;
use crate::telemetry::{LazyRouteMetrics, ListenerMetrics, UpstreamMetrics};
use crate::tls::{ClientHandshake, ServerTls};
use crate::upstream::Upstream;

use super::drift::ConfigDigest;
use super::{ConfigVersion, GenerationGuard, SelfTestServer};

/// Compiled configuration of one listener of the reverse proxy.
pub struct VirtualServer {
    /// Names of the listener in logs and metrics.
    pub names: Arc<ListenerLabels>,
    /// Address and port.
    pub address: SocketAddr,
    /// Place of the `listen` key in the configuration.
    pub place: config::Span,
    /// The routes, or a redirect to HTTPS.
    pub served: ListenerService,
    /// Host names it serves; empty for any.
    pub hosts: Vec<HostPattern>,
    /// Networks of trusted proxies.
    pub trusted: Vec<IpNet>,
    /// Field in which trusted proxies name the client.
    pub named_by: ClientAddressField,
    /// Whether forwarded requests get a `traceparent` field of the gateway.
    pub adds_trace_context: bool,
    /// Whether Socket.IO sessions are tracked.
    pub tracks_socketio: bool,
    /// Limits per client, connection and request.
    pub limits: Limits,
    /// Limit on buffered response bytes that HTTP/2 clients have not read yet, over all
    /// connections.
    pub http2_send_buffers: usize,
    /// Open requests and WebSockets of the profile, over all its listeners and all workers.
    pub requests: Arc<Quota>,
    /// Timeouts for clients.
    pub timeouts: Timeouts,
    /// Whether an upstream of its routes gets a PROXY header, which contains the address that the
    /// client connected to.
    pub announces: bool,
    /// Balancers that name their clients in a PROXY header.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// TLS settings; `None` for plain HTTP.
    pub tls: Option<ServerTls>,
    /// Field edits of responses to requests that match no route.
    pub edits: Arc<ResponseEdits>,
    /// Counters of the listener.
    pub metrics: ListenerMetrics,
    /// Version of its generation.
    pub config_version: Arc<ConfigVersion>,
    /// Keeps its generation counted as alive.
    pub guard: Arc<GenerationGuard>,
}

/// Names of a listener. A tunnel keeps these labels, and no other part of the virtual server it was
/// opened under.
#[derive(Debug)]
pub struct ListenerLabels {
    /// Name of the profile, or of the `[tcp]` table.
    pub profile: String,
    /// The address as text; the listener's name in logs and metrics.
    pub listener: String,
    /// Whether its requests are written to the access log.
    pub logs: bool,
}

/// Content of a listener.
#[expect(clippy::large_enum_variant, reason = "there is one per listener")]
pub enum ListenerService {
    /// Requests are matched against routes.
    Routes {
        /// Maps a path and method to an index of `routes`.
        table: RouteTable,
        /// Indexed by the results of `table`.
        routes: Vec<Arc<CompiledRoute>>,
    },
    /// Redirect to the same URL with the scheme `https` and this port.
    RedirectToHttps(u16),
}

impl ListenerService {
    /// Whether at least one upstream of its routes gets a PROXY header.
    pub(super) fn announces(&self) -> bool {
        let Self::Routes { routes, .. } = self else { return false };
        let targets = routes.iter().filter_map(|route| route.action.proxy_target());
        targets.map(|target| &target.upstream).any(|upstream| upstream.announces)
    }
}

/// One compiled route.
pub struct CompiledRoute {
    /// Log and metric labels.
    pub stats: Arc<RouteStats>,
    /// Place of the `path` key in the configuration.
    pub place: config::Span,
    /// Action for matching requests.
    pub action: RouteAction,
    /// Largest request body, in bytes.
    pub max_body: u64,
    /// Whether WebSockets are allowed.
    pub websocket: bool,
    /// Whether a request may be sent again on a new connection; see
    /// [`crate::config::Route::retry`].
    pub retry: bool,
    /// Ambiguous path spellings that the route allows.
    pub admits: Oddities,
    /// Field edits of responses.
    pub edits: Arc<ResponseEdits>,
    /// Request fields that are forwarded although components may trust them.
    pub passes: Arc<[HeaderName]>,
}

/// Log and metric labels of a route; the only part of its route that a tunnel keeps.
pub struct RouteStats {
    /// Name of the route in logs and metrics.
    pub name: Arc<str>,
    /// Whether log and metrics mark its requests as ones that would be denied without this route.
    pub report_only: bool,
    /// Counters, created by the first request.
    pub metrics: LazyRouteMetrics,
}

/// Action of a route.
pub enum RouteAction {
    /// Forwards the request to an upstream.
    Proxy(ProxyTarget),
    /// Forwards the request to the self-test, which is part of the gateway.
    SelfTest(ProxyTarget, Arc<SelfTestServer>),
    /// Redirects the client.
    Redirect {
        /// Value of `Location`.
        to: String,
        /// Response status.
        status: u16,
    },
    /// Answers 403.
    Deny,
    /// Reports whether the gateway is ready and these upstreams are up.
    Ready(Vec<Arc<Upstream>>),
    /// Answers drift requests of gateways with the same shared secret; other requests get 404
    /// `no_route`.
    Drift(Arc<OnceLock<ConfigDigest>>),
}

/// Destination of forwarded requests.
pub struct ProxyTarget {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// Counters of the upstream.
    pub counters: UpstreamMetrics,
    /// Prefix removed from the path; `None` if the path is unchanged.
    pub strip_prefix: Option<String>,
    /// Time limit up to the first byte of the response.
    pub first_byte: Duration,
    /// Labels of its Socket.IO sessions; `None` for the self-test, whose sessions are not tracked.
    pub sessions: Option<Arc<SocketIoLabels>>,
}

impl RouteAction {
    /// The proxy target, if the action forwards requests.
    #[must_use]
    pub fn proxy_target(&self) -> Option<&ProxyTarget> {
        match self {
            Self::Proxy(way) | Self::SelfTest(way, _) => Some(way),
            Self::Redirect { .. } | Self::Deny | Self::Ready(_) | Self::Drift(_) => None,
        }
    }
}

/// The properties of a request that routes decide by.
pub struct RouteQuery<'a> {
    /// Host name without port.
    pub host: &'a str,
    /// Raw path and query.
    pub target: &'a [u8],
    /// Request method.
    pub method: &'a Method,
    /// Whether the request asks for a WebSocket.
    pub upgrade: bool,
}

/// Properties of an open tunnel that decide whether a new generation keeps it.
#[derive(Clone)]
pub struct TunnelInfo {
    /// Current virtual server of its listener.
    pub virtual_server: Arc<ArcSwap<VirtualServer>>,
    /// Labels of its listener when it was opened.
    pub names: Arc<ListenerLabels>,
    /// Labels of its route.
    pub route: Option<Arc<RouteStats>>,
    /// Host of the request, port included.
    pub host: Bytes,
    /// Path of the request, query included.
    pub target: Bytes,
    /// Name of its upstream.
    pub upstream: Arc<str>,
    /// Name of its endpoint.
    pub endpoint: Option<Arc<str>>,
    /// TLS handshake of its client.
    pub handshake: ClientHandshake,
}

/// Result of routing a request.
pub enum RouteDecision {
    /// The request matches this route.
    Route(Arc<CompiledRoute>),
    /// The path matches a route once `/` is appended; redirect there.
    AddSlash,
    /// The listener redirects to HTTPS on this port.
    ToHttps(u16),
}

/// Rejection of a request by routing.
pub struct RouteRejection {
    /// The reason word.
    pub reason: Reason,
    /// The route that rejected it, if one matched.
    pub route: Option<Arc<CompiledRoute>>,
    /// Value of `Allow` for a 405 response.
    pub allow: Option<String>,
}

impl RouteRejection {
    fn new(reason: Reason) -> Self {
        Self { reason, route: None, allow: None }
    }

    fn by_route(reason: Reason, route: &Arc<CompiledRoute>) -> Self {
        Self { reason, route: Some(Arc::clone(route)), allow: None }
    }
}

/// Converts the rejection of a path that narrower rules reject in another spelling.
fn reject_spelling(
    refused: RouteError,
    table: &RouteTable,
    routes: &[Arc<CompiledRoute>],
) -> RouteRejection {
    let by = |reason, rule: usize| RouteRejection {
        route: routes.get(rule).cloned(),
        ..RouteRejection::new(reason)
    };
    match refused {
        RouteError::Denied(rule) => by(Reason::RouteDenied, rule),
        RouteError::WebSocket(rule) => by(Reason::WebSocketDenied, rule),
        RouteError::Method(rules) => {
            let allow = Some(table.allow(&rules));
            RouteRejection { allow, ..RouteRejection::new(Reason::MethodNotAllowed) }
        }
    }
}

impl VirtualServer {
    /// Routes a request by host, path, method, upgrade and declared body length, checked in this
    /// order.
    ///
    /// # Errors
    ///
    /// A [`RouteRejection`] by the first check that fails.
    pub fn decide(&self, head: &RequestHead) -> Result<RouteDecision, RouteRejection> {
        // A WebSocket over HTTP/2 is an extended CONNECT; the upstream gets it as a GET.
        let method = if head.upgrade { &Method::GET } else { &head.method };
        let query = RouteQuery {
            host: head.host_name(),
            target: &head.target,
            method,
            upgrade: head.upgrade,
        };
        let decision = self.decide_query(&query)?;
        if let RouteDecision::Route(route) = &decision
            && let RouteAction::Drift(digest) = &route.action
            && !digest.get().is_some_and(|digest| digest.is_authenticated(head))
        {
            return Err(RouteRejection::new(Reason::NoRoute));
        }
        if let (RouteDecision::Route(route), Framing::Length(length)) = (&decision, head.framing)
            && length > route.max_body
        {
            return Err(RouteRejection::by_route(Reason::BodyTooLarge, route));
        }
        Ok(decision)
    }

    /// The route of a request that is hidden from this client, for explanations to operators. Only
    /// drift routes are hidden.
    #[must_use]
    pub fn hidden_route(&self, head: &RequestHead) -> Option<Arc<CompiledRoute>> {
        let (host, target, method) = (head.host_name(), &*head.target, &head.method);
        let query = RouteQuery { host, target, method, upgrade: head.upgrade };
        let Ok(RouteDecision::Route(route)) = self.decide_query(&query) else { return None };
        matches!(route.action, RouteAction::Drift(_)).then_some(route)
    }

    /// Routes by host, path, method and upgrade alone; also used to check an open tunnel again.
    ///
    /// # Errors
    ///
    /// A [`RouteRejection`] by the first check that fails.
    pub fn decide_query(&self, query: &RouteQuery<'_>) -> Result<RouteDecision, RouteRejection> {
        let host = query.host;
        if !self.hosts.is_empty() && !self.hosts.iter().any(|pattern| pattern.covers(host)) {
            return Err(RouteRejection::new(Reason::UnknownHost));
        }
        let (table, routes) = match &self.served {
            ListenerService::RedirectToHttps(port) => return Ok(RouteDecision::ToHttps(*port)),
            ListenerService::Routes { table, routes } => (table, routes),
        };
        let matchable = path::matchable(path::raw(query.target)).map_err(RouteRejection::new)?;
        let (path, oddities) = (&*matchable.path, matchable.oddities);
        let route = match table.find(path, query.method) {
            PathMatch::Rule(index) => {
                let route =
                    routes.get(index).ok_or_else(|| RouteRejection::new(Reason::Internal))?;
                let refused = table.refusal(index, path, query.method, query.upgrade);
                if let Some(refused) = refused {
                    return Err(reject_spelling(refused, table, routes));
                }
                let denies = matches!(route.action, RouteAction::Deny);
                if !denies && !oddities.is_within(route.admits) {
                    return Err(RouteRejection::by_route(Reason::AmbiguousPath, route));
                }
                route
            }
            // The path may match a route in its unambiguous spelling, so the reason is the
            // ambiguity.
            _ if !oddities.is_none() => return Err(RouteRejection::new(Reason::AmbiguousPath)),
            PathMatch::Slash => {
                // If `path/` is denied, `path` is denied too, rather than redirected to it.
                let below = [path, b"/"].concat();
                let PathMatch::Rule(index) = table.find(&below, query.method) else {
                    return Ok(RouteDecision::AddSlash);
                };
                match routes.get(index) {
                    Some(route) if matches!(route.action, RouteAction::Deny) => route,
                    _ => return Ok(RouteDecision::AddSlash),
                }
            }
            PathMatch::Nothing => return Err(RouteRejection::new(Reason::NoRoute)),
            PathMatch::Method(allow) => {
                return Err(RouteRejection {
                    allow: Some(allow),
                    ..RouteRejection::new(Reason::MethodNotAllowed)
                });
            }
        };
        if matches!(route.action, RouteAction::Deny) {
            return Err(RouteRejection::by_route(Reason::RouteDenied, route));
        }
        if query.upgrade && matches!(route.action, RouteAction::Drift(_)) {
            return Err(RouteRejection::new(Reason::NoRoute));
        }
        if query.upgrade && !(route.websocket && route.action.proxy_target().is_some()) {
            return Err(RouteRejection::by_route(Reason::WebSocketDenied, route));
        }
        Ok(RouteDecision::Route(Arc::clone(route)))
    }

    /// Whether this configuration would still forward an open tunnel to the same endpoint. `host`
    /// and `target` are those of the request that opened it.
    #[must_use]
    pub fn still_carries(
        &self,
        (host, target): (&[u8], &[u8]),
        upstream: &str,
        endpoint: Option<&str>,
    ) -> bool {
        let query = RouteQuery {
            host: host::parse(host).map_or("", |h| h.host),
            target,
            method: &Method::GET,
            upgrade: true,
        };
        let Ok(RouteDecision::Route(route)) = self.decide_query(&query) else { return false };
        let Some(ProxyTarget { upstream: now, .. }) = route.action.proxy_target() else {
            return false;
        };
        // Compared by label, because an endpoint whose CA settings changed is still the same
        // endpoint.
        *now.name == *upstream && now.endpoints.iter().any(|e| Some(&*e.label) == endpoint)
    }

    /// Whether this configuration still accepts a client that made this TLS handshake.
    #[must_use]
    pub fn accepts(&self, handshake: &ClientHandshake) -> bool {
        handshake.is_accepted_by(self.tls.as_ref())
    }

    /// A copy without routes, for connections that remain after their profile was removed.
    #[must_use]
    pub fn without_routes(&self) -> Self {
        let served = ListenerService::Routes { table: RouteTable::default(), routes: Vec::new() };
        Self {
            served,
            names: Arc::clone(&self.names),
            hosts: self.hosts.clone(),
            trusted: self.trusted.clone(),
            limits: self.limits.clone(),
            requests: Arc::clone(&self.requests),
            timeouts: self.timeouts.clone(),
            proxy_protocol: self.proxy_protocol.clone(),
            tls: self.tls.clone(),
            edits: Arc::clone(&self.edits),
            metrics: self.metrics.clone(),
            config_version: Arc::clone(&self.config_version),
            guard: Arc::clone(&self.guard),
            ..*self
        }
    }

    /// Address of the client that sent a request on a connection from `connected`. If `connected`
    /// is a trusted proxy, the client is read from the request fields; an unknown port is 0.
    #[must_use]
    pub fn client_of(&self, connected: ClientAddr, fields: &HeaderFields) -> ClientAddr {
        if !self.trusts(connected) {
            return connected;
        }
        client::named(fields, self.named_by, connected, |hop| self.trusts(hop))
    }

    /// Details of the trusted proxy that is connected, for the upstream; `None` if the peer is not
    /// one.
    #[must_use]
    pub fn trusted_proxy(&self, connected: ClientAddr) -> Option<TrustedProxy> {
        let believed = self.named_by != ClientAddressField::Forwarded;
        self.trusts(connected).then(|| TrustedProxy { address: connected.ip(), believed })
    }

    /// The first host of the profile that has no wildcard.
    #[must_use]
    pub fn first_host(&self) -> Option<&str> {
        self.hosts.iter().map(HostPattern::as_str).find(|host| !host.starts_with('*'))
    }

    /// Whether the peer is a trusted proxy.
    #[must_use]
    pub fn trusts(&self, client: ClientAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&client.ip()))
    }
}

#[cfg(test)]
mod spellings;
