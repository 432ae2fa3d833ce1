//! What the files say, item by item: for telling two configurations apart in the operator's words.
//!
//! Taken from the parsed files after the environment was put in, and not from what they mean: so a
//! key that is added tomorrow is compared too, every difference has a line, and two directories
//! that say the same have the same outline, whatever their comments, order and file names are.
//!
//! In: parsed files. Out: named items with their keys. Never: knows what a key does.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Place;

/// The keys that tell the tables of an array apart. Tables without one are keys of their item, but for
/// routes of `[tcp.NAME]`: they are called by their first server name, or `any`.
const NAMING: [&str; 3] = ["path", "listen", "name"];

/// What a key has in its name if its value is not to be shown.
const SECRET: [&str; 4] = ["password", "secret", "token", "credential"];

/// Everything the files of a directory say.
#[derive(Debug, Default)]
pub struct Outline {
    directory: PathBuf,
    items: BTreeMap<Name, Item>,
}

/// What an item is called.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Name {
    /// `gateway`, `upstream`, `route`, …
    pub kind: String,
    /// What it is in: the profile of a route; empty for what stands alone.
    pub within: String,
    /// Name, path or address; empty where there is only one of the kind.
    pub name: String,
    /// What else tells it apart: the methods of a route.
    pub further: String,
}

/// A table, or several of one name.
#[derive(Debug)]
pub struct Item {
    /// Where it begins.
    pub place: Place,
    /// Its keys, those of tables in it with dots.
    pub keys: BTreeMap<String, Value>,
}

/// The value of a key.
#[derive(Debug)]
pub struct Value {
    /// Where it is written.
    pub place: Place,
    /// As TOML.
    written: String,
    /// The text, if it is one: it may name a file.
    text: Option<String>,
    secret: bool,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        for part in [&self.name, &self.further].into_iter().filter(|part| !part.is_empty()) {
            write!(f, " {part}")?;
        }
        if self.within.is_empty() { Ok(()) } else { write!(f, " ({})", self.within) }
    }
}

impl Value {
    /// As TOML, secrets included: for comparing.
    #[must_use]
    pub fn exact(&self) -> &str {
        &self.written
    }

    /// Whether it is not to be shown.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.secret
    }

    /// For people: without passwords.
    #[must_use]
    pub fn shown(&self) -> String {
        if self.secret { "(secret)".to_owned() } else { without_credentials(&self.written) }
    }
}

impl Outline {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), items: BTreeMap::new() }
    }

    /// The directory it is of.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The items, in the order of their names.
    pub fn items(&self) -> impl Iterator<Item = (&Name, &Item)> {
        self.items.iter()
    }

    /// The item of this name.
    #[must_use]
    pub fn item(&self, name: &Name) -> Option<&Item> {
        self.items.get(name)
    }

    /// The path of the file that a value names, if it is one.
    #[must_use]
    pub fn file(&self, value: &Value) -> Option<PathBuf> {
        value.text.as_ref().map(|text| self.directory.join(text).components().collect())
    }

    /// Adds what a file says.
    pub(super) fn add(&mut self, file: u16, root: &DeTable<'_>) {
        for (key, value) in root {
            let kind = key.get_ref().as_ref();
            let DeValue::Table(table) = value.get_ref() else { continue };
            let place = Place::of(file, &value.span());
            let named = !table.is_empty() && table.iter().all(|(_, v)| v.get_ref().is_table());
            if !named || matches!(kind, "gateway" | "admin" | "doctor") {
                let name = Name::alone(kind, "");
                self.table(&name, (file, place), table);
                continue;
            }
            for (key, value) in table {
                let DeValue::Table(table) = value.get_ref() else { continue };
                let name = Name::alone(kind, key.get_ref());
                self.table(&name, (file, Place::of(file, &value.span())), table);
            }
        }
    }

    fn table(&mut self, name: &Name, (file, place): (u16, Place), table: &DeTable<'_>) {
        let item =
            self.items.entry(name.clone()).or_insert_with(|| Item { place, keys: BTreeMap::new() });
        if item.keys.is_empty() {
            item.place = place;
        }
        for (key, value) in table {
            let key = key.get_ref().as_ref();
            match value.get_ref() {
                DeValue::Array(list) if !list.is_empty() && list.iter().all(names_itself) => {
                    for value in list {
                        let DeValue::Table(table) = value.get_ref() else { continue };
                        let part = Name::part(name, key, table);
                        let place = Place::of(file, &value.span());
                        self.table(&part, (file, place), table);
                    }
                }
                _ => {
                    if let Some(item) = self.items.get_mut(name) {
                        item.key(key, file, value);
                    }
                }
            }
        }
    }
}

