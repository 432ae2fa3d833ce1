//! Explanations of passthrough connections: upstream, route and the configuration lines
//! responsible.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::addr::ClientAddr;
use crate::generation::{Generation, PassthroughListener};
use crate::message::Reason;
use crate::tls::hello::{ClientHello, HelloProgress};
use crate::units::display_duration;

use super::{Explanation, ExplanationLines};

/// A connection to explain.
pub struct ConnectionQuery {
    /// Server name in the ClientHello; `None` if it has none.
    pub server_name: Option<String>,
    /// Destination port.
    pub port: u16,
    /// Client address.
    pub from: IpAddr,
}

impl<'a> Explanation<'a> {
    /// Decides a connection as the passthrough listener would. Resolves host names, so it blocks.
    ///
    /// # Errors
    ///
    /// No passthrough listener has this port.
    pub fn of_connection(
        generation: &'a Generation,
        query: &ConnectionQuery,
    ) -> Result<Self, String> {
        let passthrough_listener = listener(generation, query.port)?;
        let mut explanation =
            Self { generation, lines: ExplanationLines::default(), served: false };
        let name = query.server_name.as_deref();
        explanation.line("sni", name.unwrap_or("(no server name)"), "");
        explanation.line("from", &query.from.to_string(), "");
        let locate = |place| generation.config.sources.locate(place);
        let table =
            generation.config.tcp.iter().find(|tcp| tcp.name == passthrough_listener.names.profile);
        let place = table.map(|tcp| locate(tcp.place)).unwrap_or_default();
        explanation.line("table", &format!("tcp.{}", passthrough_listener.names.profile), &place);
        explanation.line(
            "listener",
            &passthrough_listener.names.listener,
            &locate(passthrough_listener.place),
        );
        let refused = |explanation: &mut Self, reason: Reason| {
            explanation.line("verdict", &format!("rejected: {}", reason.word()), "");
            explanation.line("", reason.sentence(), "");
        };
        if !passthrough_listener.admits(ClientAddr(SocketAddr::new(query.from, 0))) {
            refused(&mut explanation, Reason::TcpClient);
            return Ok(explanation);
        }
        let hello =
            HelloProgress::Hello(ClientHello { sni: query.server_name.clone(), ech: false });
        match passthrough_listener.judge(passthrough_listener.reads_hello().then_some(&hello)) {
            Err(reason) => refused(&mut explanation, reason),
            Ok(route) => {
                explanation.served = true;
                explanation.line("route", &route.stats.name, &locate(route.place));
                explanation.upstream(&route.upstream);
                if route.same_port {
                    let port = passthrough_listener.address.port();
                    explanation.line("to port", &format!("{port}, the same as the listener's"), "");
                }
                let timeouts = passthrough_listener.timeouts;
                let total = match timeouts.max_lifetime {
                    total if total.is_zero() => "unlimited".to_owned(),
                    total => display_duration(total),
                };
                let limits = format!(
                    "connect {}, idle {}, total {total}",
                    display_duration(route.upstream.limits.connect),
                    display_duration(timeouts.idle),
                );
                explanation.line("limits", &limits, "");
                let verdict =
                    format!("passed through to {}, TLS not terminated", route.upstream.name);
                explanation.line("verdict", &verdict, "");
            }
        }
        Ok(explanation)
    }
}

/// The passthrough listener with this port.
fn listener(generation: &Generation, port: u16) -> Result<&Arc<PassthroughListener>, String> {
    let mut with_port =
        generation.passthrough_listeners.iter().filter(|p| p.address.port() == port);
    with_port.next().ok_or_else(|| {
        let all: Vec<_> =
            generation.passthrough_listeners.iter().map(|p| p.names.listener.as_str()).collect();
        if all.is_empty() {
            "there is no passthrough listener: no file has a [tcp.NAME] table".to_owned()
        } else {
            format!("no passthrough listener has port {port}; the listeners are {}", all.join(", "))
        }
    })
}
