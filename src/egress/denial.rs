//! Denials of the forward proxy and their text: reason word, nearest rule, and the line to add.
//!
//! A developer behind a proxy otherwise sees only a status code. The body of the answer names the
//! requested destination, the nearest rule, and the setting that the operator would have to write.
//! Only clients of the proxy receive it; names of rules and files are not secrets. The addresses
//! that a name resolves to are secret, because they map the network behind the gateway. They appear
//! only in the log.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::addr::{Destination, Host};
use crate::message::{Reason, RequestForm};

use super::guard::Blocked;
use super::{EgressClient, EgressRule};

/// The reason why a client may not connect to a destination.
#[derive(Clone, Debug)]
pub struct Denial {
    /// The reason word.
    pub reason: Reason,
    /// The rule that denies it, or that nearly allows it.
    pub rule: Option<Arc<EgressRule>>,
    /// The barred address.
    pub barred: Option<Blocked>,
    /// Form of the request: CONNECT or absolute-form.
    pub form: RequestForm,
}

impl Denial {
    /// A denial by the rules.
    pub(super) fn of(reason: Reason, rule: Option<&Arc<EgressRule>>, form: RequestForm) -> Self {
        Self { reason, rule: rule.cloned(), barred: None, form }
    }

    /// A denial by the guard, of a destination that `rule` allows.
    #[must_use]
    pub fn barred(rule: &Arc<EgressRule>, barred: Blocked, form: RequestForm) -> Self {
        Self { reason: barred.reason(), rule: Some(Arc::clone(rule)), barred: Some(barred), form }
    }

    /// Cause of the denial, one sentence without full stop; for operators.
    #[must_use]
    pub fn why(&self, client: &EgressClient<'_>, destination: &Destination) -> String {
        let named = self.rule.as_ref().map(|rule| format!("rule `{}`", rule.settings.name));
        let Some(rule) = named else { return self.why_without_rule(client) };
        let port = destination.port;
        match self.reason {
            Reason::EgressForbidden => format!("{rule} denies {}", destination.host),
            Reason::EgressPort => {
                format!("{rule} allows {}, but not {} port {port}", destination.host, self.verb())
            }
            Reason::EgressTime => format!("{rule} allows {destination}, but not now"),
            Reason::EgressClient => {
                format!("{rule} allows {}, but not to {}", destination.host, shown(client))
            }
            Reason::EgressLiteral => {
                format!("{rule} is for {}, but does not list the address", shown(client))
            }
            Reason::ProxyAuthRequired => {
                format!("{rule} applies to authenticated users, and the request has no credentials")
            }
            Reason::EgressAddress => self.barred.map_or_else(
                || format!("an address of {} is barred", destination.host),
                |barred| format!("{barred}, and {rule} does not list it"),
            ),
            _ => format!("{rule} is for {}, but does not list {}", shown(client), destination.host),
        }
    }

    /// The same for the client, without the address that a name resolves to.
    fn why_for_client(&self, client: &EgressClient<'_>, destination: &Destination) -> String {
        match (&self.barred, &self.rule) {
            (Some(barred), Some(rule)) if !is_known(barred, destination) => format!(
                "{} resolves to an address that rule `{}` does not list; the gateway's log has it",
                destination.host, rule.settings.name
            ),
            _ => self.why(client, destination),
        }
    }

    /// Advice for the client, without the address that a name resolves to.
    fn way_out_for_client(
        &self,
        client: &EgressClient<'_>,
        destination: &Destination,
    ) -> Option<String> {
        match &self.barred {
            Some(barred) if !is_known(barred, destination) => Some(format!(
                "`app-gateway explain egress {destination} --client {}` on the gateway shows what to add",
                client.ip
            )),
            _ => self.way_out(client, destination),
        }
    }

