//! The status page: shows the state of the gateway at a glance, as HTML.
//!
//! Its content comes from `/status` and `/metrics`. The page needs no script and no other host;
//! where scripts run, server-sent events keep it up to date. It changes nothing, and maud escapes
//! every value.

mod egress;
mod escape;
mod events;
mod explain_form;
mod figures;
mod history;
mod passthrough;
mod problems;
mod rejections;
mod sections;
mod socketio;
mod sparkline;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::generation::virtual_server::RouteAction;
use crate::generation::{Generation, ListenerService, PassthroughListener};
use crate::socketio::report::SessionReport;

use super::report::{RouteHour, Status};
use super::{AdminApi, CommandOrigin, guard, has_host};
use escape::without_controls;
use events::EventStream;
use explain_form::ExplainForm;
use figures::Figures;
use history::TrafficHistory;

/// Restricts the page to its own resources.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
    img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The generation that serves, once one does.
pub type ServingGeneration = Rc<RefCell<Option<Arc<Generation>>>>;

/// An answer: all at once, or event by event.
pub(super) type PageBody = Either<Full<Bytes>, EventStream>;

/// State of the page between requests.
pub struct StatusPage {
    serving: ServingGeneration,
    past: RefCell<TrafficHistory>,
    /// Streams of events that are open.
    streams: Rc<Cell<usize>>,
}

impl StatusPage {
    /// The last hour of each route.
    pub(super) fn hours(&self) -> Vec<RouteHour> {
        self.past.borrow().hours()
    }

    /// The generation that serves, once one does.
    pub(super) fn serving(&self) -> Option<Arc<Generation>> {
        self.serving.borrow().clone()
    }

    /// Whether there is a forward proxy.
    pub(super) fn forwards(&self) -> bool {
        self.serving.borrow().as_ref().is_some_and(|generation| generation.forward_proxy.is_some())
    }

    /// A page that knows nothing yet.
    #[must_use]
    pub fn new(serving: ServingGeneration) -> Self {
        Self { serving, past: RefCell::default(), streams: Rc::default() }
    }
}

/// A listener as it is shown.
struct ListenerRow {
    profile: String,
    address: String,
    tls: &'static str,
    serves: String,
}

/// A route as it is shown.
struct RouteRow {
    profile: String,
    name: String,
    goes: String,
}

/// Everything that is shown, at one moment.
struct PageView<'a> {
    /// Seconds since 1970.
    now: i64,
    status: Status,
    /// Why no new work is taken.
    unready: Option<String>,
    listeners: Vec<ListenerRow>,
    routes: Vec<RouteRow>,
    /// Socket.IO sessions.
    sessions: SessionReport,
    figures: Figures,
    past: &'a TrafficHistory,
}

/// Looks at the metrics now and then, for as long as it is polled.
pub async fn remember(api: Rc<AdminApi>) {
    let mut ticks = tokio::time::interval(history::SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(figures) = Figures::read(&api.metrics).await {
            api.page.past.borrow_mut().remember(figures);
        }
    }
}

/// Whether the page is asked for: by its path, or at the root by a browser.
pub(super) fn is_asked<T>(request: &Request<T>) -> bool {
    let html = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains("text/html"));
    match request.uri().path() {
        "/" => request.headers().get_all(header::ACCEPT).iter().any(html),
        path => path == "/ui" || path.starts_with("/ui/"),
    }
}

