//! Configuration keys: from the schema, with the bounds that `check` applies.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use app_gateway::config::reference::{KeyReference, TableReference, ValueType, reference};
use app_gateway::config::{self, problem::Problem};

use super::{code, table};

#[path = "../../../tests/common/config_templates.rs"]
mod config_templates;

/// One section for each table.
pub(super) fn sections() -> String {
    // A directory of its own, because `check` reads directories and opens the files they name.
    let directory = tempfile::tempdir().ok();
    let probe = directory.as_ref().map(|directory| Probe::new(directory.path()));
    let tables = reference();
    let shipped = Shipped::read(&tables);
    let mut out = String::new();
    let Some((top, tables)) = tables.split_first() else { return out };
    let top = top.keys.iter().map(|key| {
        let header = match &key.value {
            ValueType::Map(_) => format!("[{}.NAME]", key.name),
            _ => format!("[{}]", key.name),
        };
        let anchor = anchor(&header);
        [format!("[`{header}`](#{anchor})"), key.description.clone()]
    });
    out.push_str(&table(["table", "purpose"], top));
    for one in tables {
        section(one, probe.as_ref(), &shipped, &mut out);
    }
    out
}

fn anchor(header: &str) -> String {
    header.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
}

// Writing to a String cannot fail; that is what `let _` stands for here.
fn section(one: &TableReference, probe: Option<&Probe<'_>>, shipped: &Shipped, out: &mut String) {
    let [first, more @ ..] = one.headers.as_slice() else { return };
    let _ = writeln!(out, "\n### `{first}`\n\n{}", one.description);
    if !more.is_empty() {
        let more: Vec<_> = more.iter().map(|header| code(header)).collect();
        let _ = writeln!(out, "\nAlso {}.", more.join(" and "));
    }
    let rows = one.keys.iter().map(|key| {
        let checked = probe.and_then(|probe| probe.found(&one.definition, key));
        let default = match &key.default {
            _ if key.required => "required".to_owned(),
            Some(default) if default.literal.as_ref() == Some(&default.text) => code(&default.text),
            Some(default) => default.text.clone(),
            None => String::new(),
        };
        let example = example(key).or_else(|| shipped.example(&one.definition, &key.name));
        let literal = key.default.as_ref().and_then(|default| default.literal.as_ref());
        let example = example.filter(|example| Some(example) != literal);
        let example = example.as_deref().map(code).unwrap_or_default();
        [code(&key.name), kind(&key.value, checked), default, example, meaning(key)]
    });
    let _ = write!(out, "\n{}", table(["key", "value", "default", "example", "meaning"], rows));
}

/// A value that `check` found to be of a certain type or out of bounds.
struct Checked {
    is_duration: bool,
    /// `1s to 24h`.
    bounds: Option<String>,
}

fn kind(value: &ValueType, checked: Option<Checked>) -> String {
    let Checked { is_duration, bounds } =
        checked.unwrap_or(Checked { is_duration: false, bounds: None });
    let name = match value {
        ValueType::Text if is_duration => "duration".to_owned(),
        ValueType::Text => "string".to_owned(),
        ValueType::Integer => "integer".to_owned(),
        ValueType::Boolean => "boolean".to_owned(),
        ValueType::Size => "size".to_owned(),
        ValueType::Keyword(words) => {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("`\"{word}\"`")).collect();
            words.join(", ")
        }
        ValueType::Table(_) => "table".to_owned(),
        ValueType::List(inner) => match &**inner {
            ValueType::Text => "list of strings".to_owned(),
            ValueType::Integer => "list of integers".to_owned(),
            ValueType::Table(_) => "list of tables".to_owned(),
            inner => format!("list of {}", kind(inner, None)),
        },
        ValueType::Map(inner) => match &**inner {
            ValueType::Table(_) => "tables by name".to_owned(),
            ValueType::Text => "table of strings".to_owned(),
            inner => format!("table of {}", kind(inner, None)),
        },
        ValueType::Either(types) => {
            let types: Vec<_> = types.iter().map(|one| kind(one, None)).collect();
            types.join(", or ")
        }
    };
    match bounds {
        Some(bounds) => format!("{name}, {bounds}"),
        None => name,
    }
}

/// The description, with those of the words that may be the value.
fn meaning(key: &KeyReference) -> String {
    let mut meaning = key.description.clone();
    if let ValueType::Keyword(words) = &key.value {
        let described = words.iter().filter(|(_, text)| !text.is_empty());
        for (word, text) in described {
            let _ = write!(meaning, " `{word}`: {text}");
        }
    }
    meaning
}

