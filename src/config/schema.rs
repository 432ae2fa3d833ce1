//! The JSON Schema of the configuration files, for editors.
//!
//! It is generated from the file types and their doc comments, as JSON Schema 2020-12 of one file.
//! It describes only the structure; `check` validates the rest.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::file::DirectoryFile;

/// The schema of a configuration file.
#[must_use]
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let mut schema = generator.into_root_schema_for::<DirectoryFile>();
    schema.insert("title".to_owned(), "app-gateway configuration".into());
    let mut schema = schema.to_value();
    without_null(&mut schema);
    schema
}

/// Removes `null`: keys are optional, but TOML has no null.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Object(keys) => {
            keys.values_mut().for_each(without_null);
            // `int64` is an implementation detail of the parser. A key of that name is a table.
            if keys.get("format").is_some_and(Value::is_string) {
                keys.remove("format");
            }
            if let Some(Value::Array(types)) = keys.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_mut_slice() {
                    let only = only.take();
                    keys.insert("type".to_owned(), only);
                }
            }
            if let Some(only) = sole_option(keys) {
                keys.remove("anyOf");
                keys.extend(only);
            }
        }
        _ => {}
    }
}

/// `X` of `anyOf: [X, null]`.
fn sole_option(keys: &Map<String, Value>) -> Option<Map<String, Value>> {
    let mut options =
        keys.get("anyOf")?.as_array()?.iter().filter(|option| option["type"] != "null");
    let only = options.next()?.as_object()?.clone();
    options.next().is_none().then_some(only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_describes_keys_without_null() {
        let schema = schema();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["additionalProperties"], false);
        assert!(!schema.to_string().contains("null"), "{schema:#}");
        let route = &schema["$defs"]["RouteFile"];
        assert_eq!(route["required"], serde_json::json!(["path"]));
        assert_eq!(route["properties"]["max-body"]["$ref"], "#/$defs/Size");
        assert_eq!(route["properties"]["retry"]["type"], "boolean");
        assert!(schema["$defs"]["AccessLogTable"]["properties"]["format"].is_object());
    }
}
