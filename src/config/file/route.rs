//! File types of values of a route.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::Written;

/// Whether a route permits its requests for good or on trial.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum RouteModeFile {
    /// Serve them.
    Enforce,
    /// Serve them, and log and count them as ones that would be denied without this route.
    Report,
}

/// Origins that may show a page in a frame.
#[derive(Debug)]
pub enum FrameAncestors {
    /// One of the keywords.
    Word(String),
    /// A list of origins.
    Origins(Vec<Written<String>>),
}

impl<'de> Deserialize<'de> for FrameAncestors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = FrameAncestors;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"none\", \"self\", \"*\", or a list of origins")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<FrameAncestors, E> {
                Ok(FrameAncestors::Word(word.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<FrameAncestors, A::Error> {
                let mut origins = Vec::new();
                while let Some(origin) = seq.next_element()? {
                    origins.push(origin);
                }
                Ok(FrameAncestors::Origins(origins))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for FrameAncestors {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FrameAncestors".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Origins that may show the page in a frame.",
            "oneOf": [
                { "enum": ["none", "self", "*"] },
                { "type": "array", "minItems": 1, "items": { "type": "string" } },
            ],
        })
    }
}
