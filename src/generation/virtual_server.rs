//! What one listener serves, and how it decides about a request.

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

/// One listener, compiled.
pub struct VirtualServer {
    /// What it is called.
    pub names: Arc<ListenerLabels>,
    /// The address it listens on.
    pub address: SocketAddr,
    /// Where `listen` is written.
    pub place: config::Span,
    /// What it serves.
    pub served: ListenerService,
    /// Hosts it answers for; empty: any.
    pub hosts: Vec<HostPattern>,
    /// Proxies that are believed.
    pub trusted: Vec<IpNet>,
    /// By which field they say who the client is.
    pub named_by: ClientAddressField,
    /// Requests are passed on with a `traceparent` of the gateway's.
    pub traces: bool,
    /// Socket.IO sessions are followed.
    pub follows: bool,
    /// Limits on what a client may do.
    pub limits: Limits,
    /// Bytes of answers that HTTP/2 clients of all connections have not taken yet, at most.
    pub http2_send_buffers: usize,
    /// Requests and WebSockets of the profile, of all listeners and workers.
    pub requests: Arc<Quota>,
    /// How long a client may take.
    pub timeouts: Timeouts,
    /// Whether an upstream of its routes is told where clients connected to.
    pub announces: bool,
    /// Balancers that say who the client is.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// TLS settings; `None` for plain HTTP.
    pub tls: Option<ServerTls>,
    /// Fields of answers to requests that no route takes.
    pub edits: Arc<ResponseEdits>,
    /// Counters.
    pub metrics: ListenerMetrics,
    /// The name of its generation.
    pub config_version: Arc<ConfigVersion>,
    /// Of the generation it belongs to.
    pub guard: Arc<GenerationGuard>,
}

/// What a listener is called: all that a tunnel keeps of the site it was opened under.
#[derive(Debug)]
pub struct ListenerLabels {
    /// The profile's name.
    pub profile: String,
    /// The address as text, the listener's name in logs and metrics.
    pub listener: String,
    /// Its requests have lines in the access log.
    pub logs: bool,
}

/// What a listener serves.
#[expect(clippy::large_enum_variant, reason = "there is one per listener")]
pub enum ListenerService {
    /// Routes.
    Routes {
        /// Finds a route's index.
        table: RouteTable,
        /// By the table's indices.
        routes: Vec<Arc<CompiledRoute>>,
    },
    /// A redirect to the same URL under `https`, on this port.
    RedirectToHttps(u16),
}

impl ListenerService {
    /// Whether one of the upstreams is told where clients connected to.
    pub(super) fn announces(&self) -> bool {
        let Self::Routes { routes, .. } = self else { return false };
        let ways = routes.iter().filter_map(|route| route.action.way());
        ways.map(|way| &way.upstream).any(|upstream| upstream.announces)
    }
}

/// One route, compiled.
pub struct CompiledRoute {
    /// What is told about it.
    pub account: Arc<RouteStats>,
    /// Where `path` is written.
    pub place: config::Span,
    /// What is done.
    pub action: RouteAction,
    /// Longest request body, in bytes.
    pub max_body: u64,
    /// WebSockets are carried.
    pub websocket: bool,
    /// A request may be sent again on a fresh connection; see [`crate::config::Route::retry`].
    pub retry: bool,
    /// Spellings of the path that are admitted.
    pub admits: Oddities,
    /// Changes to its answers.
    pub edits: Arc<ResponseEdits>,
    /// Names of request fields that are passed on although a component may believe them.
    pub passes: Arc<[HeaderName]>,
}

/// What is told about a route: all that a tunnel keeps of the one that let it in.
pub struct RouteStats {
    /// The route's name in logs and metrics.
    pub name: Arc<str>,
    /// Log and metric say that the request would be denied without this route.
    pub report_only: bool,
    /// Counters, which begin with the first request.
    pub metrics: LazyRouteMetrics,
}

/// What a route does.
pub enum RouteAction {
    /// Passes the request on.
    Proxy(ProxyTarget),
    /// Passes it on to the self-test, which is part of the gateway.
    SelfTest(ProxyTarget, Arc<SelfTestServer>),
    /// Sends the client elsewhere.
    Redirect {
        /// `Location`.
        to: String,
        /// Its status.
        status: u16,
    },
    /// Answers 403.
    Deny,
    /// Answers whether the gateway is ready, and these upstreams up.
    Ready(Vec<Arc<Upstream>>),
    /// Answers gateways that compare themselves with this one. To others it is not there.
    Drift(Arc<OnceLock<ConfigDigest>>),
}

/// Where requests are passed on to.
pub struct ProxyTarget {
    /// To whom.
    pub upstream: Arc<Upstream>,
    /// The upstream's counters.
    pub counters: UpstreamMetrics,
    /// Taken off the front of the path.
    pub strip_prefix: Option<String>,
    /// Limit to the first byte of the answer.
    pub first_byte: Duration,
    /// What its Socket.IO sessions are told and counted under; `None`: they are not followed.
    pub sessions: Option<Arc<SocketIoLabels>>,
}

