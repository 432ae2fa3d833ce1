//! The effective configuration as text: all files in one, variables expanded, defaults written out.
//!
//! Defaults come from the descriptions of the keys (see [`super::reference`]), so a key that is
//! added later is shown too. A default that the rest of a table does not permit, such as a key of
//! another kind of route, is found by checking the text and leaving the key out.
//!
//! In: the texts of a valid configuration. Out: TOML or JSON of the same meaning. Never: shows a
//! secret, or reads a file that a key names.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize as _;
use serde_json::json;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Table, Value};

use super::expand::{Env, expand};
use super::outline::{is_secret, without_credentials};
use super::problem::{Findings, Problem, Severity, SourceFile, Sources, Span};
use super::reference::{KeyReference, TableReference, ValueType, reference};
use super::{LoadedConfig, RejectedConfig};

/// Checks of the text before the rest of the problems is accepted.
const MAX_ROUNDS: usize = 20;

/// Names of the keys that lead to a value; tables of an array are numbered.
type KeyPath = Vec<String>;

/// A configuration with its defaults.
#[derive(Debug)]
pub struct EffectiveConfig {
    root: Table,
    /// Values and tables that are not in the files.
    defaults: HashSet<KeyPath>,
    /// Defaults that are not one fixed value, in words.
    remarks: HashMap<KeyPath, Vec<String>>,
}

impl EffectiveConfig {
    /// Adds the defaults to the texts of a valid configuration. `None` if the result would be
    /// rejected although the texts are not.
    #[must_use]
    pub fn new(sources: &Sources, directory: &Path, env: Env<'_>) -> Option<Self> {
        let mut written = Table::new();
        for source in &sources.files {
            let (mut root, _) = DeTable::parse_recoverable(&source.text);
            expand(root.get_mut(), 0, env, &mut Findings::default());
            let root = Spanned::new(root.span(), DeValue::Table(root.into_inner()));
            merge(&mut written, Table::deserialize(ValueDeserializer::from(root)).ok()?);
        }
        let tables: HashMap<_, _> =
            reference().into_iter().map(|table| (table.definition.clone(), table)).collect();
        let mut excluded = HashSet::new();
        for _ in 0..MAX_ROUNDS {
            let mut filled =
                Self { root: written.clone(), defaults: HashSet::new(), remarks: HashMap::new() };
            let mut root = std::mem::take(&mut filled.root);
            filled.fill(&mut root, "", &tables, &mut Vec::new(), &excluded);
            filled.root = root;
            let Rendered { text, defaults, .. } = filled.render(false);
            let problems = problems(text, directory);
            let found = problems.iter().flat_map(|problem| culprits(problem, &defaults));
            let found: Vec<_> = found.cloned().collect();
            if found.is_empty() {
                let is_valid = problems.iter().all(|one| one.severity == Severity::Warning);
                return is_valid.then_some(filled);
            }
            excluded.extend(found);
        }
        None
    }

    /// Adds the defaults of a table and of those inside it.
    fn fill(
        &mut self,
        table: &mut Table,
        definition: &str,
        tables: &HashMap<String, TableReference>,
        path: &mut KeyPath,
        excluded: &HashSet<KeyPath>,
    ) {
        let Some(reference) = tables.get(definition) else { return };
        for key in &reference.keys {
            path.push(key.name.clone());
            if !table.contains_key(&key.name) && !excluded.contains(path) {
                if let Some(value) = default_value(key, tables) {
                    table.insert(key.name.clone(), value);
                    self.defaults.insert(path.clone());
                } else if let Some(default) = &key.default {
                    let owner = path.get(..path.len() - 1).unwrap_or_default().to_vec();
                    let remark = format!("{}: {}", key.name, default.text);
                    self.remarks.entry(owner).or_default().push(remark);
                }
            }
            match (table.get_mut(&key.name), &key.value) {
                (Some(Value::Table(map)), ValueType::Map(inner)) => {
                    for (name, value) in map.iter_mut() {
                        let (Value::Table(table), Some(inner)) = (value, inner.table()) else {
                            continue;
                        };
                        path.push(name.clone());
                        self.fill(table, inner, tables, path, excluded);
                        path.pop();
                    }
                }
                (Some(Value::Array(list)), ValueType::List(inner)) => {
                    for (index, value) in list.iter_mut().enumerate() {
                        let (Value::Table(table), Some(inner)) = (value, inner.table()) else {
                            continue;
                        };
                        path.push(index.to_string());
                        self.fill(table, inner, tables, path, excluded);
                        path.pop();
                    }
                }
                (Some(Value::Table(table)), value) => {
                    if let Some(inner) = value.table() {
                        self.fill(table, inner, tables, path, excluded);
                    }
                }
                _ => {}
            }
            path.pop();
        }
    }

