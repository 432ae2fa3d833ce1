//! `app-gateway explain egress HOST:PORT`: reports whether a client may reach a destination, which
//! line decides it, and which of the destination's present addresses would be dialled.
//!
//! The code that serves clients makes the decision.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;

use crate::cli::{say, say_wrong, summarise};
use crate::config::{RuleMode, SniAction, SniPolicy};
use crate::egress::{Denial, Destination, EgressClient, EgressRule, Grant, Host, Verdict};
use crate::generation::{ForwardProxy, Generation};
use crate::message::{Reason, RequestForm};
use crate::units::{display_duration, display_size};

use super::{Exit, ExplanationLines, generation};

#[derive(Args)]
pub(in crate::cli) struct EgressArgs {
    /// Destination as the client asks for it: `api.twilio.com:443` for CONNECT, or a URL such as
    /// `http://ocsp.example.com/`
    #[arg(value_name = "HOST:PORT|URL")]
    destination: String,
    /// Address of the client
    #[arg(long, value_name = "IP")]
    client: IpAddr,
    /// User it has logged in as
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// A name in the certificate it shows; may be given several times
    #[arg(long = "certificate", value_name = "NAME")]
    names: Vec<String>,
}

pub(in crate::cli) fn explain(directory: &Path, asked: &EgressArgs) -> ExitCode {
    let Some((generation, problems)) = generation(directory) else { return ExitCode::FAILURE };
    let Some(forward_proxy) = &generation.forward_proxy else {
        say_wrong("there is no forward proxy: no file has a [forward] table");
        summarise(&generation.config.sources, &problems);
        return Exit::Usage.into();
    };
    let mut explained = EgressExplanation {
        forward_proxy,
        generation: &generation,
        lines: ExplanationLines::default(),
    };
    let open = explained.explain(asked, &addresses);
    say(&explained.lines.text);
    summarise(&generation.config.sources, &problems);
    if open { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Present addresses of a name, from the system's resolver.
fn addresses(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = (host, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    let distinct: BTreeSet<IpAddr> = found.map(|address| address.ip()).collect();
    Ok(distinct.into_iter().collect())
}

struct EgressExplanation<'a> {
    forward_proxy: &'a ForwardProxy,
    generation: &'a Generation,
    lines: ExplanationLines,
}

/// A name resolver; replaced in tests.
type NameLookup<'a> = &'a dyn Fn(&str) -> Result<Vec<IpAddr>, String>;

impl EgressExplanation<'_> {
    /// Writes it all down. Returns whether there is an address that would be dialled.
    fn explain(&mut self, asked: &EgressArgs, resolve: NameLookup<'_>) -> bool {
        let client = EgressClient {
            ip: asked.client.to_canonical(),
            user: asked.user.as_deref(),
            names: &asked.names,
        };
        let (form, authority, default) = form_of(&asked.destination);
        let destination = match Destination::parse(authority.as_bytes(), default) {
            Ok(destination) => destination,
            Err(why) => {
                let reason = Reason::BadDestination;
                self.lines.line("destination", &asked.destination.escape_debug().to_string(), "");
                let verdict = format!("rejected: {} {}", reason.code(), reason.word());
                self.lines.line("verdict", &verdict, "");
                self.lines.line("", &why.to_string(), "");
                return false;
            }
        };
        let shown = match form {
            RequestForm::Connect => destination.to_string(),
            RequestForm::Http => format!("{destination} (an http:// URL)"),
            RequestForm::Https => format!("{destination} (an https:// URL, not CONNECT)"),
        };
        self.lines.line("destination", &shown, "");
        self.client(&client);
        match self.forward_proxy.policy.decide(&client, &destination, form, Timestamp::now()) {
            Verdict::Denied(denial) => {
                self.denied(&denial, &client, &destination);
                false
            }
            Verdict::Allowed(grant) => self.allowed(&grant, &client, (&destination, form), resolve),
        }
    }

    fn client(&mut self, client: &EgressClient<'_>) {
        let mut how = Vec::new();
        if let Some(user) = client.user {
            let known = self.forward_proxy.users.as_ref().is_some_and(|users| users.contains(user));
            let note = if known { "" } else { ", WHO IS NOT IN THE USERS FILE" };
            how.push(format!("logged in as {user}{note}"));
        }
        if !client.names.is_empty() {
            how.push(format!("with a certificate for {}", client.names.join(", ")));
        }
        let how = if how.is_empty() { "not logged in".to_owned() } else { how.join(", ") };
        self.lines.line("client", &format!("{} ({how})", client.ip), "");
    }

    fn rule(&mut self, rule: &EgressRule, note: &str) {
        self.lines.line("rule", &format!("{}{note}", rule.settings.name), &rule.at);
    }

    fn denied(&mut self, denial: &Denial, client: &EgressClient<'_>, destination: &Destination) {
        if let Some(rule) = &denial.rule {
            let nearest = denial.reason != Reason::EgressForbidden;
            self.rule(rule, if nearest { " (the nearest)" } else { "" });
        }
        let reason = denial.reason;
        self.lines.line("verdict", &format!("denied: {} {}", reason.code(), reason.word()), "");
        self.lines.line("", &denial.why(client, destination), "");
        if matches!(destination.host, Host::Name(_)) {
            self.lines.line("addresses", "not looked up: denied names never are", "");
        }
        if let Some(way_out) = denial.way_out(client, destination) {
            self.lines.line("to fix", &way_out, "");
        }
    }

    fn allowed(
        &mut self,
        grant: &Grant,
        client: &EgressClient<'_>,
        (destination, form): (&Destination, RequestForm),
        resolve: NameLookup<'_>,
    ) -> bool {
        let rule = &grant.rule;
        self.rule(rule, "");
        let verdict = match &grant.reported {
            Some(denial) => {
                format!("allowed only because of report mode: {}", denial.reason.word())
            }
            None => "allowed".to_owned(),
        };
        self.lines.line("verdict", &verdict, "");
        if let Some(denial) = &grant.reported {
            self.lines.line("", &denial.why(client, destination), "");
            let way_out = denial.way_out(client, destination).unwrap_or_default();
            self.lines.line("to keep it", &way_out, "");
        } else if rule.settings.mode == RuleMode::Report {
            self.lines.line(
                "",
                "this rule lists it; report mode also allows destinations that no rule lists",
                "",
            );
        }
        let parent = self.forward_proxy.parent(rule, destination).map(Arc::clone);
        match &parent {
            Some(parent) => {
                let at = self.generation.config.sources.locate(parent.place);
                self.lines.line("through", &format!("parent {}", parent.name), &at);
                let forward = self.generation.config.forward.iter();
                let written = forward.flat_map(|forward| &forward.parents);
                let written = written.filter(|written| written.name == parent.name);
                let tls: Vec<_> =
                    written.flat_map(|one| &one.endpoints).map(|endpoint| endpoint.tls).collect();
                for (endpoint, tls) in parent.endpoints.iter().zip(tls) {
                    let scheme = if tls { "https" } else { "http" };
                    self.lines.line("", &format!("{scheme}://{}", endpoint.label), "");
                }
            }
            None => self.lines.line("through", "no other proxy", ""),
        }
        self.settings(rule, destination.port, form);
        let found = match &destination.host {
            Host::Addr(ip) => Ok(vec![*ip]),
            Host::Name(name) => match self.forward_proxy.hosts.get(name) {
                Some(pinned) => {
                    self.lines.line("addresses", "not looked up: listed in [forward.hosts]", "");
                    Ok(pinned.to_vec())
                }
                None => resolve(name.as_str()),
            },
        };
        match found {
            Ok(found) => self.addresses(rule, (destination, form), &found, client),
            Err(error) if parent.is_some() => {
                let said = format!("not found here ({error}); the parent looks it up");
                self.lines.line("addresses", &said, "");
                true
            }
            Err(error) => {
                self.lines.line("addresses", &format!("not found: {error}"), "");
                false
            }
        }
    }

    fn settings(&mut self, rule: &EgressRule, port: u16, form: RequestForm) {
        if form == RequestForm::Connect {
            self.lines.line("inside", &inside(rule.sni(port)), "");
        }
        let timeouts = &self.forward_proxy.timeouts;
        let mut limits = format!(
            "connect {}, silence {}, at most {}",
            display_duration(timeouts.connect),
            display_duration(timeouts.idle),
            if timeouts.max_lifetime.is_zero() {
                "any time".to_owned()
            } else {
                display_duration(timeouts.max_lifetime)
            }
        );
        if rule.settings.rate > 0 {
            let rate = display_size(rule.settings.rate);
            let _ = write!(limits, ", {rate} per second");
        }
        self.lines.line("limits", &limits, "");
        if let Some(until) = rule.settings.until {
            self.lines.line("until", &until.to_string(), "");
        }
    }

    /// The guard's verdict on each address.
    fn addresses(
        &mut self,
        rule: &Arc<EgressRule>,
        (destination, form): (&Destination, RequestForm),
        found: &[IpAddr],
        client: &EgressClient<'_>,
    ) -> bool {
        let mut open = false;
        let mut way_out = None;
        for ip in found {
            let said = match self.forward_proxy.guard.check(rule, *ip, destination.port) {
                Ok(_) => {
                    open = true;
                    "allowed".to_owned()
                }
                Err(barred) => {
                    let denial = Denial::barred(rule, barred, form);
                    way_out = way_out.or(denial.way_out(client, destination));
                    format!("BARRED: {barred}")
                }
            };
            self.lines.line("address", &ip.to_string(), &said);
        }
        if !open {
            let reason = Reason::EgressAddress;
            let verdict = format!("denied: {} {}", reason.code(), reason.word());
            self.lines.line("verdict", &verdict, "");
        }
        if let Some(way_out) = way_out {
            self.lines.line("to fix", &format!("if this is intended, {way_out}"), "");
        }
        open
    }
}

/// Request form of a destination, its authority, and its default port.
fn form_of(asked: &str) -> (RequestForm, &str, Option<u16>) {
    let url = |form, rest: &'static str, port| {
        let own = asked.get(..rest.len()).filter(|own| own.eq_ignore_ascii_case(rest))?;
        let rest = asked.get(own.len()..)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        Some((form, rest.get(..end)?, Some(port)))
    };
    let url =
        url(RequestForm::Http, "http://", 80).or_else(|| url(RequestForm::Https, "https://", 443));
    url.unwrap_or((RequestForm::Connect, asked, None))
}

/// Description of the check on the server name inside the tunnel.
fn inside(sni: SniPolicy) -> String {
    let act = |act| match act {
        SniAction::Refuse => "closed",
        SniAction::Log => "logged",
        SniAction::Allow => "let through",
    };
    match sni {
        SniPolicy::OFF => "not looked at".to_owned(),
        SniPolicy::STRICT => {
            "only TLS with this server name; otherwise the tunnel is closed".to_owned()
        }
        SniPolicy { mismatch, missing, not_tls, ech } => {
            let encrypted = match ech {
                SniAction::Allow => String::new(),
                ech => format!(", with an encrypted hello {}", act(ech)),
            };
            format!(
                "TLS for another host is {}, for none {}{encrypted}, anything else {}",
                act(mismatch),
                act(missing),
                act(not_tls)
            )
        }
    }
}

#[cfg(test)]
mod tests;