impl RouteAction {
    /// Where requests are passed on to, if they are.
    #[must_use]
    pub fn way(&self) -> Option<&ProxyTarget> {
        match self {
            Self::Proxy(way) | Self::SelfTest(way, _) => Some(way),
            Self::Redirect { .. } | Self::Deny | Self::Ready(_) | Self::Drift(_) => None,
        }
    }
}

/// What is asked for, as far as routes care.
pub struct RouteQuery<'a> {
    /// Host name without port.
    pub host: &'a str,
    /// Raw path and query.
    pub target: &'a [u8],
    /// The method.
    pub method: &'a Method,
    /// It is to become a WebSocket.
    pub upgrade: bool,
}

/// A tunnel, as a configuration judges it.
#[derive(Clone)]
pub struct TunnelInfo {
    /// What its listener serves at present.
    pub place: Arc<ArcSwap<VirtualServer>>,
    /// What its listener was called when it was opened.
    pub names: Arc<ListenerLabels>,
    /// Of the route that took it.
    pub route: Option<Arc<RouteStats>>,
    /// The host that was asked for, port included.
    pub host: Bytes,
    /// The path that was asked for, query included.
    pub target: Bytes,
    /// Name of the upstream it goes to.
    pub upstream: Arc<str>,
    /// Name of the endpoint it goes to.
    pub endpoint: Option<Arc<str>>,
    /// The handshake of its client.
    pub handshake: ClientHandshake,
}

/// What is to be done with a request.
pub enum RouteDecision {
    /// This route takes it.
    Route(Arc<CompiledRoute>),
    /// It lacks the `/` at the end of its path.
    AddSlash,
    /// It belongs on `https`.
    ToHttps(u16),
}

/// Why nothing is done with a request.
pub struct RouteRejection {
    /// The word for it.
    pub reason: Reason,
    /// The route that refused it, if it came that far.
    pub route: Option<Arc<CompiledRoute>>,
    /// Value of `Allow`, for 405.
    pub allow: Option<String>,
}

impl RouteRejection {
    fn of(reason: Reason) -> Self {
        Self { reason, route: None, allow: None }
    }

    fn by(reason: Reason, route: &Arc<CompiledRoute>) -> Self {
        Self { reason, route: Some(Arc::clone(route)), allow: None }
    }
}

/// The refusal of a path that narrower rules refuse in another spelling.
fn refusal_of(
    refused: RouteError,
    table: &RouteTable,
    routes: &[Arc<CompiledRoute>],
) -> RouteRejection {
    let by = |reason, rule: usize| RouteRejection {
        route: routes.get(rule).cloned(),
        ..RouteRejection::of(reason)
    };
    match refused {
        RouteError::Denied(rule) => by(Reason::RouteDenied, rule),
        RouteError::WebSocket(rule) => by(Reason::WebSocketDenied, rule),
        RouteError::Method(rules) => {
            let allow = Some(table.allow(&rules));
            RouteRejection { allow, ..RouteRejection::of(Reason::MethodNotAllowed) }
        }
    }
}

impl VirtualServer {
    /// Decides about a request by host, path, method, upgrade and stated length, in this order.
    ///
    /// # Errors
    ///
    /// [`RouteRejection`] with the first rule that refuses it.
    pub fn decide(&self, head: &RequestHead) -> Result<RouteDecision, RouteRejection> {
        // A WebSocket over HTTP/2 is a CONNECT, and a GET to everyone behind us.
        let method = if head.upgrade { &Method::GET } else { &head.method };
        let asked = RouteQuery {
            host: head.host_name(),
            target: &head.target,
            method,
            upgrade: head.upgrade,
        };
        let decision = self.decide_asked(&asked)?;
        if let RouteDecision::Route(route) = &decision
            && let RouteAction::Drift(digest) = &route.action
            && !digest.get().is_some_and(|digest| digest.is_for(head))
        {
            return Err(RouteRejection::of(Reason::NoRoute));
        }
        if let (RouteDecision::Route(route), Framing::Length(length)) = (&decision, head.framing)
            && length > route.max_body
        {
            return Err(RouteRejection::by(Reason::BodyTooLarge, route));
        }
        Ok(decision)
    }

    /// The route a request would get that is not there for who asks: for those who run the gateway.
    #[must_use]
    pub fn hidden(&self, head: &RequestHead) -> Option<Arc<CompiledRoute>> {
        let (host, target, method) = (head.host_name(), &*head.target, &head.method);
        let asked = RouteQuery { host, target, method, upgrade: head.upgrade };
        let Ok(RouteDecision::Route(route)) = self.decide_asked(&asked) else { return None };
        matches!(route.action, RouteAction::Drift(_)).then_some(route)
    }

