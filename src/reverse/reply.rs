//! Replies that a configuration asks for: redirects.

use http::StatusCode;

use crate::downstream::Reply;
use crate::generation::site::Action;
use crate::generation::{Decision, Route};
use crate::message::{RequestHead, host};

/// For a decision that is not an upstream's to answer.
pub(super) fn for_decision(decision: &Decision, head: &RequestHead) -> Option<Reply> {
    match decision {
        Decision::Route(route) => for_route(route),
        Decision::AddSlash => {
            // Relative to the host the client used: behind a firewall our port is not its port.
            let mut parts = head.target.splitn(2, |b| *b == b'?');
            let mut to = parts.next().unwrap_or_default().to_vec();
            if to.starts_with(b"//") {
                // `Location: //x/` would name a host.
                to.insert(0, b'.');
                to.insert(0, b'/');
            }
            to.push(b'/');
            if let Some(query) = parts.next() {
                to.push(b'?');
                to.extend_from_slice(query);
            }
            Some(Reply::redirect(StatusCode::PERMANENT_REDIRECT, to))
        }
        Decision::ToHttps(port) => {
            let name = host::parse(&head.host).map_or("", |h| h.host);
            let name = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
            let port = if *port == 443 { String::new() } else { format!(":{port}") };
            let to = [b"https://", name.as_bytes(), port.as_bytes(), &head.target].concat();
            Some(Reply::redirect(StatusCode::PERMANENT_REDIRECT, to))
        }
    }
}

fn for_route(route: &Route) -> Option<Reply> {
    let Action::Redirect { to, status } = &route.action else { return None };
    let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::FOUND);
    Some(Reply::redirect(status, to.clone().into_bytes()))
}