impl Name {
    fn alone(kind: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            within: String::new(),
            further: String::new(),
        }
    }

    /// A table of the array `key` of `owner`.
    fn part(owner: &Self, key: &str, table: &DeTable<'_>) -> Self {
        let methods = table.get("methods").and_then(|v| v.get_ref().as_array());
        let methods = methods.into_iter().flatten().filter_map(|v| v.get_ref().as_str());
        let mut further = methods.collect::<Vec<_>>().join(",");
        if table.get("exact").is_some_and(|v| v.get_ref().as_bool() == Some(true)) {
            further.push_str(if further.is_empty() { "exact" } else { " exact" });
        }
        Self {
            kind: key.to_owned(),
            name: own_name(table).unwrap_or_default().to_owned(),
            within: if owner.name.is_empty() { owner.kind.clone() } else { owner.name.clone() },
            further,
        }
    }
}

impl Item {
    /// Takes a key up, or the keys of the table it is.
    fn key(&mut self, key: &str, file: u16, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => {
                for (inner, value) in table {
                    self.key(&format!("{key}.{}", inner.get_ref()), file, value);
                }
            }
            DeValue::Array(list)
                if !list.is_empty() && list.iter().all(|v| v.get_ref().is_table()) =>
            {
                for (index, value) in list.iter().enumerate() {
                    self.key(&format!("{key}.{}", index + 1), file, value);
                }
            }
            plain => {
                let last = key.rsplit('.').next().unwrap_or(key);
                let value = Value {
                    place: Place::of(file, &value.span()),
                    written: written(plain),
                    text: plain.as_str().map(str::to_owned),
                    // A file that holds one may be named.
                    secret: is_secret(last) && !last.ends_with("-file"),
                };
                self.keys.insert(key.to_owned(), value);
            }
        }
    }
}

/// Whether a key is about a secret, or a file with one.
#[must_use]
pub fn is_secret(key: &str) -> bool {
    SECRET.iter().any(|word| key.contains(word))
}

fn names_itself(value: &Spanned<DeValue<'_>>) -> bool {
    value.get_ref().as_table().is_some_and(|table| own_name(table).is_some())
}

/// What tells a table of an array from the others.
fn own_name<'a>(table: &'a DeTable<'_>) -> Option<&'a str> {
    let text = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str());
    let own = NAMING.iter().find_map(|key| text(key));
    let list = || table.get("server-names").and_then(|value| value.get_ref().as_array());
    let first = || list().and_then(|list| list.iter().next()?.get_ref().as_str());
    own.or_else(first).or_else(|| text("upstream").map(|_| "any"))
}

/// A value as TOML, on one line.
fn written(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(list) => {
            let list: Vec<_> = list.iter().map(|value| written(value.get_ref())).collect();
            format!("[{}]", list.join(", "))
        }
        DeValue::Table(table) => {
            let mut out = String::from("{");
            for (key, value) in table {
                // Writing to a String cannot fail.
                let _ = write!(out, " {} = {},", key.get_ref(), written(value.get_ref()));
            }
            out.push_str(" }");
            out
        }
    }
}

