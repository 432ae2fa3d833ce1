//! The web pages of the customer and of the agent.
//!
//! Served at the root and below the component's own name, so that they work whether or not the
//! gateway strips the prefix. Every asset is named relative to the page, and nothing is inline or
//! from elsewhere: the pages carry `default-src 'self'` and keep working under it.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;

use crate::demo::components::Component;
use crate::demo::reply::{self, ComponentReply};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

const CUSTOMER_PAGE: &str = include_str!("pages/customer.html");
const CUSTOMER_SCRIPT: &str = include_str!("pages/customer.js");
const AGENT_PAGE: &str = include_str!("pages/agent.html");
const AGENT_SCRIPT: &str = include_str!("pages/agent.js");
const STYLE: &str = include_str!("pages/app.css");
const SOCKET: &str = include_str!("pages/socket.js");
const CHAT: &str = include_str!("pages/chat.js");
const ICON: &str = include_str!("pages/icon.svg");

/// The page or asset at the path of `request`, if there is one.
pub(crate) fn page(component: Component, request: &Request<Incoming>) -> Option<ComponentReply> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let (media_type, text) = find(component, request.uri().path())?;
    let media_type = HeaderValue::from_static(media_type);
    Some(reply::content(StatusCode::OK, media_type, Bytes::from_static(text.as_bytes())))
}

fn find(component: Component, path: &str) -> Option<(&'static str, &'static str)> {
    let path = path.strip_prefix('/')?;
    let below = path.strip_prefix(component.name()).and_then(|rest| rest.strip_prefix('/'));
    let (page, script) = match component {
        Component::AgentGadget => (AGENT_PAGE, AGENT_SCRIPT),
        _ => (CUSTOMER_PAGE, CUSTOMER_SCRIPT),
    };
    match below.unwrap_or(path) {
        "" | "index.html" => Some((HTML, page)),
        "app.js" => Some((SCRIPT, script)),
        "app.css" => Some((CSS, STYLE)),
        "socket.js" => Some((SCRIPT, SOCKET)),
        "chat.js" => Some((SCRIPT, CHAT)),
        "icon.svg" => Some((SVG, ICON)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_served_at_the_root_and_below_its_name() {
        for path in ["/", "/index.html", "/agent-gadget/", "/agent-gadget/index.html"] {
            assert_eq!(find(Component::AgentGadget, path), Some((HTML, AGENT_PAGE)), "{path}");
        }
        for path in ["/agent-gadget", "/customer-gadget/", "/x", "", "//"] {
            assert_eq!(find(Component::AgentGadget, path), None, "{path}");
        }
    }

    #[test]
    fn every_asset_of_a_page_exists_and_is_relative() {
        for (component, page) in
            [(Component::CustomerGadget, CUSTOMER_PAGE), (Component::AgentGadget, AGENT_PAGE)]
        {
            for attribute in ["src=\"", "href=\""] {
                for rest in page.split(attribute).skip(1) {
                    let asset = rest.split('"').next().unwrap();
                    assert!(find(component, &format!("/{asset}")).is_some(), "{asset}");
                }
            }
            assert!(!page.contains("style=\"") && !page.contains("<style"), "inline style");
            assert!(!page.contains("onclick"), "inline script");
        }
    }
}
