//! Contents of the configuration files, item by item, for comparing two configurations in the
//! operator's terms.
//!
//! Built from the parsed files after the expansion of environment variables, and not from their
//! meaning. So a key that is added in future is compared too, every difference has a line, and two
//! directories with equal contents have equal outlines, regardless of comments, order and file
//! names.
//!
//! It contains named items with their keys, built from parsed files. Keys are not interpreted.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Span;

/// Keys that distinguish the tables of an array. Tables without one are keys of their item, except
/// routes of `[tcp.NAME]`, which are named by their first server name, or `any`.
const NAMING_KEYS: [&str; 3] = ["path", "listen", "name"];

/// Parts of the names of keys whose values must not be displayed.
const SECRET_KEY_PARTS: [&str; 4] = ["password", "secret", "token", "credential"];

/// Contents of all files of a directory. Kept as long as the configuration, which may have
/// thousands of routes, so items allocate no spare capacity.
#[derive(Debug, Default)]
pub struct Outline {
    directory: PathBuf,
    /// Sorted by name.
    items: Box<[(ItemName, OutlineItem)]>,
}

/// Keys of an item, unsorted.
type Keys = Vec<(Arc<str>, OutlineValue)>;

/// Builds an [`Outline`] while files are read.
#[derive(Debug, Default)]
pub(super) struct OutlineBuilder {
    items: BTreeMap<ItemName, (Span, Keys)>,
    /// Interned kinds, keys and names of containing items.
    words: BTreeSet<Arc<str>>,
}

/// Name of an item.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ItemName {
    /// `gateway`, `upstream`, `route`, …
    pub kind: Arc<str>,
    /// Containing item: the profile of a route; empty at the top level.
    pub within: Arc<str>,
    /// Name, path or address; empty if there is only one of the kind.
    pub name: Box<str>,
    /// Further distinction: the methods of a route.
    pub further: Box<str>,
}

/// A table, or several tables of one name.
#[derive(Debug)]
pub struct OutlineItem {
    /// Position of its first line.
    pub place: Span,
    /// Sorted by name.
    keys: Box<[(Arc<str>, OutlineValue)]>,
}

/// The value of a key.
#[derive(Debug)]
pub struct OutlineValue {
    /// Position of the value.
    pub place: Span,
    /// The string, or another value as TOML.
    text: Box<str>,
    is_text: bool,
    secret: bool,
}

impl fmt::Display for ItemName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        for part in [&self.name, &self.further].into_iter().filter(|part| !part.is_empty()) {
            write!(f, " {part}")?;
        }
        if self.within.is_empty() { Ok(()) } else { write!(f, " ({})", self.within) }
    }
}

impl OutlineValue {
    /// The value as TOML, secrets included, for comparisons.
    #[must_use]
    pub fn exact(&self) -> Cow<'_, str> {
        if self.is_text { format!("{:?}", self.text).into() } else { (*self.text).into() }
    }

    /// Whether the value must not be displayed.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.secret
    }

    /// The value for display, without passwords.
    #[must_use]
    pub fn shown(&self) -> String {
        if self.secret { "(secret)".to_owned() } else { without_credentials(&self.exact()) }
    }
}

impl Outline {
    /// The directory it was built from.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The items, sorted by name.
    pub fn items(&self) -> impl Iterator<Item = (&ItemName, &OutlineItem)> {
        self.items.iter().map(|(name, item)| (name, item))
    }

    /// The item of this name.
    #[must_use]
    pub fn item(&self, name: &ItemName) -> Option<&OutlineItem> {
        let index = self.items.binary_search_by(|(own, _)| own.cmp(name)).ok()?;
        self.items.get(index).map(|(_, item)| item)
    }

    /// The path of the file that a value names, if it names one.
    #[must_use]
    pub fn file(&self, value: &OutlineValue) -> Option<PathBuf> {
        value.is_text.then(|| self.directory.join(&*value.text).components().collect())
    }
}