/// Answers for the page.
pub(super) async fn answer(
    request: &Request<Incoming>,
    peer: CommandOrigin,
    api: &Rc<AdminApi>,
) -> Response<PageBody> {
    let refused = |status, why: &'static str| plain(status, "text/plain; charset=utf-8", why);
    match peer {
        CommandOrigin::Stranger | CommandOrigin::Remote => {
            return refused(
                StatusCode::FORBIDDEN,
                "the status page is for this host only; from elsewhere: ssh -L\n",
            );
        }
        CommandOrigin::Local if !has_host(request) => {
            return refused(StatusCode::MISDIRECTED_REQUEST, guard::WRONG_HOST);
        }
        CommandOrigin::Local | CommandOrigin::Trusted => {}
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
    }
    match request.uri().path() {
        "/" | "/ui" => {
            let Some(live) = live(api).await else {
                return refused(StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be made\n");
            };
            let asked = ExplainForm::of(request.uri().query());
            let serving = api.page.serving.borrow().clone();
            let told = asked.told(serving).await;
            let tester = asked.section(told.as_deref());
            plain(StatusCode::OK, "text/html; charset=utf-8", whole(&live, &tester))
        }
        "/ui/page.css" => plain(StatusCode::OK, "text/css; charset=utf-8", STYLE),
        "/ui/page.js" => plain(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
        "/ui/events" => match events::open(api) {
            Some(events) => dressed(StatusCode::OK, "text/event-stream", Either::Right(events)),
            None => refused(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n"),
        },
        _ => refused(StatusCode::NOT_FOUND, "not found; the page is at /ui\n"),
    }
}

/// The sections as they are now.
async fn live(api: &AdminApi) -> Option<String> {
    let figures = Figures::read(&api.metrics).await?;
    let generation = api.page.serving.borrow().clone();
    let mut status = api.status.borrow().clone();
    api.health.ready().err().unwrap_or("serving").clone_into(&mut status.phase);
    status.upstreams = super::snapshots(api);
    super::traffic::add(api, &mut status);
    let (listeners, routes) = generation.as_deref().map(served).unwrap_or_default();
    let past = api.page.past.borrow();
    let view = PageView {
        now: jiff::Timestamp::now().as_second(),
        status,
        unready: super::ready(api).err(),
        listeners,
        routes,
        sessions: api.book.borrow().report(Instant::now()),
        figures,
        past: &past,
    };
    Some(sections::all(&view))
}

/// Listeners and routes of a generation.
fn served(generation: &Generation) -> (Vec<ListenerRow>, Vec<RouteRow>) {
    let (mut listeners, mut shown) = (Vec::new(), Vec::new());
    let mut known = HashSet::new();
    for virtual_server in &generation.virtual_servers {
        let serves = match &virtual_server.served {
            ListenerService::Routes { routes, .. } => {
                for route in routes {
                    let one = RouteRow {
                        profile: virtual_server.names.profile.clone(),
                        name: route.stats.name.to_string(),
                        goes: goes(&route.action),
                    };
                    if known.insert((one.profile.clone(), one.name.clone())) {
                        shown.push(one);
                    }
                }
                format!("{} routes", routes.len())
            }
            ListenerService::RedirectToHttps(port) => format!("redirect to https, port {port}"),
        };
        listeners.push(ListenerRow {
            profile: virtual_server.names.profile.clone(),
            address: virtual_server.names.listener.clone(),
            tls: tls(virtual_server.tls.is_some()),
            serves,
        });
    }
    for passthrough_listener in &generation.passthrough_listeners {
        let names = &passthrough_listener.names;
        listeners.push(ListenerRow {
            profile: names.profile.clone(),
            address: names.listener.clone(),
            tls: "passed through",
            serves: passes(passthrough_listener),
        });
    }
    for listener in
        generation.forward_proxy.iter().flat_map(|forward_proxy| &forward_proxy.listeners)
    {
        listeners.push(ListenerRow {
            profile: "forward".to_owned(),
            address: listener.label.clone(),
            tls: tls(listener.tls.is_some()),
            serves: "forward proxy".to_owned(),
        });
    }
    (listeners, shown)
}

fn tls(spoken: bool) -> &'static str {
    if spoken { "yes" } else { "no, plain" }
}

/// Passthrough targets, by the names of the routes.
fn passes(passthrough_listener: &PassthroughListener) -> String {
    let routes = passthrough_listener.routes().iter();
    let routes = routes.map(|route| format!("{} to {}", route.stats.name, route.upstream.name));
    routes.collect::<Vec<_>>().join(", ")
}

fn goes(action: &RouteAction) -> String {
    match action {
        RouteAction::Proxy(way) => format!("to {}", way.upstream.name),
        RouteAction::Redirect { to, status } => format!("{status} to {to}"),
        RouteAction::Deny => "denied".to_owned(),
        RouteAction::Ready(_) => "readiness check".to_owned(),
        RouteAction::SelfTest(..) => "self-test".to_owned(),
        RouteAction::Drift(_) => "compared with other gateways".to_owned(),
    }
}

/// The page around the sections. `live` is markup.
fn whole(live: &str, tester: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "app-gateway" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/ui/page.css";
                script src="/ui/page.js" defer {}
            }
            body {
                header {
                    h1 { "app-gateway " small { (env!("CARGO_PKG_VERSION")) } }
                    p id="link" {
                        "as it was when loaded " noscript { a href="/ui" { "load again" } }
                    }
                }
                main { div id="live" { (PreEscaped(live)) } (tester) }
            }
        }
    };
    without_controls(page.into_string())
}

fn plain(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<PageBody> {
    dressed(status, kind, Either::Left(Full::new(body.into())))
}

fn dressed(status: StatusCode, kind: &'static str, body: PageBody) -> Response<PageBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
