//! The JSON Schema of the files, for editors.
//!
//! In: the file types and their doc comments. Out: JSON Schema 2020-12 of one file. Never: more
//! than the shape; what only `check` can know, it does not say.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::file::DirectoryFile;

/// The schema of a configuration file.
#[must_use]
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let mut schema = generator.into_root_schema_for::<DirectoryFile>();
    schema.insert("title".to_owned(), "app-gateway configuration".into());
    schema.to_value()
}