    /// The configuration as TOML. Defaults are marked; secrets are replaced by `***`.
    #[must_use]
    pub fn to_toml(&self) -> String {
        self.render(true).text
    }

    /// The configuration as JSON, with secrets replaced by `***`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!(masked("", &Value::Table(self.root.clone())))
    }

    fn render(&self, masks: bool) -> Rendered {
        let mut rendered = Rendered { masks, ..Rendered::default() };
        rendered.table(self, &self.root, &mut Vec::new(), "");
        rendered
    }
}

/// The value of an absent key; `None` if its absence has a meaning of its own.
fn default_value(key: &KeyReference, tables: &HashMap<String, TableReference>) -> Option<Value> {
    if let Some(default) = &key.default {
        let text = format!("x = {}", default.literal.as_ref()?);
        return text.parse::<Table>().ok()?.remove("x");
    }
    // A table of settings, each with a default.
    let ValueType::Table(inner) = &key.value else { return None };
    let is_optional = tables.get(inner)?.keys.iter().all(|key| !key.required);
    is_optional.then(|| Value::Table(Table::new()))
}

/// Adds the contents of a file: tables are merged, lists of tables are joined.
fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (Some(Value::Array(into)), Value::Array(from)) => into.extend(from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The problems of a text in place of the files of `directory`.
fn problems(text: String, directory: &Path) -> Vec<Problem> {
    let name = "the effective configuration".to_owned();
    let sources = Sources { files: vec![SourceFile { name, text }] };
    match super::load_sources(sources, Findings::default(), directory, &|_| None) {
        Ok(LoadedConfig { warnings, .. }) => warnings,
        Err(RejectedConfig { problems, .. }) => problems,
    }
}

/// The defaults at the positions of a problem.
fn culprits<'a>(
    problem: &Problem,
    defaults: &'a [(Range<usize>, KeyPath)],
) -> impl Iterator<Item = &'a KeyPath> {
    let related = problem.related.as_ref().map(|(place, _)| *place);
    let smallest = |place: Span| {
        let start = place.start as usize;
        let around = defaults.iter().filter(|(range, _)| range.contains(&start));
        around.min_by_key(|(range, _)| range.len()).map(|(_, path)| path)
    };
    problem.place.into_iter().chain(related).filter_map(smallest).collect::<Vec<_>>().into_iter()
}

/// TOML that is being written.
#[derive(Default)]
struct Rendered {
    text: String,
    masks: bool,
    /// Places of defaults in the text.
    defaults: Vec<(Range<usize>, KeyPath)>,
}

impl Rendered {
    // Writing to a String cannot fail; that is what `let _` stands for here.
    fn table(&mut self, config: &EffectiveConfig, table: &Table, path: &mut KeyPath, header: &str) {
        for (key, value) in table.iter().filter(|(_, value)| !is_tables(value)) {
            path.push(key.clone());
            let start = self.text.len();
            let _ = write!(self.text, "{} = {}", quoted(key), self.shown(key, value));
            if config.defaults.contains(path) {
                self.text.push_str("  # default");
                self.defaults.push((start..self.text.len(), path.clone()));
            }
            self.text.push('\n');
            path.pop();
        }
        for remark in config.remarks.get(path).into_iter().flatten() {
            let _ = writeln!(self.text, "# {remark}");
        }
        for (key, value) in table.iter().filter(|(_, value)| is_tables(value)) {
            path.push(key.clone());
            let start = self.text.len();
            let dot = if header.is_empty() { "" } else { "." };
            let name = format!("{header}{dot}{}", quoted(key));
            match value {
                Value::Array(list) => {
                    for (index, table) in list.iter().filter_map(Value::as_table).enumerate() {
                        path.push(index.to_string());
                        let _ = writeln!(self.text, "\n[[{name}]]");
                        self.table(config, table, path, &name);
                        path.pop();
                    }
                }
                Value::Table(table) => {
                    // A header alone says nothing about a table of tables.
                    let has_values = table.values().any(|value| !is_tables(value));
                    if has_values || table.is_empty() || config.remarks.contains_key(path) {
                        let _ = writeln!(self.text, "\n[{name}]");
                    }
                    self.table(config, table, path, &name);
                }
                _ => {}
            }
            if config.defaults.contains(path) {
                self.defaults.push((start..self.text.len(), path.clone()));
            }
            path.pop();
        }
    }

