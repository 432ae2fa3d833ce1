//! Deserializes text into the file types: checks the TOML syntax, the keys and the types of values.
//!
//! serde stops at the first mistake. So each mistake is removed from the parsed tree by its
//! position and the tree is read again, until no mistake is left or none can be removed. The keys
//! that an item lost are recorded, so that later steps do not report them as missing.
//!
//! Files are added to [`ParsedFiles`] one by one. The meaning of values is decided later.

use std::collections::HashSet;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, ValueDeserializer};

use super::expand::{Env, expand};
use super::file::{
    AdminFile, CertificateFile, DoctorFile, ForwardFile, GatewayFile, ProfileFile, TcpFile,
    UpstreamFile,
};
use super::outline::OutlineBuilder;
use super::problem::{Findings, Span};
use super::{syntax, wording};

/// Mistakes removed from one item before the rest of it is given up.
const MAX_MISTAKES: usize = 64;

/// The known tables at the top of a file.
const TABLES: [&str; 8] =
    ["gateway", "admin", "certificate", "upstream", "profile", "tcp", "forward", "doctor"];

/// Keys whose value is always a table.
const TABLE_KEYS: [&str; 7] = ["limits", "timeouts", "sni", "health", "check", "eject", "failover"];

/// Keys whose value is always an array of tables.
const TABLE_ARRAY_KEYS: [&str; 5] = ["listener", "route", "pairs", "rule", "parent"];

/// The contents of all files, with positions and without meaning.
#[derive(Debug, Default)]
pub(super) struct ParsedFiles {
    /// Contents as items and keys, for comparisons.
    pub(super) outline: OutlineBuilder,
    /// Every `[gateway]`.
    pub(super) gateway: Vec<NamedTable<GatewayFile>>,
    /// Every `[admin]`.
    pub(super) admin: Vec<NamedTable<AdminFile>>,
    /// Every `[certificate.NAME]`.
    pub(super) certificates: Vec<NamedTable<CertificateFile>>,
    /// Every `[upstream.NAME]`.
    pub(super) upstreams: Vec<NamedTable<UpstreamFile>>,
    /// All parts of every `[profile.NAME]`.
    pub(super) profiles: Vec<NamedTable<ProfileFile>>,
    /// Every `[tcp.NAME]`.
    pub(super) tcp: Vec<NamedTable<TcpFile>>,
    /// Every `[doctor]`.
    pub(super) doctor: Vec<NamedTable<DoctorFile>>,
    /// All parts of `[forward]`.
    pub(super) forward: Vec<NamedTable<ForwardFile>>,
}

/// A named table.
#[derive(Debug)]
pub(super) struct NamedTable<T> {
    /// `NAME`; the name of the table itself for `[gateway]` and `[admin]`.
    pub(super) name: String,
    /// Position of its header.
    pub(super) place: Span,
    /// Its contents; `None` if the value is not a table of the right kind.
    pub(super) body: Option<T>,
}

/// Reads one file into `shaped`. A file with a syntax error adds nothing.
///
/// Returns whether the file could be parsed.
pub(super) fn shape(
    (file, text): (u16, &str),
    env: Env<'_>,
    shaped: &mut ParsedFiles,
    found: &mut Findings,
) -> bool {
    let (root, errors) = DeTable::parse_recoverable(text);
    for problem in syntax::problems(&errors, file, text) {
        found.push(problem);
    }
    if !errors.is_empty() {
        return false;
    }
    let mut root = root.into_inner();
    expand(&mut root, file, env, found);
    shaped.outline.add(file, &root);
    let mut reader = FileReader { file, text, found, excused: HashSet::new() };
    for (key, value) in root {
        match key.get_ref().as_ref() {
            "gateway" => shaped.gateway.push(reader.item(&key, value)),
            "admin" => shaped.admin.push(reader.item(&key, value)),
            "doctor" => shaped.doctor.push(reader.item(&key, value)),
            "forward" => shaped.forward.push(reader.item(&key, value)),
            "certificate" => reader.items(&key, value, &mut shaped.certificates),
            "upstream" => reader.items(&key, value, &mut shaped.upstreams),
            "profile" => reader.items(&key, value, &mut shaped.profiles),
            "tcp" => reader.items(&key, value, &mut shaped.tcp),
            _ => {
                let place = reader.place(&key.span());
                reader.found.strike(place, wording::unknown_table(key.get_ref(), place, &TABLES));
            }
        }
    }
    true
}

/// The file that is being read.
struct FileReader<'a> {
    file: u16,
    text: &'a str,
    found: &'a mut Findings,
    /// Keys that are missing from the table at a position because of a mistake already reported.
    excused: HashSet<(Span, String)>,
}