    /// Decides by host, path, method and upgrade alone: what is left to ask about a tunnel.
    ///
    /// # Errors
    ///
    /// [`RouteRejection`] with the first rule that refuses it.
    pub fn decide_asked(&self, asked: &RouteQuery<'_>) -> Result<RouteDecision, RouteRejection> {
        let host = asked.host;
        if !self.hosts.is_empty() && !self.hosts.iter().any(|pattern| pattern.covers(host)) {
            return Err(RouteRejection::of(Reason::UnknownHost));
        }
        let (table, routes) = match &self.served {
            ListenerService::RedirectToHttps(port) => return Ok(RouteDecision::ToHttps(*port)),
            ListenerService::Routes { table, routes } => (table, routes),
        };
        let matchable = path::matchable(path::raw(asked.target)).map_err(RouteRejection::of)?;
        let (path, oddities) = (&*matchable.path, matchable.oddities);
        let route = match table.find(path, asked.method) {
            PathMatch::Rule(index) => {
                let route =
                    routes.get(index).ok_or_else(|| RouteRejection::of(Reason::Internal))?;
                let refused = table.refusal(index, path, asked.method, asked.upgrade);
                if let Some(refused) = refused {
                    return Err(refusal_of(refused, table, routes));
                }
                let denies = matches!(route.action, RouteAction::Deny);
                if !denies && !oddities.is_within(route.admits) {
                    return Err(RouteRejection::by(Reason::AmbiguousPath, route));
                }
                route
            }
            // It may be a path that no route takes once it is spelt in the one way.
            _ if !oddities.is_none() => return Err(RouteRejection::of(Reason::AmbiguousPath)),
            PathMatch::Slash => {
                // What is denied below is denied here, and not by way of a redirect.
                let below = [path, b"/"].concat();
                let PathMatch::Rule(index) = table.find(&below, asked.method) else {
                    return Ok(RouteDecision::AddSlash);
                };
                match routes.get(index) {
                    Some(route) if matches!(route.action, RouteAction::Deny) => route,
                    _ => return Ok(RouteDecision::AddSlash),
                }
            }
            PathMatch::Nothing => return Err(RouteRejection::of(Reason::NoRoute)),
            PathMatch::Method(allow) => {
                return Err(RouteRejection {
                    allow: Some(allow),
                    ..RouteRejection::of(Reason::MethodNotAllowed)
                });
            }
        };
        if matches!(route.action, RouteAction::Deny) {
            return Err(RouteRejection::by(Reason::RouteDenied, route));
        }
        if asked.upgrade && matches!(route.action, RouteAction::Drift(_)) {
            return Err(RouteRejection::of(Reason::NoRoute));
        }
        if asked.upgrade && !(route.websocket && route.action.way().is_some()) {
            return Err(RouteRejection::by(Reason::WebSocketDenied, route));
        }
        Ok(RouteDecision::Route(Arc::clone(route)))
    }

    /// Whether what became a tunnel would be passed on to the same endpoint today. `host` and
    /// `target` are what its request asked for.
    #[must_use]
    pub fn still_carries(
        &self,
        (host, target): (&[u8], &[u8]),
        upstream: &str,
        endpoint: Option<&str>,
    ) -> bool {
        let asked = RouteQuery {
            host: host::parse(host).map_or("", |h| h.host),
            target,
            method: &Method::GET,
            upgrade: true,
        };
        let Ok(RouteDecision::Route(route)) = self.decide_asked(&asked) else { return false };
        let Some(ProxyTarget { upstream: now, .. }) = route.action.way() else { return false };
        // By address: a further CA to verify an endpoint by does not make it another endpoint.
        *now.name == *upstream && now.endpoints.iter().any(|e| Some(&*e.label) == endpoint)
    }

    /// Whether a client with this handshake may go on using its connection.
    #[must_use]
    pub fn accepts(&self, handshake: &ClientHandshake) -> bool {
        handshake.is_accepted_by(self.tls.as_ref())
    }

    /// The same listener serving nothing, for what is left of it once its profile is gone.
    #[must_use]
    pub fn emptied(&self) -> Self {
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

    /// Who the client of a request is that came on a connection of `connected`, which names it if
    /// it is a trusted proxy. A port that is not told is 0.
    #[must_use]
    pub fn client_of(&self, connected: ClientAddr, fields: &HeaderFields) -> ClientAddr {
        if !self.trusts(connected) {
            return connected;
        }
        client::named(fields, self.named_by, connected, |hop| self.trusts(hop))
    }

    /// Whom an upstream is told of as the trusted proxy that is connected.
    #[must_use]
    pub fn proxy(&self, connected: ClientAddr) -> Option<TrustedProxy> {
        let believed = self.named_by != ClientAddressField::Forwarded;
        self.trusts(connected).then(|| TrustedProxy { address: connected.ip(), believed })
    }

    /// The first host of the profile that is written without a wildcard.
    #[must_use]
    pub fn first_host(&self) -> Option<&str> {
        self.hosts.iter().map(HostPattern::as_str).find(|host| !host.starts_with('*'))
    }

    /// Whether this is a proxy that is believed.
    #[must_use]
    pub fn trusts(&self, client: ClientAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&client.ip()))
    }
}

#[cfg(test)]
mod spellings;