    fn shown(&self, key: &str, value: &Value) -> String {
        let value = if self.masks { masked(key, value) } else { value.clone() };
        escaped(value).to_string()
    }
}

/// Whether a value is written below a header of its own.
fn is_tables(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(list) => !list.is_empty() && list.iter().all(Value::is_table),
        _ => false,
    }
}

/// The value without secrets.
fn masked(key: &str, value: &Value) -> Value {
    match value {
        Value::String(text) => {
            // The name of a file that holds a secret may be displayed.
            let hides = is_secret(key) && !key.ends_with("-file");
            Value::String(if hides { "***".to_owned() } else { without_credentials(text) })
        }
        Value::Array(list) => Value::Array(list.iter().map(|value| masked(key, value)).collect()),
        Value::Table(table) => {
            let own = |(key, value): (&String, &Value)| (key.clone(), masked(key, value));
            Value::Table(table.iter().map(own).collect())
        }
        other => other.clone(),
    }
}

/// The value as it must be written, so that no `$` is read as a variable.
fn escaped(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace('$', "$$")),
        Value::Array(list) => Value::Array(list.into_iter().map(escaped).collect()),
        Value::Table(table) => {
            Value::Table(table.into_iter().map(|(key, value)| (key, escaped(value))).collect())
        }
        other => other,
    }
}

fn quoted(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !key.is_empty() && key.chars().all(is_bare) {
        return key.to_owned();
    }
    Value::String(key.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let config = EffectiveConfig {
            root: text.parse().unwrap(),
            defaults: HashSet::new(),
            remarks: HashMap::new(),
        };
        let json = config.to_json().to_string();
        let shown = config.to_toml();
        assert!(!json.contains("hunter2") && !shown.contains("hunter2"), "{json}\n{shown}");
        shown
    }

    #[test]
    fn shows_no_secret() {
        assert_eq!(
            shown(concat!(
                "token = 'hunter2'\npasswords = ['hunter2']\ntoken-file = 'token'\n",
                "proxy = 'http://user:hunter2@h:1/'\n[[parent]]\nendpoints = ['u:hunter2@h:1']\n",
                "[upstream.a]\nkey = \"-----BEGIN KEY-----\\nhunter2\\n-----END KEY-----\"\n",
            )),
            concat!(
                "token = \"***\"\npasswords = [\"***\"]\ntoken-file = \"token\"\n",
                "proxy = \"http://***@h:1/\"\n\n[[parent]]\nendpoints = [\"***@h:1\"]\n",
                "\n[upstream.a]\nkey = \"-----BEGIN KEY-----***-----END KEY-----\"\n",
            )
        );
    }

    #[test]
    fn writes_what_is_read_again() {
        let text = "a = \"$$x\"\n\n[b.\"c.d\"]\n\"e f\" = 1\n";
        assert_eq!(shown("a = '$x'\n[b.'c.d']\n'e f' = 1\n"), text);
    }

    #[test]
    fn merges_the_files_of_a_directory() {
        let mut root: Table = "[p.a]\nx = 1\n[[p.a.l]]\ny = 1\n".parse().unwrap();
        merge(&mut root, "[p.a]\nz = 2\n[[p.a.l]]\ny = 2\n[p.b]\nx = 3\n".parse().unwrap());
        let expected = "[p.a]\nx = 1\nz = 2\nl = [{y = 1}, {y = 2}]\n[p.b]\nx = 3\n";
        assert_eq!(root, expected.parse().unwrap());
    }
}
