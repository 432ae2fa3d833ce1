//! What may be written about logs.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::{Amount, Maybe, Written};

/// How access-log lines are written, and where.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AccessLogTable {
    /// `"stdout"`, `"off"`, or the path of a file.
    pub file: Written<String>,
    /// How lines are written. Default `"json"`.
    pub format: Maybe<LineFile>,
    /// Start a new file when this one is full; `"off"`: never, because logrotate does it. Default
    /// `{ size = "100MiB", keep = 10 }`.
    pub rotate: Maybe<Rotate>,
    /// Further query parameters whose values are replaced by `***`, however the name is written.
    pub mask: Maybe<Vec<Written<String>>>,
    /// Paths with segments that are replaced by `***`: `*` stands for one, `**` at the end for all that
    /// follow, e.g. `"/rooms/*/files"`. Default: none.
    pub mask_path: Maybe<Vec<Written<String>>>,
}

/// When a new log file is started, and how many old ones are kept.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RotateFile {
    /// Largest size of a file, e.g. `"100MiB"`.
    pub size: Written<Amount>,
    /// Full files kept beside the present one: `access.log.1` is the latest. Default 10.
    pub keep: Maybe<i64>,
}

/// How access-log lines are written.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LineFile {
    /// One flat JSON object per line.
    Json,
    /// JSON in the names of the Elastic Common Schema.
    Ecs,
    /// As nginx and Apache write it.
    Combined,
}

/// How much is said.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LevelFile {
    /// What needs somebody.
    Error,
    /// And what may need somebody.
    Warn,
    /// And what happens.
    Info,
    /// And details.
    Debug,
    /// And every step.
    Trace,
}

/// How it is said.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VoiceFile {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Where access-log lines go.
#[derive(Debug)]
pub enum AccessLogFile {
    /// One of the words, or a path.
    Word(String),
    /// More about it.
    Table(Box<AccessLogTable>),
}

impl<'de> Deserialize<'de> for AccessLogFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = AccessLogFile;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"stdout\", \"off\", a path, or a table with `file`")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<AccessLogFile, E> {
                Ok(AccessLogFile::Word(word.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AccessLogFile, A::Error> {
                let table = AccessLogTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(AccessLogFile::Table(Box::new(table)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for AccessLogFile {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AccessLog".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where access-log lines go, and how they are written.",
            "oneOf": [{ "type": "string" }, generator.subschema_for::<AccessLogTable>()],
        })
    }
}

/// `"off"`, or a table; never an array, which serde would read field by field.
#[derive(Debug)]
pub enum Rotate {
    /// The file is not rotated by the gateway.
    Off,
    /// It is, like this.
    Table(RotateFile),
}

impl<'de> Deserialize<'de> for Rotate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Rotate;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"off\", or a table such as { size = \"100MiB\", keep = 10 }")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Rotate, E> {
                if word == "off" {
                    return Ok(Rotate::Off);
                }
                Err(E::invalid_value(de::Unexpected::Str(word), &self))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Rotate, A::Error> {
                RotateFile::deserialize(MapAccessDeserializer::new(map)).map(Rotate::Table)
            }
        }
        deserializer.deserialize_any(Table)
    }
}

impl JsonSchema for Rotate {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rotate".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [{ "const": "off" }, generator.subschema_for::<RotateFile>()] })
    }
}
