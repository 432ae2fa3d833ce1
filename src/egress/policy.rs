//! The rules, and what they say about a client and a destination.
//!
//! A rule lists destinations for clients. What a rule with `deny` lists is denied, whatever the
//! others say; otherwise the first rule in the order of the files that allows it decides; what no
//! rule allows is denied, unless the client is one of a rule in report mode.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::addr::{Destination, Host};
use crate::config::{Effect, ForwardRule, Mode, Sni, any_holds};
use crate::message::Reason;

use super::Denial;
use super::index::Index;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Where from.
    pub ip: IpAddr,
    /// Who has logged in; the password has been verified.
    pub user: Option<&'a str>,
    /// Names in the certificate the client has shown; it has been verified.
    pub names: &'a [String],
}

/// A rule, ready to be asked.
#[derive(Debug)]
pub struct Rule {
    /// What is written.
    pub settings: ForwardRule,
    /// Where, as `file:line`.
    pub at: String,
}

/// All rules.
#[derive(Debug, Default)]
pub struct Policy {
    rules: Vec<Arc<Rule>>,
    index: Index,
    /// Numbers of the rules in report mode.
    reporting: Vec<usize>,
}

/// What is said about a client and a destination.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Go on, under this rule.
    Allowed(Grant),
    /// Do not.
    Denied(Denial),
}

/// A permission. [`super::Guard::check`] still has to agree to each address.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The rule that gives it, with its limits, its parent and its SNI settings.
    pub rule: Arc<Rule>,
    /// What would have been said if the rule were not in report mode: to be logged, and kept in
    /// [`super::Seen`].
    pub reported: Option<Denial>,
}

/// Why a rule that lists the destination does not apply; what is nearest to applying comes first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Miss {
    /// It would to a user who logs in.
    Login,
    /// Its time has not come, or is over.
    Time,
    /// Another port.
    Port,
    /// Another client.
    Client,
}

impl Rule {
    /// What is done about SNI on `port`.
    #[must_use]
    pub const fn sni(&self, port: u16) -> Sni {
        if port == 443 { self.settings.sni } else { self.settings.sni_elsewhere }
    }

    /// Whether the rule is for this client.
    #[must_use]
    pub fn is_for(&self, client: &Client<'_>) -> bool {
        let known = |user| self.settings.users.iter().any(|known| known == user);
        self.admits_but_for_login(client)
            && (self.settings.users.is_empty() || client.user.is_some_and(known))
    }

    fn admits_but_for_login(&self, client: &Client<'_>) -> bool {
        let ForwardRule { clients, client_names, .. } = &self.settings;
        let named =
            |name: &String| client_names.iter().any(|known| known.eq_ignore_ascii_case(name));
        (clients.is_empty() || any_holds(clients, client.ip))
            && (client_names.is_empty() || client.names.iter().any(named))
    }

    /// Whether a client would be one of the rule's, if only it logged in.
    fn wants_login(&self, client: &Client<'_>) -> bool {
        client.user.is_none()
            && !self.settings.users.is_empty()
            && self.admits_but_for_login(client)
    }

    /// Whether it is the rule's time.
    #[must_use]
    pub fn is_time(&self, now: Timestamp) -> bool {
        self.settings.from.is_none_or(|from| from <= now)
            && self.settings.until.is_none_or(|until| now < until)
    }

    fn takes_port(&self, port: u16) -> bool {
        self.settings.ports.is_empty() || self.settings.ports.contains(&port)
    }

    /// Why the rule does not apply to what it lists; `None`: it does.
    fn miss(&self, client: &Client<'_>, port: u16, now: Timestamp) -> Option<Miss> {
        if !self.is_for(client) {
            let login = self.wants_login(client) && self.takes_port(port) && self.is_time(now);
            return Some(if login { Miss::Login } else { Miss::Client });
        }
        if !self.takes_port(port) {
            return Some(Miss::Port);
        }
        (!self.is_time(now)).then_some(Miss::Time)
    }
}

