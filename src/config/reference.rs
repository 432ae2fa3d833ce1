//! Keys of the configuration, table by table, as the schema describes them.
//!
//! Descriptions state defaults in a fixed form, "Default `"30s"`." or "Default: the profile's.",
//! and a test compares those of the first form with the code.
//!
//! In: the schema. Out: [`TableReference`]s. Never: bounds of values, which only `check` knows.

use std::ops::Range;

use serde_json::Value;

use super::schema::schema;

/// A table of the configuration files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TableReference {
    /// Name of its definition in the schema.
    pub definition: String,
    /// Its headers, e.g. `[[profile.NAME.route]]`; several if tables of one kind have several
    /// places.
    pub headers: Vec<String>,
    /// Description, on one line.
    pub description: String,
    /// Its keys, sorted by name.
    pub keys: Vec<KeyReference>,
}

/// A key of a table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyReference {
    /// Name.
    pub name: String,
    /// Type of its value.
    pub value: ValueType,
    /// Whether the table is rejected without it.
    pub required: bool,
    /// Value that is used without the key.
    pub default: Option<DefaultValue>,
    /// An example, as TOML.
    pub example: Option<String>,
    /// Description on one line, without default and example.
    pub description: String,
}

/// Default of a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DefaultValue {
    /// The value as TOML, if it is always the same.
    pub literal: Option<String>,
    /// The default in words, or the literal with a remark.
    pub text: String,
}

/// Type of a value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ValueType {
    /// Any string.
    Text,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A size: a string such as `"10MiB"`, or a number of bytes.
    Size,
    /// One of these strings, each with its description.
    Keyword(Vec<(String, String)>),
    /// A table with the keys of this definition.
    Table(String),
    /// A list of values.
    List(Box<Self>),
    /// A table whose keys the operator chooses.
    Map(Box<Self>),
    /// One of several types.
    Either(Vec<Self>),
}

impl ValueType {
    /// The definition of a table that may be the value.
    #[must_use]
    pub fn table(&self) -> Option<&str> {
        match self {
            Self::Table(definition) => Some(definition),
            Self::Either(types) => types.iter().find_map(Self::table),
            _ => None,
        }
    }
}

/// All tables, those inside others after them. The first one holds the tables of the top level.
#[must_use]
pub fn reference() -> Vec<TableReference> {
    let schema = schema();
    let mut tables = vec![table(&schema, "", &schema)];
    let mut next = 0;
    while let Some(done) = tables.get(next) {
        let outer = done.headers.first().cloned().unwrap_or_default();
        let outer = outer.trim_matches(['[', ']']).to_owned();
        for key in done.keys.clone() {
            let path = if outer.is_empty() { key.name } else { format!("{outer}.{}", key.name) };
            let (header, definition) = match &key.value {
                ValueType::Map(value) => (format!("[{path}.NAME]"), value.table()),
                ValueType::List(value) => (format!("[[{path}]]"), value.table()),
                value => (format!("[{path}]"), value.table()),
            };
            let Some(definition) = definition else { continue };
            if let Some(known) = tables.iter_mut().find(|one| one.definition == definition) {
                known.headers.push(header);
                continue;
            }
            let mut new = table(&schema["$defs"][definition], definition, &schema);
            new.headers.push(header);
            tables.push(new);
        }
        next += 1;
    }
    tables
}

fn table(definition: &Value, name: &str, schema: &Value) -> TableReference {
    let required = definition["required"].as_array();
    let is_required = |key: &str| required.is_some_and(|keys| keys.iter().any(|one| one == key));
    let keys = definition["properties"].as_object().into_iter().flatten();
    TableReference {
        definition: name.to_owned(),
        headers: Vec::new(),
        description: one_line(&definition["description"]),
        keys: keys
            .map(|(key, property)| self::key(key, property, is_required(key), schema))
            .collect(),
    }
}

