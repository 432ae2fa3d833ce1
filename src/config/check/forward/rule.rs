//! `[[forward.rule]]`: destinations that certain clients may reach.

use ipnet::IpNet;
use jiff::Timestamp;

use crate::addr::Pattern;
use crate::addr::special::special;
use crate::config::checked::{ForwardRule, ParentId, RuleEffect, RuleMode, SniAction, SniPolicy};
use crate::config::deserialize::NamedTable;
use crate::config::file::{ForwardFile, RuleFile, RuleModeFile, SniActionFile, SniFile, Written};
use crate::config::problem::{Problem, Span};
use crate::config::wording;

use super::parent::DIRECT;
use super::{Checker, RuleNames};

/// Strings with their positions.
type List = Option<Written<Vec<Written<String>>>>;

/// Defaults for rules without these keys.
struct RuleDefaults<'a> {
    mode: RuleMode,
    sni: SniPolicy,
    via: Option<ParentId>,
    parents: &'a [(String, Span)],
}

impl Checker<'_> {
    pub(super) fn rules(
        &mut self,
        items: &[NamedTable<ForwardFile>],
        main: &NamedTable<ForwardFile>,
    ) -> Vec<ForwardRule> {
        let written = items.iter().filter_map(|item| Some((item.place.file, item.body.as_ref()?)));
        let written = written.flat_map(|(file, body)| {
            let parents = body.parent.iter().flat_map(|list| &list.value);
            parents.map(move |parent| (file, &parent.value.name))
        });
        // In the order of the files, which is that of their ids.
        let known: Vec<(String, Span)> =
            written.map(|(file, name)| (name.value.clone(), Span::of(file, &name.span))).collect();
        let body = main.body.as_ref();
        self.file = main.place.file;
        let default_mode = body.and_then(|body| body.mode.as_ref()).map(|mode| mode.value);
        let mut shared = RuleDefaults {
            mode: default_mode.map_or(RuleMode::Enforce, mode),
            sni: sni(body.and_then(|body| body.sni.as_ref()), SniPolicy::STRICT),
            via: None,
            parents: &known,
        };
        let via = body.and_then(|body| body.via.as_ref());
        shared.via = via.and_then(|written| self.via(written, &shared)).flatten();
        let (mut rules, mut names) = (Vec::new(), RuleNames::new());
        for (item, body) in items.iter().filter_map(|item| Some((item, item.body.as_ref()?))) {
            self.file = item.place.file;
            for written in body.rule.iter().flat_map(|list| &list.value) {
                self.named("rule", &written.value.name, &mut names);
                rules.push(self.rule(written, &shared));
            }
        }
        self.keep_valid(rules)
    }

    fn rule(
        &mut self,
        written: &Written<RuleFile>,
        shared: &RuleDefaults<'_>,
    ) -> Option<ForwardRule> {
        let (file, table) = (&written.value, self.place(written));
        let mode = file.mode.as_ref().map_or(shared.mode, |written| mode(written.value));
        let effect = self.effect(file, mode);
        self.is_for_somebody(file, table);
        let listed = if effect == RuleEffect::Deny { &file.deny } else { &file.allow };
        let listed = listed.iter().flat_map(|list| &list.value);
        let destinations: Vec<_> = listed.map(|written| self.destination(written)).collect();
        let clients = self.clients(&file.clients);
        let users = self.words(&file.users, "users");
        let client_names = self.words(&file.client_names, "client-names");
        let (ports, connect_ports) = self.ports(file, effect);
        let private_networks = self.special_networks(&file.private_networks);
        let (from, until) = self.period(file);
        if mode == RuleMode::Report && effect == RuleEffect::Allow {
            let message = format!(
                "rule `{}` only reports: its clients may reach any destination",
                file.name.value
            );
            let place = self.place(&file.name);
            let place = file.mode.as_ref().map_or(place, |mode| self.place(mode));
            self.found.push(
                Problem::warning("forward.report", place, message)
                    .with_label("other destinations are allowed too, and recorded")
                    .with_help(
                        "`app-gateway egress suggest` prints rules for it; then take this out",
                    ),
            );
        }
        let via = match &file.via {
            Some(written) => self.via(written, shared),
            None => Some(shared.via),
        };
        Some(ForwardRule {
            name: file.name.value.clone(),
            place: self.place(&file.name),
            clients: clients?,
            users,
            client_names,
            effect,
            destinations: destinations.into_iter().collect::<Option<_>>()?,
            ports,
            connect_ports,
            private_networks: private_networks?,
            from,
            until,
            mode: if effect == RuleEffect::Deny { RuleMode::Enforce } else { mode },
            sni: sni(file.sni.as_ref(), shared.sni),
            sni_elsewhere: sni(file.sni.as_ref(), SniPolicy::OFF),
            rate: self.rate(file.rate.as_ref()),
            via: via?,
        })
    }

    /// `allow` or `deny`, which exclude each other.
    fn effect(&mut self, file: &RuleFile, mode: RuleMode) -> RuleEffect {
        let name = &file.name;
        match (&file.allow, &file.deny) {
            (Some(allow), Some(deny)) => {
                let message = format!("rule `{}` both allows and denies", name.value);
                self.found.push(
                    Problem::error("forward.allow-and-deny", self.place(deny), message)
                        .with_label("this")
                        .with_related(self.place(allow), "and this")
                        .with_help("split it into two rules; `deny` wins in any order"),
                );
            }
            (None, Some(deny)) => {
                self.only_denies(file, self.place(deny));
                return RuleEffect::Deny;
            }
            (None, None) if mode == RuleMode::Report => {}
            (None, None) if self.found.is_damaged(self.place(name)) => {}
            (None, None) => self.allows_nothing(name, self.place(name)),
            (Some(allow), None) => {
                let damaged = self.found.is_damaged(self.place(allow));
                if allow.value.is_empty() && mode == RuleMode::Enforce && !damaged {
                    self.allows_nothing(name, self.place(allow));
                }
            }
        }
        RuleEffect::Allow
    }

    fn allows_nothing(&mut self, name: &Written<String>, place: Span) {
        let message = format!("rule `{}` allows nothing", name.value);
        self.found.push(
            Problem::error("forward.rule-empty", place, message)
                .with_label("no destination")
                .with_help(
                    "add `allow = [\"api.example.com\"]`; to find out what is needed, add `mode = \"report\"`",
                ),
        );
    }

    /// Reports keys that only apply to rules that allow.
    fn only_denies(&mut self, file: &RuleFile, deny: Span) {
        let others = [
            ("private-networks", file.private_networks.as_ref().map(|w| self.place(w))),
            ("mode", file.mode.as_ref().map(|w| self.place(w))),
            ("sni", file.sni.as_ref().map(|w| self.place(w))),
            ("rate", file.rate.as_ref().map(|w| self.place(w))),
            ("via", file.via.as_ref().map(|w| self.place(w))),
        ];
        for (key, place) in others {
            let Some(place) = place else { continue };
            let message = format!("`{key}` has no effect in a rule that denies");
            self.found.push(
                Problem::error("forward.rule-denies", place, message)
                    .with_label("take this out")
                    .with_related(deny, "this rule allows nothing"),
            );
        }
    }

    fn is_for_somebody(&mut self, file: &RuleFile, table: Span) {
        let some = file.clients.is_some() || file.users.is_some() || file.client_names.is_some();
        // The mistake may be in the very key that selects the clients.
        if some || self.found.is_damaged(table) {
            return;
        }
        let message = format!("rule `{}` has no condition for clients", file.name.value);
        self.found.push(
            Problem::error("forward.rule-for-nobody", self.place(&file.name), message)
                .with_label("`clients`, `users` or `client-names` is missing")
                .with_help(
                    "add `clients = [\"10.0.0.0/8\"]`; for any client at all, `clients = [\"0.0.0.0/0\", \"::/0\"]`",
                ),
        );
    }

    /// Parses one line of `allow`, `deny` or `no-proxy`.
    pub(super) fn destination(&mut self, written: &Written<String>) -> Option<Pattern> {
        let place = self.place(written);
        match Pattern::parse(&written.value) {
            Ok(Pattern::Below(name)) if !name.as_str().contains('.') => {
                let message = format!("`*.{name}` is every name that ends in `.{name}`");
                self.found.push(
                    Problem::warning("forward.wide", place, message)
                        .with_label("anyone can register a name there")
                        .with_help("name the domains"),
                );
                Some(Pattern::Below(name))
            }
            Ok(pattern) => Some(pattern),
            Err((said, help)) => {
                let message = format!("`{}` is not a destination", written.value);
                let problem = Problem::error("forward.destination", place, message);
                self.found.push(problem.with_label(said).with_help(help));
                None
            }
        }
    }

    fn clients(&mut self, list: &List) -> Option<Vec<IpNet>> {
        self.not_empty(list, "clients");
        let all = list.iter().flat_map(|list| &list.value);
        let all: Vec<_> = all.map(|written| self.network(written, "forward.clients")).collect();
        all.into_iter().collect()
    }

    fn words(&mut self, list: &List, key: &str) -> Vec<String> {
        self.not_empty(list, key);
        list.iter().flat_map(|list| &list.value).map(|written| written.value.clone()).collect()
    }

    /// Reports an empty list, which could be read as "any" or as "none".
    fn not_empty(&mut self, list: &List, key: &str) {
        let Some(list) = list.as_ref().filter(|list| list.value.is_empty()) else { return };
        if self.found.is_damaged(self.place(list)) {
            return;
        }
        let message = format!("the list of `{key}` is empty");
        let help = match key {
            "clients" => {
                "for any client at all, write `clients = [\"0.0.0.0/0\", \"::/0\"]`".to_owned()
            }
            _ => format!("leave `{key}` out if it should not matter"),
        };
        self.found.push(
            Problem::error("forward.list-empty", self.place(list), message)
                .with_label("none, or any?")
                .with_help(help),
        );
    }

    /// Ports of URLs, and of CONNECT.
    fn ports(&mut self, file: &RuleFile, effect: RuleEffect) -> (Vec<u16>, Vec<u16>) {
        let ports = self.port_list(file.ports.as_ref(), "ports");
        let connect = self.port_list(file.connect_ports.as_ref(), "connect-ports");
        if effect == RuleEffect::Deny {
            let ports = ports.unwrap_or_default();
            return (ports.clone(), connect.unwrap_or(ports));
        }
        if let (Some(written), Some(ports), None) = (&file.ports, &ports, &connect) {
            self.only_urls(&file.name, self.place(written), ports);
        }
        (ports.unwrap_or_else(|| vec![443]), connect.unwrap_or_else(|| vec![443]))
    }

    /// Warns of ports other than 80 and 443 that are listed for URLs but not for CONNECT.
    fn only_urls(&mut self, name: &Written<String>, place: Span, ports: &[u16]) {
        let odd: Vec<_> = ports.iter().filter(|port| !matches!(port, 80 | 443)).collect();
        let (Some(first), false) = (odd.first(), self.found.is_damaged(place)) else { return };
        let message = format!("rule `{}` opens port {first} for http:// only", name.value);
        self.found.push(
            Problem::warning("forward.ports-without-connect", place, message)
                .with_label("CONNECT goes to 443 alone")
                .with_help(format!(
                    "for tunnels to it add `connect-ports = [443, {first}]`; if http:// is meant, `connect-ports = [443]` ends this warning"
                )),
        );
    }

    fn port_list(
        &mut self,
        written: Option<&Written<Vec<Written<i64>>>>,
        key: &str,
    ) -> Option<Vec<u16>> {
        let list = written?;
        if list.value.is_empty() && !self.found.is_damaged(self.place(list)) {
            let message = format!("the list of `{key}` is empty");
            self.found.push(
                Problem::error("forward.list-empty", self.place(list), message)
                    .with_label("no port, or any port?")
                    .with_help(format!("leave `{key}` out for 443 alone")),
            );
        }
        let ports = list.value.iter().map(|written| self.number(Some(written), 443, 1..=65_535));
        Some(ports.filter_map(|port| u16::try_from(port).ok()).collect())
    }

    /// `private-networks`: special networks that the guard would otherwise block.
    fn special_networks(&mut self, list: &List) -> Option<Vec<IpNet>> {
        let mut networks = Vec::new();
        let mut good = true;
        for written in list.iter().flat_map(|list| &list.value) {
            let Some(network) = self.network(written, "forward.addresses") else {
                good = false;
                continue;
            };
            let place = self.place(written);
            match special(network.addr()) {
                None => self.found.push(
                    Problem::error(
                        "forward.addresses",
                        place,
                        format!("`{}` is a public address and needs no entry", written.value),
                    )
                    .with_label("`private-networks` is for special networks")
                    .with_help("list destinations in `allow`"),
                ),
                Some((block, what)) if !block.contains(&network) => self.found.push(
                    Problem::error(
                        "forward.addresses",
                        place,
                        format!("`{network}` is more than the {what} addresses"),
                    )
                    .with_label(format!("that block is {block}"))
                    .with_help("list each block by itself, as small as it can be"),
                ),
                Some(_) => networks.push(network),
            }
        }
        good.then_some(networks)
    }

    fn period(&mut self, file: &RuleFile) -> (Option<Timestamp>, Option<Timestamp>) {
        let from = file.from.as_ref().and_then(|written| self.moment(written));
        let until = file.until.as_ref().and_then(|written| self.moment(written));
        let (Some(end), Some(written)) = (until, &file.until) else { return (from, until) };
        let place = self.place(written);
        if let Some((_, start)) = from.filter(|from| *from >= end).zip(file.from.as_ref()) {
            let message = format!("rule `{}` ends before it begins", file.name.value);
            self.found.push(
                Problem::error("forward.period", place, message)
                    .with_label("its end")
                    .with_related(self.place(start), "its beginning"),
            );
        } else if end <= Timestamp::now() {
            let message = format!("rule `{}` has expired", file.name.value);
            self.found.push(
                Problem::warning("forward.rule-over", place, message)
                    .with_label("this time has passed")
                    .with_help("take the rule out, or set another end"),
            );
        }
        (from, until)
    }

    fn moment(&mut self, written: &Written<String>) -> Option<Timestamp> {
        let text = &written.value;
        if let Ok(moment) = text.parse() {
            return Some(moment);
        }
        let date = text.parse::<jiff::civil::Date>().is_ok();
        let label = if date && text.len() == 10 {
            "midnight of which time zone?"
        } else {
            "date, time, and the distance from UTC"
        };
        let day = text.get(..10).filter(|_| date).unwrap_or("2030-01-31");
        self.found.push(
            Problem::error(
                "forward.moment",
                self.place(written),
                format!("`{text}` is not a time"),
            )
            .with_label(label)
            .with_help(format!("write it like `{day}T18:00:00+01:00` or `{day}T17:00:00Z`")),
        );
        None
    }

    /// The parent of the rule. `None`: it is invalid.
    #[expect(clippy::option_option, reason = "wrong, none and one are three things")]
    fn via(
        &mut self,
        written: &Written<String>,
        shared: &RuleDefaults<'_>,
    ) -> Option<Option<ParentId>> {
        if written.value == DIRECT {
            return Some(None);
        }
        let at = shared.parents.iter().position(|(name, _)| *name == written.value);
        if let Some(at) = at {
            return Some(Some(ParentId(at)));
        }
        let place = self.place(written);
        let message = format!("no parent is called `{}`", written.value);
        let problem = Problem::error("forward.unknown-parent", place, message);
        let names = shared.parents.iter().map(|(name, _)| name.as_str());
        let problem = match wording::nearest(&written.value, names) {
            Some(best) => {
                let problem = problem.with_label(format!("did you mean `{best}`?"));
                match shared.parents.iter().find(|(name, _)| name == best) {
                    Some((_, at)) => problem.with_related(*at, "this one"),
                    None => problem,
                }
            }
            None => problem.with_label("it is not defined").with_help(format!(
                "add `[[forward.parent]]` with `name = \"{}\"`, or write \"direct\"",
                written.value
            )),
        };
        self.found.push(problem);
        None
    }
}

const fn mode(written: RuleModeFile) -> RuleMode {
    match written {
        RuleModeFile::Enforce => RuleMode::Enforce,
        RuleModeFile::Report => RuleMode::Report,
    }
}

/// The configured actions; `otherwise` supplies missing ones.
fn sni(written: Option<&Written<SniFile>>, otherwise: SniPolicy) -> SniPolicy {
    let Some(Written { value: file, .. }) = written else { return otherwise };
    let act = |written: &Option<Written<SniActionFile>>, otherwise| match written
        .as_ref()
        .map(|w| w.value)
    {
        Some(SniActionFile::Refuse) => SniAction::Refuse,
        Some(SniActionFile::Log) => SniAction::Log,
        Some(SniActionFile::Allow) => SniAction::Allow,
        None => otherwise,
    };
    SniPolicy {
        mismatch: act(&file.mismatch, otherwise.mismatch),
        missing: act(&file.missing, otherwise.missing),
        not_tls: act(&file.not_tls, otherwise.not_tls),
        ech: act(&file.ech, otherwise.ech),
    }
}