/// The example of a description, which may show one value of a list.
fn example(key: &KeyReference) -> Option<String> {
    let example = key.example.clone()?;
    let is_one = matches!(key.value, ValueType::List(_)) && !example.starts_with('[');
    Some(if is_one { format!("[{example}]") } else { example })
}

/// Values of the shipped configuration: table, key, value.
struct Shipped(Vec<(String, String, toml::Value)>);

impl Shipped {
    fn read(tables: &[TableReference]) -> Self {
        let mut shipped = Self(Vec::new());
        let mut files: Vec<_> = fs::read_dir("config")
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file).unwrap_or_default();
            if let Ok(table) = text.parse::<toml::Table>() {
                shipped.add(tables, "", &table);
            }
        }
        shipped
    }

    fn add(&mut self, tables: &[TableReference], definition: &str, table: &toml::Table) {
        let Some(reference) = tables.iter().find(|one| one.definition == definition) else {
            return;
        };
        for key in &reference.keys {
            let Some(value) = table.get(&key.name) else { continue };
            match (&key.value, value) {
                (ValueType::Map(inner), toml::Value::Table(map)) if inner.table().is_some() => {
                    for table in map.values().filter_map(toml::Value::as_table) {
                        self.add(tables, inner.table().unwrap_or_default(), table);
                    }
                }
                (ValueType::List(inner), toml::Value::Array(list)) if inner.table().is_some() => {
                    for table in list.iter().filter_map(toml::Value::as_table) {
                        self.add(tables, inner.table().unwrap_or_default(), table);
                    }
                }
                (value_type, toml::Value::Table(table)) if value_type.table().is_some() => {
                    self.add(tables, value_type.table().unwrap_or_default(), table);
                }
                _ => self.0.push((definition.to_owned(), key.name.clone(), value.clone())),
            }
        }
    }

    /// The shortest value of a key that does not depend on the environment.
    fn example(&self, definition: &str, key: &str) -> Option<String> {
        let own = self.0.iter().filter(|(table, name, _)| table == definition && name == key);
        let texts = own.map(|(_, _, value)| value.to_string().trim().to_owned());
        texts.filter(|text| text.len() <= 60 && !text.contains('$')).min_by_key(String::len)
    }
}

/// Finds the bounds of values by having `check` reject one that is out of them.
struct Probe<'a> {
    directory: &'a Path,
}

impl<'a> Probe<'a> {
    fn new(directory: &'a Path) -> Self {
        // Without the file there is a further problem, which does not change the bounds.
        let _ = fs::copy("tests/check/dummy.pem", directory.join("dummy.pem"));
        Self { directory }
    }

    fn found(&self, table: &str, key: &KeyReference) -> Option<Checked> {
        const TOO_MUCH: &str = "9223372036854775807";
        let bounds = |value: &str| self.problem(table, &key.name, value, "value.bounds");
        let bounds = |values: &[&str]| {
            let label = values.iter().find_map(|value| bounds(value))?.label;
            Some(label.trim_start_matches("from ").to_owned())
        };
        match &key.value {
            ValueType::Text => {
                self.problem(table, &key.name, "\"?\"", "value.duration")?;
                let bounds = bounds(&["\"100000d\"", "\"1ms\"", "\"0s\""]);
                Some(Checked { is_duration: true, bounds })
            }
            ValueType::Integer | ValueType::Size => {
                Some(Checked { is_duration: false, bounds: bounds(&[TOO_MUCH, "-1"]) })
            }
            ValueType::List(inner) if **inner == ValueType::Integer => {
                let bounds = bounds(&[&format!("[{TOO_MUCH}]")]);
                Some(Checked { is_duration: false, bounds })
            }
            _ => None,
        }
    }

    /// The problem of this kind that `check` finds with `key = value` in a table.
    fn problem(&self, table: &str, key: &str, value: &str, code: &str) -> Option<Problem> {
        let template = config_templates::template(table, key)?;
        let (before, after) = template.split_once('@')?;
        // The template may need the key itself.
        let header = before.rfind("\n[").unwrap_or(0);
        let own = before
            .get(header..)?
            .lines()
            .filter(|line| line.strip_prefix(key).is_none_or(|rest| !rest.starts_with(" =")));
        let own = own.collect::<Vec<_>>().join("\n");
        let text = format!("{}{own}\n{key} = {value}\n{after}", before.get(..header)?);
        fs::write(self.directory.join("a.toml"), text).ok()?;
        let problems = config::load(self.directory, &|_| None)
            .map_or_else(|rejected| rejected.problems, |loaded| loaded.warnings);
        problems.into_iter().find(|problem| problem.code == code)
    }
}
