//! File types of the logs.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::{Amount, Maybe, Written};

/// Format and destination of access-log lines.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AccessLogTable {
    /// `"stdout"`, `"off"`, or the path of a file, e.g. `"/var/log/app-gateway/access.log"`.
    pub file: Written<String>,
    /// Format of lines. Default `"json"`.
    pub format: Maybe<AccessLogFormatFile>,
    /// Start a new file when this one is full; `"off"` leaves rotation to logrotate. Default `{
    /// size = "100MiB", keep = 10 }`.
    pub rotate: Maybe<Rotate>,
    /// Further query parameters whose values are replaced by `***`, in any spelling of the name,
    /// e.g. `["phone"]`.
    pub mask: Maybe<Vec<Written<String>>>,
    /// Paths with segments that are replaced by `***`: `*` matches one segment, a `**` at the end
    /// all following ones, e.g. `"/rooms/*/files"`. Default: none.
    pub mask_path: Maybe<Vec<Written<String>>>,
}

/// Size of a log file, and number of old ones that are kept.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RotateFile {
    /// Largest size of a file, e.g. `"100MiB"`.
    pub size: Written<Amount>,
    /// Full files kept beside the current one: `access.log.1` is the latest. Default 10.
    pub keep: Maybe<i64>,
}

/// Format of access-log lines.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AccessLogFormatFile {
    /// One flat JSON object per line.
    Json,
    /// JSON with the field names of the Elastic Common Schema.
    Ecs,
    /// The combined format of nginx and Apache.
    Combined,
}

/// Lowest level that is logged.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LevelFile {
    /// Failures on which someone must act.
    Error,
    /// Also conditions on which someone may have to act.
    Warn,
    /// Also changes of state.
    Info,
    /// Also details for developers.
    Debug,
    /// Also every step.
    Trace,
}

/// Format of the gateway's own log.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormatFile {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
}

/// Destination of access-log lines.
#[derive(Debug)]
pub enum AccessLogFile {
    /// A keyword or a path.
    Word(String),
    /// A table with further settings.
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
    /// The gateway does not rotate the file.
    Off,
    /// The gateway rotates the file by these settings.
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