impl FileReader<'_> {
    fn place(&self, span: &Range<usize>) -> Span {
        Span::of(self.file, span)
    }

    /// Reads `[key.NAME]` for every NAME.
    fn items<T: DeserializeOwned>(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: Spanned<DeValue<'_>>,
        into: &mut Vec<NamedTable<T>>,
    ) {
        let span = value.span();
        let DeValue::Table(table) = value.into_inner() else {
            let place = self.place(&span);
            self.found.damage(place);
            self.found.strike(place, wording::needs_a_name(key.get_ref(), place));
            return;
        };
        for (name, value) in table {
            if value.get_ref().is_table() {
                into.push(self.item(&name, value));
                continue;
            }
            // `[upstream]` contains the keys of one upstream, so the name is missing.
            let place = self.place(&name.span());
            self.found.damage(place);
            let place = if span.is_empty() { place } else { self.place(&span) };
            self.found.strike(place, wording::needs_a_name(key.get_ref(), place));
        }
    }

    /// Reads one table.
    fn item<T: DeserializeOwned>(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        mut value: Spanned<DeValue<'_>>,
    ) -> NamedTable<T> {
        let place = self.place(&value.span());
        let name = key.get_ref().clone().into_owned();
        if value.get_ref().is_table() {
            self.demand_tables(&mut value);
            return NamedTable { name, place, body: self.body(value) };
        }
        self.found.damage(place);
        self.found.strike(place, wording::not_a_table(&name, place, self.text));
        NamedTable { name, place, body: None }
    }

    /// Rejects arrays in place of tables. serde would read an array field by field in the order of
    /// the type, which no operator intends.
    fn demand_tables(&mut self, item: &mut Spanned<DeValue<'_>>) {
        let own = self.place(&item.span());
        let DeValue::Table(table) = item.get_mut() else { return };
        let mut wrong = Vec::new();
        for (key, value) in table.iter_mut() {
            let name = key.get_ref().as_ref();
            let place = Span::of(self.file, &value.span());
            if TABLE_KEYS.contains(&name) && !value.get_ref().is_table() {
                wrong.push((key.span(), wording::not_a_table(name, place, self.text)));
            } else if TABLE_ARRAY_KEYS.contains(&name) {
                let good = value
                    .get_ref()
                    .as_array()
                    .is_some_and(|a| a.iter().all(|v| v.get_ref().is_table()));
                if !good {
                    wrong.push((key.span(), wording::not_tables(name, place, self.text)));
                }
            }
        }
        for (key, problem) in wrong {
            let taken = take_out(item, &key).and_then(|(_, key)| key);
            self.excused.extend(taken.map(|key| (own, key)));
            self.found.damage(own);
            self.found.push(problem);
        }
    }

    fn body<T: DeserializeOwned>(&mut self, mut value: Spanned<DeValue<'_>>) -> Option<T> {
        for _ in 0..MAX_MISTAKES {
            let error = match T::deserialize(ValueDeserializer::from(value.clone())) {
                Ok(body) => return Some(body),
                Err(error) => error,
            };
            let span = error.span().unwrap_or_else(|| value.span());
            let place = self.place(&span);
            let missing = wording::missing(&error).map(|key| (place, key.to_owned()));
            if missing.is_none_or(|missing| !self.excused.contains(&missing)) {
                self.found.strike(place, wording::shape(&error, place, self.text));
            }
            self.found.damage(place);
            let Some((table, key)) = take_out(&mut value, &span) else { break };
            let (table, item) = (self.place(&table), self.place(&value.span()));
            let key = wording::intended_key(&error).or(key);
            self.excused.extend(key.map(|key| (table, key)));
            self.found.damage(table);
            self.found.damage(item);
        }
        let place = self.place(&value.span());
        self.found.damage(place);
        None
    }
}