fn key(name: &str, property: &Value, required: bool, schema: &Value) -> KeyReference {
    let mut description = one_line(&property["description"]);
    let default = default_value(&description).map(|(sentence, default)| {
        description.replace_range(sentence, "");
        default
    });
    let example = example(&description).map(|(place, example)| {
        description.replace_range(place, "");
        example
    });
    KeyReference {
        name: name.to_owned(),
        value: value_type(property, schema),
        required,
        default,
        example,
        description: description.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

fn one_line(text: &Value) -> String {
    text.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn value_type(property: &Value, schema: &Value) -> ValueType {
    if let Some(path) = property["$ref"].as_str() {
        let name = path.rsplit('/').next().unwrap_or(path);
        let definition = &schema["$defs"][name];
        return match definition["properties"] {
            Value::Object(_) => ValueType::Table(name.to_owned()),
            _ => value_type(definition, schema),
        };
    }
    if let Some(options) = property["oneOf"].as_array() {
        let is_keyword = |one: &&Value| one.get("const").is_some() || one.get("enum").is_some();
        let keywords: Vec<_> = options.iter().filter(is_keyword).flat_map(keywords).collect();
        let others = options.iter().filter(|one| !is_keyword(one));
        let mut types: Vec<_> = others.map(|one| value_type(one, schema)).collect();
        if !keywords.is_empty() {
            types.insert(0, ValueType::Keyword(keywords));
        }
        return if types.len() == 1 { types.remove(0) } else { ValueType::Either(types) };
    }
    match &property["type"] {
        Value::Array(_) => ValueType::Size,
        Value::String(name) => match name.as_str() {
            "integer" => ValueType::Integer,
            "boolean" => ValueType::Boolean,
            "array" => ValueType::List(Box::new(value_type(&property["items"], schema))),
            "object" => {
                ValueType::Map(Box::new(value_type(&property["additionalProperties"], schema)))
            }
            _ => ValueType::Text,
        },
        _ => ValueType::Text,
    }
}

fn keywords(option: &Value) -> Vec<(String, String)> {
    let word = |word: &Value| word.as_str().unwrap_or_default().to_owned();
    match option["enum"].as_array() {
        Some(words) => words.iter().map(|one| (word(one), String::new())).collect(),
        None => vec![(word(&option["const"]), one_line(&option["description"]))],
    }
}

/// The default that a description states, and the place of the sentence that states it.
#[must_use]
pub fn default_value(description: &str) -> Option<(Range<usize>, DefaultValue)> {
    const WORD: &str = "Default";
    let starts = description.match_indices(WORD).find(|(at, _)| {
        let before = description.get(..*at).unwrap_or_default();
        (before.is_empty() || before.ends_with(' '))
            && description.get(at + WORD.len()..).is_some_and(|rest| rest.starts_with([' ', ':']))
    });
    let start = starts?.0;
    let sentence = description.get(start..)?;
    let sentence = sentence.get(..sentence_end(sentence))?;
    let said = sentence.strip_prefix(WORD)?.trim_end_matches('.');
    let text = said.trim_start_matches(':').trim();
    let literal = match said.strip_prefix(' ') {
        Some(said) => literal(said),
        None => None,
    };
    let default = DefaultValue { literal, text: text.to_owned() };
    Some((start..start + sentence.len(), default))
}

/// The value at the start of a text: `"60s"`, `[443]`, `256`, `true`. A table is none, because to
/// write it may differ from its defaults: a `rotate` that is written is strict.
fn literal(text: &str) -> Option<String> {
    let literal = match text.strip_prefix('`') {
        Some(rest) => rest.split_once('`')?.0,
        None => text.split([' ', '.', ',', ';']).next()?,
    };
    let is_value = literal.starts_with(['"', '['])
        || literal.parse::<i64>().is_ok()
        || matches!(literal, "true" | "false");
    is_value.then(|| literal.to_owned())
}

/// Length of the first sentence; a full stop inside backticks does not end it.
fn sentence_end(text: &str) -> usize {
    let mut quoted = false;
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        match c {
            '`' => quoted = !quoted,
            '.' if !quoted && characters.peek().is_none_or(|(_, next)| *next == ' ') => {
                return at + 1;
            }
            _ => {}
        }
    }
    text.len()
}

/// The first example of a description, and the place of the phrase that gives it.
fn example(description: &str) -> Option<(Range<usize>, String)> {
    const PHRASE: &str = ", e.g. `";
    let start = description.find(PHRASE)?;
    let (example, rest) = description.get(start + PHRASE.len()..)?.split_once('`')?;
    // Further examples, or a remark, keep the phrase.
    let is_last = rest.starts_with(['.', ';', ',', ':']) || rest.is_empty();
    let end = if is_last { description.len() - rest.len() } else { start };
    Some((start..end, example.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(description: &str) -> Option<(Option<String>, String)> {
        default_value(description).map(|(_, default)| (default.literal, default.text))
    }

    #[test]
    fn reads_defaults_of_descriptions() {
        for (description, literal, text) in [
            ("Longest. Default `\"60s\"`.", Some("\"60s\""), "`\"60s\"`"),
            ("Default true. A poll never is.", Some("true"), "true"),
            ("Default `[443]`; with `deny`: any.", Some("[443]"), "`[443]`; with `deny`: any"),
            ("Largest. Default: the profile's.", None, "the profile's"),
            ("Default: `\"http\"` with a `path`.", None, "`\"http\"` with a `path`"),
            ("Hosts. Default port 443.", None, "port 443"),
            ("Default `{ size = \"1.5MiB\" }`.", None, "`{ size = \"1.5MiB\" }`"),
        ] {
            let expected = (literal.map(str::to_owned), text.to_owned());
            assert_eq!(found(description), Some(expected), "{description}");
        }
        assert_eq!(found("The default certificate."), None);
        assert_eq!(found("Defaults are fine."), None);
    }

    #[test]
    fn describes_every_table_of_the_schema() {
        let tables = reference();
        let find = |name: &str| tables.iter().find(|one| one.definition == name).unwrap();
        assert_eq!(find("RouteFile").headers, ["[[profile.NAME.route]]"]);
        assert_eq!(find("SelfTestTable").headers, ["[profile.NAME.route.self-test]"]);
        assert_eq!(find("ProxyProtocolFile").headers.len(), 3);
        let listen = find("ListenerFile").keys.iter().find(|key| key.name == "listen").unwrap();
        assert!(listen.required);
        assert_eq!(listen.example.as_deref(), Some("\"0.0.0.0:8443\""));
        let schema = schema();
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            let is_listed = tables.iter().any(|one| one.definition == *name);
            assert_eq!(is_listed, definition["properties"].is_object(), "{name}");
        }
        for table in &tables[1..] {
            assert!(!table.description.is_empty(), "{} has no description", table.definition);
            for key in &table.keys {
                assert!(!key.description.is_empty(), "{}: {}", table.definition, key.name);
            }
        }
    }
}
