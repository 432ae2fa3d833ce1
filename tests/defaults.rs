//! Checks that the defaults in the schema and in the documents are those of the code.
//!
//! Where a description contains "Default `"60s"`", writing that value must not change the loaded
//! configuration. A default in a table of `docs/` must be the same as in the schema.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use app_gateway::config::problem::Sources;
use app_gateway::config::reference::{self, KeyReference};
use app_gateway::config::{self, Config, EffectiveConfig, Env, Outline};

#[path = "common/config_templates.rs"]
mod config_templates;

use config_templates::template;

/// The value after "Default" as it would be written in TOML: `"60s"`, `[443]`, `256`, `true`.
fn documented(description: &str) -> Option<String> {
    reference::default_value(description).and_then(|(_, default)| default.literal)
}

/// Table, key and default of every key that has a default.
fn defaults() -> Vec<(String, String, String)> {
    let keys = reference::reference().into_iter().flat_map(|table| {
        let keys = table.keys.into_iter();
        keys.map(move |key| (table.definition.clone(), key))
    });
    let value = |key: &KeyReference| key.default.as_ref()?.literal.clone();
    keys.filter_map(|(table, key)| value(&key).map(|value| (table, key.name, value))).collect()
}

/// Loads a directory that has to be valid.
fn loaded(dir: &Path, env: Env<'_>) -> Config {
    let loaded = config::load(dir, env).unwrap_or_else(|refused| {
        let problems = config::draw(&refused.sources, &refused.problems, false);
        let texts = refused.sources.files.into_iter().map(|file| file.text);
        panic!("{problems}\n{}", texts.collect::<String>())
    });
    loaded.config
}

/// The debug output of a configuration, without positions in files.
fn without_spans(config: Config) -> String {
    let config = Config { sources: Sources::default(), outline: Outline::default(), ..config };
    let mut shown = String::new();
    for (index, part) in format!("{config:?}").split("Span {").enumerate() {
        shown.push_str(if index == 0 { part } else { part.split_once('}').unwrap().1 });
    }
    shown
}

fn loaded_without_spans(dir: &Path, text: &str) -> String {
    fs::write(dir.join("a.toml"), text).unwrap();
    without_spans(loaded(dir, &|_| None))
}

/// Asserts that the effective configuration of `dir`, saved as `dir/a.toml` or in another
/// directory, means the same, and returns its text.
fn assert_shown(dir: &Path, env: Env<'_>, copy: &Path) -> String {
    let original = loaded(dir, env);
    let effective = EffectiveConfig::new(&original.sources, dir, env).unwrap();
    let text = effective.to_toml();
    let original = without_spans(original);
    assert_eq!(loaded_without_spans(copy, &text), original, "{text}");
    // Everything is written out now, so there is nothing to add.
    let again = loaded(copy, &|_| None);
    let again = EffectiveConfig::new(&again.sources, copy, &|_| None).unwrap();
    assert_eq!(again.to_toml().replace("  # default", ""), text.replace("  # default", ""));
    text
}

#[test]
fn the_effective_configuration_means_the_same() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy("tests/check/dummy.pem", dir.path().join("dummy.pem")).unwrap();
    let mut tried = 0;
    for table in reference::reference() {
        let keys = std::iter::once(String::new()).chain(table.keys.into_iter().map(|key| key.name));
        let templates: BTreeSet<_> =
            keys.filter_map(|key| template(&table.definition, &key)).collect();
        for template in templates {
            fs::write(dir.path().join("a.toml"), template.replace('@', "")).unwrap();
            assert_shown(dir.path(), &|_| None, dir.path());
            tried += 1;
        }
    }
    assert!(tried > 25, "only {tried}");
}

#[test]
fn the_shipped_configuration_is_shown_with_its_defaults() {
    let (certs, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["gateway.crt", "gateway.key", "gateway-rsa.crt", "gateway-rsa.key", "ca.crt"] {
        fs::copy("tests/check/dummy.pem", certs.path().join(name)).unwrap();
    }
    let env = |name: &str| match name {
        "CERT_DIR" => Some(certs.path().display().to_string()),
        "HYBRID_CHAT_CA" => Some(certs.path().join("ca.crt").display().to_string()),
        "HYBRID_CHAT_HOST" => Some("10.0.0.5".to_owned()),
        _ => None,
    };
    let text = assert_shown(Path::new("config"), &env, copy.path());
    let defaults = text.lines().filter(|line| line.ends_with("  # default")).count();
    assert!(defaults > 200, "only {defaults}");
    assert!(text.contains("\nchain = ") && !text.contains("${"), "{text}");
}

#[test]
fn writing_a_documented_default_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy("tests/check/dummy.pem", dir.path().join("dummy.pem")).unwrap();
    let (mut wrong, all) = (Vec::new(), defaults());
    assert!(all.len() > 90, "only {} defaults", all.len());
    for (table, key, value) in all {
        let Some(template) = template(&table, &key) else {
            panic!("`{table}` has a default (`{key}`): add it to tests/common/config_templates.rs");
        };
        let without = loaded_without_spans(dir.path(), &template.replace('@', ""));
        let with =
            loaded_without_spans(dir.path(), &template.replace('@', &format!("{key} = {value}\n")));
        if with != without {
            wrong.push(format!("{table}: `{key}` is not {value} if it is left out"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_documents_state_the_defaults_of_the_schema() {
    let known: BTreeSet<(String, String)> =
        defaults().into_iter().map(|(_, key, value)| (key, value)).collect();
    let (mut wrong, mut compared) = (Vec::new(), 0);
    let entries = ["docs/guide", "docs/reference", "docs/operations"]
        .into_iter()
        .flat_map(|directory| fs::read_dir(directory).unwrap());
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let mut column = None;
        for line in fs::read_to_string(&path).unwrap().lines() {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            if cells.len() < 4 {
                column = None;
                continue;
            }
            if cells[1].contains("key") && !cells[1].contains('`') || cells[1].starts_with("key of")
            {
                column = cells.iter().position(|cell| *cell == "default");
                continue;
            }
            let Some(said) = column.and_then(|column| cells.get(column)) else { continue };
            let Some(value) = documented(&format!("Default {said}")) else { continue };
            // `"http"` with a `path`, else ...
            let rest = said.trim_start_matches('`').trim_start_matches(value.as_str());
            if !matches!(rest.trim_start_matches('`').chars().next(), None | Some(':' | ';')) {
                continue;
            }
            for key in cells[1].split('`').skip(1).step_by(2) {
                let key = key.rsplit('.').next().unwrap().to_owned();
                compared += 1;
                if !known.contains(&(key.clone(), value.clone())) {
                    wrong.push(format!("{}: `{key}` = {value}", path.display()));
                }
            }
        }
    }
    assert!(compared > 20, "only {compared}");
    assert!(wrong.is_empty(), "not in the schema:\n{}", wrong.join("\n"));
}