/// Removes the item at `span` from `value`: a key with its value, or an element of an array. The
/// innermost match is removed, because an array of tables has the position of its first table.
///
/// Returns the position of the containing table or array, and the key if it is a table.
fn take_out(
    value: &mut Spanned<DeValue<'_>>,
    span: &Range<usize>,
) -> Option<(Range<usize>, Option<String>)> {
    let own = value.span();
    match value.get_mut() {
        DeValue::Table(table) => {
            if let Some(inside) = table.iter_mut().find_map(|(_, value)| take_out(value, span)) {
                return Some(inside);
            }
            let here = |key: &Range<usize>, value: &Range<usize>| key == span || value == span;
            let key = table.iter().find(|(key, value)| here(&key.span(), &value.span()))?.0.clone();
            table.remove(&key);
            Some((own, Some(key.into_inner().into_owned())))
        }
        DeValue::Array(array) => {
            if let Some(inside) = array.iter_mut().find_map(|value| take_out(value, span)) {
                return Some(inside);
            }
            let index = array.iter().position(|value| value.span() == *span)?;
            let kept = std::mem::replace(array, DeArray::new()).into_iter().enumerate();
            *array = kept.filter(|(at, _)| *at != index).map(|(_, value)| value).collect();
            Some((own, None))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<(&'static str, String)> {
        let mut found = Findings::default();
        let mut shaped = ParsedFiles::default();
        shape((0, text), &|_| None, &mut shaped, &mut found);
        let marked = |place: Option<Span>| {
            place.map_or(String::new(), |p| text[p.start as usize..p.end as usize].to_owned())
        };
        found.into_sorted().into_iter().map(|p| (p.code, marked(p.place))).collect()
    }

    #[test]
    fn reports_every_mistake_of_a_table() {
        let text =
            "[upstream.chat]\nendpoint = [\"a\"]\nmax-idle = \"64\"\npin = \"x\"\nkeepalive = 1\n";
        let expected = [
            ("key.unknown", "endpoint"),
            ("value.kind", "\"64\""),
            ("value.kind", "\"x\""),
            ("key.unknown", "keepalive"),
        ];
        assert_eq!(problems(text), expected.map(|(code, at)| (code, at.to_owned())));
    }

    #[test]
    fn a_former_key_names_the_present_one() {
        let header = |now| match now {
            "socket-io-tracking" | "ticket-key-lifetime" => vec!["[gateway]"],
            "resolve-interval" => vec!["[gateway]", "[upstream.a]"],
            "ignore" => vec!["[gateway.drift]"],
            "interval" => vec!["[gateway.drift]", "[upstream.a.check]"],
            "public-profiles" => vec!["[doctor]"],
            "frame-ancestors" | "mode" => vec!["[[profile.a.route]]"],
            "failover" | "retries-per-second" => vec!["[upstream.a]"],
            "failback-after" => vec!["[upstream.a.failover]"],
            "base-time" | "count" | "failure-kinds" | "max-percent" | "max-time" => {
                vec!["[upstream.a.eject]"]
            }
            "unlisted" => vec![
                "[[profile.a.listener]]\n[profile.a.listener.proxy-protocol]",
                "[[tcp.a.listener]]\n[tcp.a.listener.proxy-protocol]",
                "[[forward.listener]]\n[forward.listener.proxy-protocol]",
            ],
            "close-spread" | "on-failback" | "on-failover" => vec!["[tcp.a]"],
            "client-hello" | "max-lifetime" => vec!["[tcp.a.timeouts]", "[forward.timeouts]"],
            "private-networks" => vec!["[[forward.rule]]"],
            "request-rate-per-client" => vec!["[forward.limits]"],
            other => panic!("`{other}` has no table in this test"),
        };
        for (old, now) in wording::RENAMED {
            for header in header(now) {
                let text = format!("{header}\n{old} = 1\n");
                let mut found = Findings::default();
                shape((0, &text), &|_| None, &mut ParsedFiles::default(), &mut found);
                let problems = found.into_sorted();
                let marked = |place: Span| &text[place.start as usize..place.end as usize];
                let problem = problems
                    .iter()
                    .find(|problem| problem.code == "key.unknown")
                    .unwrap_or_else(|| panic!("{text}: {problems:?}"));
                assert_eq!(problem.place.map(marked), Some(old), "{text}");
                assert_eq!(problem.label, format!("this key is now called `{now}`"), "{text}");
            }
        }
    }

    #[test]
    fn an_array_is_not_a_table() {
        let text = "[profile.a]\nlimits = [1, 2]\n[profile.a.route]\npath = \"/\"\n";
        let codes: Vec<_> = problems(text).into_iter().map(|(code, _)| code).collect();
        assert_eq!(codes, ["value.kind", "value.kind"]);
    }

    #[test]
    fn a_broken_route_leaves_the_others() {
        let text =
            "[[profile.a.route]]\npth = \"/\"\n[[profile.a.route]]\npath = \"/\"\ndeny = 1\n";
        let mut found = Findings::default();
        let mut shaped = ParsedFiles::default();
        shape((0, text), &|_| None, &mut shaped, &mut found);
        let body = shaped.profiles[0].body.as_ref().unwrap();
        assert_eq!(body.route.as_ref().unwrap().value.len(), 1);
        assert_eq!(found.into_sorted().len(), 2);
    }
}