/// `https://user:password@host` without what stands before the `@`.
fn without_credentials(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for found in credentials(text) {
        out.push_str(text.get(done..found.start).unwrap_or_default());
        out.push_str("***");
        done = found.end;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

/// Where users and passwords stand in a text, up to their `@`: in URLs, and in what looks like one
/// whose scheme was forgotten. Rather too much than too little: a `/` in a password ends no host.
pub(super) fn credentials(text: &str) -> Vec<Range<usize>> {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`');
    let mut found = Vec::new();
    let mut start = 0;
    for word in text.split_inclusive(ends) {
        let scheme = word.find("://").map(|at| at + 3);
        let from = scheme.unwrap_or(0);
        let rest = word.get(from..).unwrap_or_default();
        if let Some(at) = rest.rfind('@') {
            let before = rest.get(..at).unwrap_or_default();
            let (host, path) = before.split_once('/').unwrap_or((before, ""));
            let port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            let login = match host.split_once(':') {
                // The `@` of a path: `https://example.com:8443/@me`.
                Some((_, after)) => path.is_empty() && !before.ends_with('/') || !port(after),
                None => scheme.is_some() && host.len() == before.len(),
            };
            if login {
                found.push(start + from..start + from + at);
            }
        }
        start += word.len();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(text: &str) -> Outline {
        let mut outline = Outline::new(Path::new("/etc/x"));
        outline.add(0, DeTable::parse(text).unwrap().get_ref());
        outline
    }

    fn lines(outline: &Outline) -> Vec<String> {
        let keys = outline.items().flat_map(|(name, item)| {
            item.keys.iter().map(move |(key, value)| format!("{name}: {key} = {}", value.shown()))
        });
        keys.collect()
    }

    #[test]
    fn names_every_item_and_key() {
        let outline = outline(
            r#"
            gateway.workers = 2
            [certificate.main]
            pairs = [{ chain = "a.crt", key = "a.key" }, { chain = "b.crt", key = "b.key" }]
            [profile.lan]
            hosts = ["a", "b"]
            limits.streams = 7
            [[profile.lan.route]]
            path = "/x/"
            methods = ["GET", "PUT"]
            [[profile.lan.listener]]
            listen = "127.0.0.1:443"
            [forward]
            listen = "127.0.0.1:3128"
            [[forward.rule]]
            name = "all"
            "#,
        );
        assert_eq!(
            lines(&outline),
            [
                "certificate main: pairs.1.chain = \"a.crt\"",
                "certificate main: pairs.1.key = \"a.key\"",
                "certificate main: pairs.2.chain = \"b.crt\"",
                "certificate main: pairs.2.key = \"b.key\"",
                "forward: listen = \"127.0.0.1:3128\"",
                "gateway: workers = 2",
                "listener 127.0.0.1:443 (lan): listen = \"127.0.0.1:443\"",
                "profile lan: hosts = [\"a\", \"b\"]",
                "profile lan: limits.streams = 7",
                "route /x/ GET,PUT (lan): methods = [\"GET\", \"PUT\"]",
                "route /x/ GET,PUT (lan): path = \"/x/\"",
                "rule all (forward): name = \"all\"",
            ]
        );
        let chain =
            &outline.item(&Name::alone("certificate", "main")).unwrap().keys["pairs.1.chain"];
        assert_eq!(outline.file(chain), Some(PathBuf::from("/etc/x/a.crt")));
    }

    #[test]
    fn shows_no_secret() {
        let outline = outline(
            "[upstream.a]\npassword = 'p'\npassword-file = 'f'\nproxy = 'http://u:p@h:1/x'\n",
        );
        assert_eq!(
            lines(&outline),
            [
                "upstream a: password = (secret)",
                "upstream a: password-file = \"f\"",
                "upstream a: proxy = \"http://***@h:1/x\"",
            ]
        );
    }

    #[test]
    fn finds_passwords_and_no_more() {
        for (text, shown) in [
            ("http://u:p@h:1/x", "http://***@h:1/x"),
            ("a = [\"http://u:p@h\", 'https://u@h']", "a = [\"http://***@h\", 'https://***@h']"),
            ("`http://u:p/q@h` is", "`http://***@h` is"),
            ("http://u:p@q@h", "http://***@h"),
            ("\"u:p@h:3128\"", "\"***@h:3128\""),
            ("${P:-http://u:\u{e9}@h}", "${P:-http://***@h}"),
            ("https://h:8443/@me https://h/@me me@h @", "https://h:8443/@me https://h/@me me@h @"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }
}