    /// Verb for the use of the port, as the client understands it.
    const fn verb(&self) -> &'static str {
        match self.form {
            RequestForm::Connect => "CONNECT to",
            RequestForm::Http => "http:// on",
            RequestForm::Https => "https:// on",
        }
    }

    /// The key that lists ports for such requests.
    const fn ports_key(&self) -> &'static str {
        match self.form {
            RequestForm::Connect => "connect-ports",
            RequestForm::Http | RequestForm::Https => "ports",
        }
    }

    fn why_without_rule(&self, client: &EgressClient<'_>) -> String {
        match self.reason {
            Reason::EgressLiteral => "addresses are denied unless a rule lists them".to_owned(),
            Reason::EgressClient => format!("no rule is for {}", shown(client)),
            _ => "there is no rule yet, and only listed destinations are allowed".to_owned(),
        }
    }

    /// Setting to write, and its file, in one sentence without full stop; `None` if no setting
    /// would help. For operators.
    #[must_use]
    pub fn way_out(&self, client: &EgressClient<'_>, destination: &Destination) -> Option<String> {
        let Destination { host, port } = destination;
        let ports = self.ports_key();
        let Some(rule) = self.rule.as_ref() else {
            return Some(format!(
                "add a [[forward.rule]] with `clients = [\"{}\"]` and `allow = [\"{host}\"]`{}",
                client.ip,
                if *port == 443 { String::new() } else { format!(" and `{ports} = [{port}]`") }
            ));
        };
        let (name, at) = (&rule.settings.name, &rule.at);
        let add = |what: String, key: &str| {
            Some(format!("add {what} to `{key}` of rule `{name}` in {at}"))
        };
        match self.reason {
            Reason::EgressForbidden => {
                Some(format!("take it out of `deny` of rule `{name}` in {at}"))
            }
            Reason::EgressPort => add(port.to_string(), ports),
            Reason::EgressTime => Some(format!(
                "change `from` and `until` of rule `{name}` in {at}: it holds {}",
                period(rule)
            )),
            Reason::EgressClient => admit(client, rule),
            Reason::ProxyAuthRequired => {
                Some(format!("send Proxy-Authorization with a user of rule `{name}` ({at})"))
            }
            Reason::EgressAddress => {
                let listing = self.barred?.listing()?;
                add(format!("\"{listing}\""), "private-networks")
            }
            _ => {
                let and = if rule.takes_port(self.form, *port) {
                    String::new()
                } else {
                    format!(", and {port} to `{ports}`,")
                };
                Some(format!("add \"{host}\" to `allow`{and} of rule `{name}` in {at}"))
            }
        }
    }

    /// The answer to the client, as text.
    #[must_use]
    pub fn text(&self, client: &EgressClient<'_>, destination: &Destination, id: &str) -> String {
        let mut text = format!("{}: {}\n\n", self.reason.word(), self.reason.sentence());
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{name:<12} {value}");
        };
        line("destination", &destination.to_string());
        line("client", &shown(client));
        line("why", &self.why_for_client(client, destination));
        if let Some(rule) = &self.rule {
            line("rule", &format!("{} ({})", rule.settings.name, rule.at));
        }
        if let Some(way_out) = self.way_out_for_client(client, destination) {
            line("to allow it", &way_out);
        }
        line("id", id);
        text
    }

    /// The answer to the client, as JSON.
    #[must_use]
    pub fn json(&self, client: &EgressClient<'_>, destination: &Destination, id: &str) -> Value {
        json!({
            "reason": self.reason.word(),
            "message": self.reason.sentence(),
            "destination": destination.to_string(),
            "client": client.ip.to_string(),
            "user": client.user,
            "why": self.why_for_client(client, destination),
            "rule": self.rule.as_ref().map(|rule| rule.settings.name.as_str()),
            "at": self.rule.as_ref().map(|rule| rule.at.as_str()),
            "way_out": self.way_out_for_client(client, destination),
            "id": id,
        })
    }
}

/// Whether the client has written the barred address itself. The gateway's own listening addresses
/// are never revealed.
fn is_known(barred: &Blocked, destination: &Destination) -> bool {
    matches!(barred, Blocked::Special { .. }) && matches!(destination.host, Host::Addr(_))
}

/// Change by which a rule that allows the destination would also apply to this client.
fn admit(client: &EgressClient<'_>, rule: &EgressRule) -> Option<String> {
    let settings = &rule.settings;
    let in_networks =
        settings.clients.is_empty() || crate::config::any_holds(&settings.clients, client.ip);
    let (what, key) = match client.user {
        _ if !in_networks => (client.ip.to_string(), "clients"),
        Some(user) if !settings.users.is_empty() => (user.to_owned(), "users"),
        _ => (client.names.first()?.clone(), "client-names"),
    };
    Some(format!("add \"{what}\" to `{key}` of rule `{}` in {}", settings.name, rule.at))
}

/// Describes a client.
fn shown(client: &EgressClient<'_>) -> String {
    match client.user {
        Some(user) => format!("{} ({user})", client.ip),
        None => client.ip.to_string(),
    }
}

/// The period in which a rule is valid.
fn period(rule: &EgressRule) -> String {
    match (rule.settings.from, rule.settings.until) {
        (Some(from), Some(until)) => format!("from {from} until {until}"),
        (Some(from), None) => format!("from {from}"),
        (None, Some(until)) => format!("until {until}"),
        (None, None) => "always".to_owned(),
    }
}

#[cfg(test)]
mod tests;