impl OutlineItem {
    /// The keys, sorted by name; those of nested tables contain dots.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &OutlineValue)> {
        self.keys.iter().map(|(key, value)| (&**key, value))
    }

    /// The value of this key.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&OutlineValue> {
        let index = self.keys.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        self.keys.get(index).map(|(_, value)| value)
    }
}

impl OutlineBuilder {
    /// Builds the outline of `directory` from the files that have been added.
    pub(super) fn finish(self, directory: &Path) -> Outline {
        let items = self.items.into_iter().map(|(name, (place, mut keys))| {
            // A duplicate key is rejected elsewhere. The outline keeps the last one.
            keys.reverse();
            keys.sort_by(|(a, _), (b, _)| a.cmp(b));
            keys.dedup_by(|(a, _), (b, _)| a == b);
            (name, OutlineItem { place, keys: keys.into() })
        });
        Outline { directory: directory.to_owned(), items: items.collect() }
    }

    /// Adds the contents of a file.
    pub(super) fn add(&mut self, file: u16, root: &DeTable<'_>) {
        for (key, value) in root {
            let kind = key.get_ref().as_ref();
            let DeValue::Table(table) = value.get_ref() else { continue };
            let place = Span::of(file, &value.span());
            let named = !table.is_empty() && table.iter().all(|(_, v)| v.get_ref().is_table());
            if !named || matches!(kind, "gateway" | "admin" | "doctor") {
                let name = self.alone(kind, "");
                self.table(&name, (file, place), table);
                continue;
            }
            for (key, value) in table {
                let DeValue::Table(table) = value.get_ref() else { continue };
                let name = self.alone(kind, key.get_ref());
                self.table(&name, (file, Span::of(file, &value.span())), table);
            }
        }
    }

    fn table(&mut self, name: &ItemName, (file, place): (u16, Span), table: &DeTable<'_>) {
        let mut keys = Vec::new();
        for (key, value) in table {
            let key = key.get_ref().as_ref();
            match value.get_ref() {
                DeValue::Array(list) if !list.is_empty() && list.iter().all(names_itself) => {
                    for value in list {
                        let DeValue::Table(table) = value.get_ref() else { continue };
                        let part = self.part(name, key, table);
                        let place = Span::of(file, &value.span());
                        self.table(&part, (file, place), table);
                    }
                }
                _ => self.key(&mut keys, key, file, value),
            }
        }
        let item = self.items.entry(name.clone()).or_insert_with(|| (place, Vec::new()));
        if item.1.is_empty() {
            *item = (place, keys);
        } else {
            item.1.append(&mut keys);
        }
    }

    /// Adds a key, or the keys of the nested table that is its value.
    fn key(&mut self, keys: &mut Keys, key: &str, file: u16, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => {
                for (inner, value) in table {
                    self.key(keys, &format!("{key}.{}", inner.get_ref()), file, value);
                }
            }
            DeValue::Array(list)
                if !list.is_empty() && list.iter().all(|v| v.get_ref().is_table()) =>
            {
                for (index, value) in list.iter().enumerate() {
                    self.key(keys, &format!("{key}.{}", index + 1), file, value);
                }
            }
            plain => {
                let last = key.rsplit('.').next().unwrap_or(key);
                let text = plain.as_str();
                let value = OutlineValue {
                    place: Span::of(file, &value.span()),
                    text: text.map_or_else(|| written(plain).into(), Into::into),
                    is_text: text.is_some(),
                    // The name of a file that holds a secret may be displayed.
                    secret: is_secret(last) && !last.ends_with("-file"),
                };
                keys.push((self.word(key), value));
            }
        }
    }

    /// The interned copy of a word.
    fn word(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.words.get(word) {
            return Arc::clone(known);
        }
        let new = Arc::<str>::from(word);
        self.words.insert(Arc::clone(&new));
        new
    }

    fn alone(&mut self, kind: &str, name: &str) -> ItemName {
        let (kind, within) = (self.word(kind), self.word(""));
        ItemName { kind, within, name: name.into(), further: "".into() }
    }

    /// Name of a table of the array `key` of `owner`.
    fn part(&mut self, owner: &ItemName, key: &str, table: &DeTable<'_>) -> ItemName {
        let methods = table.get("methods").and_then(|v| v.get_ref().as_array());
        let methods = methods.into_iter().flatten().filter_map(|v| v.get_ref().as_str());
        let mut further = methods.collect::<Vec<_>>().join(",");
        if table.get("exact").is_some_and(|v| v.get_ref().as_bool() == Some(true)) {
            further.push_str(if further.is_empty() { "exact" } else { " exact" });
        }
        let alone = owner.name.is_empty();
        ItemName {
            kind: self.word(key),
            within: if alone { Arc::clone(&owner.kind) } else { self.word(&owner.name) },
            name: own_name(table).unwrap_or_default().into(),
            further: further.into(),
        }
    }
}

