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
use app_gateway::config::{self, Config, Outline};

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

/// The debug output of the loaded configuration, without positions in files.
fn loaded_without_spans(dir: &Path, text: &str) -> String {
    fs::write(dir.join("a.toml"), text).unwrap();
    let loaded = config::load(dir, &|_| None).unwrap_or_else(|refused| {
        panic!("{}\n{text}", config::draw(&refused.sources, &refused.problems, false))
    });
    let config =
        Config { sources: Sources::default(), outline: Outline::default(), ..loaded.config };
    let mut shown = String::new();
    for (index, part) in format!("{config:?}").split("Span {").enumerate() {
        shown.push_str(if index == 0 { part } else { part.split_once('}').unwrap().1 });
    }
    shown
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