impl Policy {
    /// A policy of these rules, the first first.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut policy = Self::default();
        for (id, rule) in rules.into_iter().enumerate() {
            for pattern in &rule.settings.destinations {
                policy.index.add(pattern, id);
            }
            if rule.settings.mode == Mode::Report {
                policy.reporting.push(id);
            }
            policy.rules.push(Arc::new(rule));
        }
        policy
    }

    /// The rules, in the order of the files.
    #[must_use]
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Says whether `client` may connect to `destination` at the moment `now`. Looks at the rules
    /// that list the destination only; when it is denied, at all of them, to say why.
    #[must_use]
    pub fn decide(
        &self,
        client: &Client<'_>,
        destination: &Destination,
        now: Timestamp,
    ) -> Verdict {
        let mut allowed: Option<usize> = None;
        let mut nearest: Option<(Miss, usize)> = None;
        for id in self.index.rules(&destination.host) {
            let Some(rule) = self.rules.get(id) else { continue };
            let miss = rule.miss(client, destination.port, now);
            match (rule.settings.effect, miss) {
                (Effect::Deny, None) => {
                    return Verdict::Denied(Denial::of(Reason::EgressForbidden, Some(rule)));
                }
                (Effect::Deny, Some(_)) => {}
                (Effect::Allow, None) => {
                    allowed = Some(allowed.map_or(id, |before| before.min(id)));
                }
                (Effect::Allow, Some(miss)) => {
                    nearest = Some(nearest.map_or((miss, id), |before| before.min((miss, id))));
                }
            }
        }
        if let Some(rule) = allowed.and_then(|id| self.rules.get(id)) {
            return Verdict::Allowed(Grant { rule: Arc::clone(rule), reported: None });
        }
        let denial = self.denial(client, destination, nearest);
        match self.reporting(client, now) {
            Some((rule, true)) => {
                let rule = Arc::clone(rule);
                Verdict::Allowed(Grant { rule, reported: Some(denial) })
            }
            Some((rule, false)) if denial.reason != Reason::ProxyAuthRequired => {
                Verdict::Denied(Denial::of(Reason::ProxyAuthRequired, Some(rule)))
            }
            _ => Verdict::Denied(denial),
        }
    }

    /// The first rule in report mode that is for this client, and whether that is so already
    /// (`true`) or once it has logged in.
    fn reporting(&self, client: &Client<'_>, now: Timestamp) -> Option<(&Arc<Rule>, bool)> {
        let timely = || {
            let rules = self.reporting.iter().filter_map(|id| self.rules.get(*id));
            rules.filter(|rule| rule.is_time(now))
        };
        let now = timely().find(|rule| rule.is_for(client)).map(|rule| (rule, true));
        now.or_else(|| timely().find(|rule| rule.wants_login(client)).map(|rule| (rule, false)))
    }

    fn denial(
        &self,
        client: &Client<'_>,
        destination: &Destination,
        nearest: Option<(Miss, usize)>,
    ) -> Denial {
        let near = nearest.and_then(|(miss, id)| Some((miss, self.rules.get(id)?)));
        // For whom something else is allowed, the line to add is in that rule.
        let own = || {
            let mut allowing =
                self.rules.iter().filter(|rule| rule.settings.effect == Effect::Allow);
            allowing.find(|rule| rule.is_for(client))
        };
        match near {
            Some((Miss::Login, rule)) => Denial::of(Reason::ProxyAuthRequired, Some(rule)),
            Some((Miss::Time, rule)) => Denial::of(Reason::EgressTime, Some(rule)),
            Some((Miss::Port, rule)) => Denial::of(Reason::EgressPort, Some(rule)),
            Some((Miss::Client, rule)) => match own() {
                Some(own) => Denial::of(Reason::EgressDenied, Some(own)),
                None => Denial::of(Reason::EgressClient, Some(rule)),
            },
            None if matches!(destination.host, Host::Addr(_)) => {
                Denial::of(Reason::EgressLiteral, own())
            }
            None => match own() {
                Some(own) => Denial::of(Reason::EgressDenied, Some(own)),
                None if self.rules.is_empty() => Denial::of(Reason::EgressDenied, None),
                None => Denial::of(Reason::EgressClient, None),
            },
        }
    }
}

#[cfg(test)]
mod tests;
