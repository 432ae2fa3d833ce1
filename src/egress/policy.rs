//! Rules of the forward proxy, and their decision about a client and a destination.
//!
//! A rule lists destinations for clients. A destination listed by a rule with `deny` is denied,
//! whatever other rules say. Otherwise the first rule, in the order of the files, that allows the
//! destination decides. A destination that no rule allows is denied, unless the client belongs to a
//! rule in report mode.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::addr::{Destination, Host};
use crate::config::{ForwardRule, RuleEffect, RuleMode, SniPolicy, any_holds};
use crate::message::{Reason, RequestForm};

use super::Denial;
use super::index::Index;

/// Properties of a client that rules test.
#[derive(Clone, Copy, Debug)]
pub struct EgressClient<'a> {
    /// Source address.
    pub ip: IpAddr,
    /// Authenticated user; the password has been verified.
    pub user: Option<&'a str>,
    /// Names in the client's certificate, which has been verified.
    pub names: &'a [String],
}

/// A compiled rule.
#[derive(Debug)]
pub struct EgressRule {
    /// Settings of the rule from the configuration.
    pub settings: ForwardRule,
    /// Location of the rule, as `file:line`.
    pub at: String,
}

/// All rules.
#[derive(Debug, Default)]
pub struct EgressPolicy {
    rules: Vec<Arc<EgressRule>>,
    index: Index,
    /// Numbers of the rules in report mode.
    reporting: Vec<usize>,
    /// Numbers of the rules that ask clients to log in.
    asking: Vec<usize>,
}

/// Effect that the user name of a client would have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Login {
    /// None: credentials are ignored.
    Ignored,
    /// Only the text of a denial depends on it: wrong credentials are ignored.
    Explains,
    /// The decision depends on it: wrong credentials are rejected.
    Decides,
}

/// Decision about a client and a destination.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Allowed by this rule.
    Allowed(Grant),
    /// Denied.
    Denied(Denial),
}

/// A permission. [`super::Guard::check`] must still accept each address.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The rule that grants it, with its limits, its parent and its SNI settings.
    pub rule: Arc<EgressRule>,
    /// Denial that report mode suppressed: to be logged, and counted in [`super::Observations`].
    pub reported: Option<Denial>,
}

/// Reason why a rule that lists the destination does not apply; the variant nearest to applying
/// comes first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum RuleMismatch {
    /// The rule would apply after a login.
    Login,
    /// The rule is not valid yet, or no longer valid.
    Time,
    /// The rule lists other ports.
    Port,
    /// The rule is for other clients.
    Client,
}

impl EgressRule {
    /// SNI policy of `port`.
    #[must_use]
    pub const fn sni(&self, port: u16) -> SniPolicy {
        if port == 443 { self.settings.sni } else { self.settings.sni_elsewhere }
    }

    /// Whether the rule is for this client.
    #[must_use]
    pub fn is_for(&self, client: &EgressClient<'_>) -> bool {
        let known = |user| self.settings.users.iter().any(|known| known == user);
        self.admits_but_for_login(client)
            && (self.settings.users.is_empty() || client.user.is_some_and(known))
    }

    fn admits_but_for_login(&self, client: &EgressClient<'_>) -> bool {
        let ForwardRule { clients, client_names, .. } = &self.settings;
        let named =
            |name: &String| client_names.iter().any(|known| known.eq_ignore_ascii_case(name));
        (clients.is_empty() || any_holds(clients, client.ip))
            && (client_names.is_empty() || client.names.iter().any(named))
    }

    /// Whether the rule would be for the client after a login.
    fn wants_login(&self, client: &EgressClient<'_>) -> bool {
        client.user.is_none()
            && !self.settings.users.is_empty()
            && self.admits_but_for_login(client)
    }

    /// Whether the rule is valid at this time.
    #[must_use]
    pub fn is_time(&self, now: Timestamp) -> bool {
        self.settings.from.is_none_or(|from| from <= now)
            && self.settings.until.is_none_or(|until| now < until)
    }

    /// The ports of the rule for requests of this form. Empty: any port.
    #[must_use]
    pub fn ports(&self, form: RequestForm) -> &[u16] {
        match form {
            RequestForm::Connect => &self.settings.connect_ports,
            RequestForm::Http | RequestForm::Https => &self.settings.ports,
        }
    }

    /// Whether requests of this form may go to the port.
    #[must_use]
    pub fn takes_port(&self, form: RequestForm, port: u16) -> bool {
        let ports = self.ports(form);
        ports.is_empty() || ports.contains(&port)
    }

    /// Reason why the rule does not apply to a destination it lists; `None` if it applies.
    fn miss(
        &self,
        client: &EgressClient<'_>,
        (form, port): (RequestForm, u16),
        now: Timestamp,
    ) -> Option<RuleMismatch> {
        let takes_port = self.takes_port(form, port);
        if !self.is_for(client) {
            let login = self.wants_login(client) && takes_port && self.is_time(now);
            return Some(if login { RuleMismatch::Login } else { RuleMismatch::Client });
        }
        if !takes_port {
            return Some(RuleMismatch::Port);
        }
        (!self.is_time(now)).then_some(RuleMismatch::Time)
    }
}

impl EgressPolicy {
    /// A policy of these rules, in order.
    #[must_use]
    pub fn new(rules: Vec<EgressRule>) -> Self {
        let mut policy = Self::default();
        for (id, rule) in rules.into_iter().enumerate() {
            for pattern in &rule.settings.destinations {
                policy.index.add(pattern, id);
            }
            if rule.settings.mode == RuleMode::Report {
                policy.reporting.push(id);
            }
            if !rule.settings.users.is_empty() {
                policy.asking.push(id);
            }
            policy.rules.push(Arc::new(rule));
        }
        policy
    }

