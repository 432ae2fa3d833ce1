//! File types of the self-test of a profile.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::Maybe;

/// Settings of the self-test.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SelfTestTable {
    /// Time for which a WebSocket and a long poll are left without data, 5 s to 2 min. Default
    /// `"30s"`, the interval of a Socket.IO heartbeat and the time for its answer.
    pub idle: Maybe<String>,
    /// Path of the Socket.IO route to test, or `"off"`, e.g. `"/socket.io/"`. Default: the
    /// profile's first route to an upstream whose path ends in `/socket.io/`.
    pub socket_io: Maybe<String>,
}

/// Whether there is a self-test, and its settings.
#[derive(Debug)]
pub enum SelfTestFile {
    /// Enabled with defaults, or disabled.
    Switch(bool),
    /// Enabled with these settings.
    Table(Box<SelfTestTable>),
}

impl<'de> Deserialize<'de> for SelfTestFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = SelfTestFile;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, or a table such as { idle = \"30s\" }")
            }
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<SelfTestFile, E> {
                Ok(SelfTestFile::Switch(on))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SelfTestFile, A::Error> {
                let table = SelfTestTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(SelfTestFile::Table(Box::new(table)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for SelfTestFile {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SelfTest".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Whether there is a self-test, and what it tries.",
            "oneOf": [{ "type": "boolean" }, generator.subschema_for::<SelfTestTable>()],
        })
    }
}