/// Whether a key holds a secret, or names a file that does.
#[must_use]
pub fn is_secret(key: &str) -> bool {
    SECRET_KEY_PARTS.iter().any(|word| key.contains(word))
}

fn names_itself(value: &Spanned<DeValue<'_>>) -> bool {
    value.get_ref().as_table().is_some_and(|table| own_name(table).is_some())
}

/// The value that distinguishes a table of an array from the others.
fn own_name<'a>(table: &'a DeTable<'_>) -> Option<&'a str> {
    let text = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str());
    let own = NAMING_KEYS.iter().find_map(|key| text(key));
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

/// `https://user:password@host` without the part before the `@`.
pub(super) fn without_credentials(text: &str) -> String {
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

/// Ranges of users and passwords in a text, up to their `@`: in URLs, and in text that looks like a
/// URL without its scheme. Prefers to cover too much: a `/` in a password does not end the host.
pub(super) fn credentials(text: &str) -> Vec<Range<usize>> {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`');
    let mut found = Vec::new();
    if let Some(pem) = pem_text(text) {
        found.push(pem);
        return found;
    }
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
                // The `@` is part of the path: `https://example.com:8443/@me`.
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

/// PEM text in place of a path: all sections and the text between them.
fn pem_text(text: &str) -> Option<Range<usize>> {
    const MARK: &str = "-----";
    let begin = text.find("-----BEGIN")? + "-----BEGIN".len();
    let start = text.get(begin..)?.find(MARK).map_or(begin, |end| begin + end + MARK.len());
    let end = text.rfind("-----END").filter(|end| *end >= start).unwrap_or(text.len());
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(text: &str) -> Outline {
        let mut draft = OutlineBuilder::default();
        draft.add(0, DeTable::parse(text).unwrap().get_ref());
        draft.finish(Path::new("/etc/x"))
    }

    fn lines(outline: &Outline) -> Vec<String> {
        let keys = outline.items().flat_map(|(name, item)| {
            item.keys().map(move |(key, value)| format!("{name}: {key} = {}", value.shown()))
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
        let main = outline.item(&OutlineBuilder::default().alone("certificate", "main")).unwrap();
        let chain = main.key("pairs.1.chain").unwrap();
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
    fn only_passwords_are_found() {
        for (text, shown) in [
            ("http://u:p@h:1/x", "http://***@h:1/x"),
            ("a = [\"http://u:p@h\", 'https://u@h']", "a = [\"http://***@h\", 'https://***@h']"),
            ("`http://u:p/q@h` is", "`http://***@h` is"),
            ("http://u:p@q@h", "http://***@h"),
            ("\"u:p@h:3128\"", "\"***@h:3128\""),
            ("${P:-http://u:\u{e9}@h}", "${P:-http://***@h}"),
            (
                "k = \"-----BEGIN KEY-----\\nMIG\\n-----END KEY-----\\n\"",
                "k = \"-----BEGIN KEY-----***-----END KEY-----\\n\"",
            ),
            ("-----BEGIN KEY-----\nMIG", "-----BEGIN KEY-----***"),
            ("-----BEGIN MIG", "-----BEGIN***"),
            ("https://h:8443/@me https://h/@me me@h @", "https://h:8443/@me https://h/@me me@h @"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }
}