    /// The rules, in the order of the files.
    #[must_use]
    pub fn rules(&self) -> &[Arc<EgressRule>] {
        &self.rules
    }

    /// Effect of a login on the decision, computed before the credentials are verified, which is
    /// expensive; `client` has no user yet.
    #[must_use]
    pub fn login(
        &self,
        client: &EgressClient<'_>,
        destination: &Destination,
        form: RequestForm,
        now: Timestamp,
    ) -> Login {
        let mut asking = self.asking.iter().filter_map(|id| self.rules.get(*id));
        if !asking.any(|rule| rule.wants_login(client) && rule.is_time(now)) {
            return Login::Ignored;
        }
        let (mut allowed, mut login) = (None::<usize>, None::<usize>);
        for id in self.index.rules(&destination.host) {
            let Some(rule) = self.rules.get(id) else { continue };
            let miss = rule.miss(client, (form, destination.port), now);
            let first = match (rule.settings.effect, miss) {
                (RuleEffect::Deny, None) => return Login::Explains,
                (RuleEffect::Deny, Some(RuleMismatch::Login)) => return Login::Decides,
                (RuleEffect::Allow, None) => &mut allowed,
                (RuleEffect::Allow, Some(RuleMismatch::Login)) => &mut login,
                _ => continue,
            };
            *first = Some(first.map_or(id, |before| before.min(id)));
        }
        match (allowed, login) {
            (Some(allowed), Some(login)) if login < allowed => Login::Decides,
            (Some(_), _) => Login::Ignored,
            (None, Some(_)) => Login::Decides,
            (None, None) => match self.reporting(client, now) {
                Some((_, false)) => Login::Decides,
                _ => Login::Explains,
            },
        }
    }

    /// Decides whether `client` may connect to `destination` with a request of this form at the
    /// time `now`. Checks only the rules that list the destination and, for a denial, all rules to
    /// find its reason.
    #[must_use]
    pub fn decide(
        &self,
        client: &EgressClient<'_>,
        destination: &Destination,
        form: RequestForm,
        now: Timestamp,
    ) -> Verdict {
        let mut allowed: Option<usize> = None;
        let mut nearest: Option<(RuleMismatch, usize)> = None;
        for id in self.index.rules(&destination.host) {
            let Some(rule) = self.rules.get(id) else { continue };
            let miss = rule.miss(client, (form, destination.port), now);
            match (rule.settings.effect, miss) {
                (RuleEffect::Deny, None) => {
                    return Verdict::Denied(Denial::of(Reason::EgressForbidden, Some(rule), form));
                }
                (RuleEffect::Deny, Some(_)) => {}
                (RuleEffect::Allow, None) => {
                    allowed = Some(allowed.map_or(id, |before| before.min(id)));
                }
                (RuleEffect::Allow, Some(miss)) => {
                    nearest = Some(nearest.map_or((miss, id), |before| before.min((miss, id))));
                }
            }
        }
        if let Some(rule) = allowed.and_then(|id| self.rules.get(id)) {
            return Verdict::Allowed(Grant { rule: Arc::clone(rule), reported: None });
        }
        let denial = self.denial(client, destination, (form, nearest));
        match self.reporting(client, now) {
            Some((rule, true)) => {
                let rule = Arc::clone(rule);
                Verdict::Allowed(Grant { rule, reported: Some(denial) })
            }
            Some((rule, false)) if denial.reason != Reason::ProxyAuthRequired => {
                Verdict::Denied(Denial::of(Reason::ProxyAuthRequired, Some(rule), form))
            }
            _ => Verdict::Denied(denial),
        }
    }

    /// The first rule in report mode that is for this client, and whether it applies already
    /// (`true`) or only after a login.
    fn reporting(
        &self,
        client: &EgressClient<'_>,
        now: Timestamp,
    ) -> Option<(&Arc<EgressRule>, bool)> {
        let timely = || {
            let rules = self.reporting.iter().filter_map(|id| self.rules.get(*id));
            rules.filter(|rule| rule.is_time(now))
        };
        let now = timely().find(|rule| rule.is_for(client)).map(|rule| (rule, true));
        now.or_else(|| timely().find(|rule| rule.wants_login(client)).map(|rule| (rule, false)))
    }

    fn denial(
        &self,
        client: &EgressClient<'_>,
        destination: &Destination,
        (form, nearest): (RequestForm, Option<(RuleMismatch, usize)>),
    ) -> Denial {
        let near = nearest.and_then(|(miss, id)| Some((miss, self.rules.get(id)?)));
        // A client with a rule of its own gets the advice to extend that rule.
        let own = || {
            let mut allowing =
                self.rules.iter().filter(|rule| rule.settings.effect == RuleEffect::Allow);
            allowing.find(|rule| rule.is_for(client))
        };
        let (reason, rule) = match near {
            Some((RuleMismatch::Login, rule)) => (Reason::ProxyAuthRequired, Some(rule)),
            Some((RuleMismatch::Time, rule)) => (Reason::EgressTime, Some(rule)),
            Some((RuleMismatch::Port, rule)) => (Reason::EgressPort, Some(rule)),
            Some((RuleMismatch::Client, rule)) => match own() {
                Some(own) => (Reason::EgressDenied, Some(own)),
                None => (Reason::EgressClient, Some(rule)),
            },
            None if matches!(destination.host, Host::Addr(_)) => (Reason::EgressLiteral, own()),
            None => match own() {
                Some(own) => (Reason::EgressDenied, Some(own)),
                None if self.rules.is_empty() => (Reason::EgressDenied, None),
                None => (Reason::EgressClient, None),
            },
        };
        Denial::of(reason, rule, form)
    }
}

#[cfg(test)]
mod tests;
